"""Runs `trs` as a user does: in this process (fast), or in one of its own (to see what is printed at its exit)."""

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from app.cli.main import main

_TRS = Path(sys.executable).with_name("trs")


@dataclass(frozen=True)
class Answer:
    """What a command printed and how it ended."""

    out: str
    err: str
    code: int


def trs(*arguments: str, **environment: str) -> Answer:
    """The command with these settings (`TRS_LAKE=…`); what it does not turn into an exit is raised."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        patch.dict(os.environ, environment),
        patch.object(sys, "argv", ["trs", *arguments]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return Answer(out.getvalue(), err.getvalue(), code)


def trs_process(*arguments: str, **environment: str) -> Answer:
    """The same in a process of its own."""
    environment = dict(os.environ) | environment
    done = subprocess.run([str(_TRS), *arguments], capture_output=True, text=True, env=environment, timeout=120)
    return Answer(done.stdout, done.stderr, done.returncode)
