"""Folders for spilling: gone with their worker, however it ended, and never taken from one that lives."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = """
import signal, sys
from pathlib import Path
from app.spill_folder import make_spill_folder
folder = make_spill_folder(Path(sys.argv[1]))
(folder / "duckdb_temp_block").write_bytes(b"x" * 1000)
print(folder, flush=True)
sys.stdin.read()
"""


def start(home: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that lives until its input ends, and its folder."""
    command = [sys.executable, "-c", WORKER, str(home)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


@pytest.mark.parametrize("ended_by", [None, signal.SIGKILL])
def test_folder_goes_with_its_worker_or_with_the_next_and_others_stay(
    tmp_path: Path, ended_by: signal.Signals | None
) -> None:
    home = tmp_path / "home"
    lives, kept = start(home)
    ends, left = start(home)
    if ended_by is not None:
        ends.send_signal(ended_by)
    ends.communicate()
    assert left.exists() is (ended_by is not None)
    after, own = start(home)
    assert kept.exists() and own.exists() and not left.exists()
    for process in (lives, after):
        process.communicate()
    assert list(home.iterdir()) == []
