"""Benchmarks that are told to end leave nothing behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import wait_until


def processes_of(folder: Path) -> set[int]:
    """Those that have the folder in their command or environment."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if os.fsencode(folder) in told:
            found.add(int(process.name))
    return found


@pytest.mark.long
def test_benchmarks_that_are_told_to_end_leave_no_server_and_no_worker(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "benchmarks", "--only", "freshness"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_until(lambda: any(tmp_path.glob("*/*/worker-*.json")), timeout_s=120, what="a worker is at work")
        assert len(processes_of(tmp_path)) >= 6, "program, benchmark, worker, broker, database and S3 server"
        process.send_signal(signal.SIGTERM)
        assert process.wait(150) == 128 + signal.SIGTERM
    finally:
        process.kill()
    wait_until(lambda: not processes_of(tmp_path), timeout_s=60, what="all that it started has ended")
    assert list(tmp_path.glob("trs-bench-stack-*")) == []
