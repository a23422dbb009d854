"""Detached processes of the stack: started in a session of their own, recognised by pid and creation time.

A record file per process outlives the command that started it. A process counts as ours only if both the pid and its
creation time match the record, so that a recycled pid is never signalled.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

_POLL_S = 0.05
_CLOCK_TOLERANCE_S = 1.0
"""Creation times are derived from the boot time, which wobbles a little when the clock is adjusted."""


def spawn(command: Sequence[str | Path], *, folder: Path, record: Path, log: Path, env: Mapping[str, str]) -> None:
    """Starts a detached process in `folder`, its output appended to `log`, and records it in `record`."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=folder,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    created = psutil.Process(process.pid).create_time()
    temporary = record.with_suffix(".new")
    temporary.write_text(json.dumps({"pid": process.pid, "create_time": created}), encoding="utf-8")
    temporary.replace(record)


def find(record: Path) -> psutil.Process | None:
    """The recorded process if it lives, else None (never started, ended, or the pid is somebody else's now)."""
    try:
        recorded = json.loads(record.read_text(encoding="utf-8"))
        process = psutil.Process(recorded["pid"])
        ours = abs(process.create_time() - recorded["create_time"]) <= _CLOCK_TOLERANCE_S
        return process if ours and process.status() != psutil.STATUS_ZOMBIE else None
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None


def stop(record: Path, *, timeout_s: float) -> bool:
    """Ends the recorded process and its group and waits for it; kills it after `timeout_s`. Returns whether it lived.

    The record is removed: from then on the process counts as stopped, not as crashed.
    """
    process = find(record)
    if process is not None:
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
            if not _ended(process, within_s=timeout_s):
                os.killpg(process.pid, signal.SIGKILL)
                _ended(process, within_s=timeout_s)
    record.unlink(missing_ok=True)
    return process is not None


def _ended(process: psutil.Process, *, within_s: float) -> bool:
    """Waits until the process has ended; one that its parent has not yet asked about (a zombie) has."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        with contextlib.suppress(psutil.TimeoutExpired):
            process.wait(_POLL_S)
            return True
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
    return False


def memory_bytes(process: psutil.Process) -> int:
    """Resident memory of the process and its children."""
    total = 0
    for member in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += member.memory_info().rss
    return total


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log file; empty if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 16_384))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""
