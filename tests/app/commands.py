"""Runs `trs` as a user does: a process of its own, with its own environment."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_TRS = Path(sys.executable).with_name("trs")


@dataclass(frozen=True)
class Answer:
    """What a command printed and how it ended."""

    out: str
    err: str
    code: int


def trs(*arguments: str, **environment: str) -> Answer:
    """Runs the command with these settings (`TRS_LAKE=…`) and checks that it shows no traceback."""
    done = subprocess.run(
        [str(_TRS), *arguments], capture_output=True, text=True, env=dict(os.environ) | environment, timeout=120
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert "nanobind" not in done.stderr, done.stderr
    return Answer(done.stdout, done.stderr, done.returncode)
