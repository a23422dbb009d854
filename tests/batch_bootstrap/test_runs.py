"""The folder in which rows are compared: gone at the end, and after a kill gone with the next run."""

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from batch_bootstrap.runs import work_folder

_KILLED = """
import sys
from pathlib import Path
from batch_bootstrap.runs import work_folder
with work_folder(Path(sys.argv[1])) as folder:
    (folder / "rows").write_text("personal")
    print("there", flush=True)
    sys.stdin.read()
"""


def test_work_folder_of_a_killed_process_goes_and_that_of_a_running_one_stays(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _KILLED, str(tmp_path)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
    killed, running = processes
    assert len(list(tmp_path.glob("*/rows"))) == 2
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    with work_folder(tmp_path) as mine:
        assert mine.is_dir()
        assert len(list(tmp_path.glob("*/rows"))) == 1
    running.communicate()
    assert [p.name for p in tmp_path.iterdir()] == ["turn"]


def test_folder_that_was_just_made_is_not_taken_for_left_over(tmp_path: Path) -> None:
    def work() -> bool:
        with work_folder(tmp_path) as mine:
            (mine / "rows").write_text("mine")
            return (mine / "rows").read_text() == "mine"

    with ThreadPoolExecutor(8) as pool:
        assert all(done.result() for done in [pool.submit(work) for _ in range(400)])
