"""How a worker ends: told to, failing, and when something keeps it."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from app.settings import Settings
from tests.app.worker_process import Ledger, Start, WorkerProcess, environment, produce, share
from tests.waiting import wait_until


def wait_until_it_commits(settings: Settings, worker: WorkerProcess) -> None:
    """Gives it a record whose commit has begun; a second one could come when the commit already keeps the engine."""
    produce(settings, "invoices", 1)

    def commits() -> bool:
        return bool(json.loads(worker.get("/status.json")[1])["engine"] == {"records": 1, "queued": 0})

    wait_until(commits, timeout_s=30, what="the engine commits the record")


def test_worker_unreachable_broker_says_so_in_one_line(settings: Settings, ledger: Ledger) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = settings.model_copy(update={"kafka": f"127.0.0.1:{taken.getsockname()[1]}"})
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "tests.app.recording_engine", str(ledger.file)],
            env=environment(nobody),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 4
    assert len(done.stderr.splitlines()) == 1
    assert nobody.kafka in done.stderr
    assert time.monotonic() - began < 45


def test_worker_whose_home_cannot_be_written_ends_with_one_line(settings: Settings, start: Start) -> None:
    settings.home.symlink_to("/sys")  # not even root makes files there

    worker = start()

    assert worker.wait() == 5, worker.log
    assert f"{settings.home}/worker-{worker.pid}.new: " in worker.log
    assert "Traceback" not in worker.log


@pytest.mark.parametrize(("kind", "code", "line"), [("fenced", 8, "another owner"), ("fault", 70, "a slip")])
def test_worker_engine_failure_ends_with_its_exit_code(
    settings: Settings, start: Start, kind: str, code: int, line: str
) -> None:
    produce(settings, "invoices", 100)

    worker = start("--fail-after", "50", "--fail-with", kind)

    assert worker.wait() == code
    assert line in worker.log
    assert ("Traceback" in worker.log) == (kind == "fault")


def test_worker_sigterm_while_busy_ends_clean_within_10_s(settings: Settings, ledger: Ledger, start: Start) -> None:
    worker = start("--slow-commit", "1")
    wait_until(lambda: share(ledger, worker), timeout_s=90, what="the worker owns all")
    produce(settings, "invoices", 5000)
    wait_until(lambda: bool(ledger.positions()), timeout_s=20, what="a first commit")

    began = time.monotonic()
    assert worker.stop() == 0, worker.log

    assert time.monotonic() - began < 10
    assert "Traceback" not in worker.log
    admin = AdminClient({"bootstrap.servers": settings.kafka})
    assert admin.describe_consumer_groups([settings.group])[settings.group].result(20).members == []
    for place, offsets in ledger.offsets().items():
        assert offsets == list(range(ledger.positions()[place]))


def test_worker_that_is_stopped_while_it_loads_state_ends_clean(start: Start) -> None:
    worker = start("--slow-load", "60")
    wait_until(lambda: "loading state" in worker.log, timeout_s=90, what="the worker loads")
    assert worker.stop() == 0, worker.log
    assert "Traceback" not in worker.log


def test_worker_second_sigint_ends_at_once(settings: Settings, ledger: Ledger, start: Start) -> None:
    worker = start("--slow-commit", "30")
    wait_until(lambda: share(ledger, worker), timeout_s=90, what="the worker owns all")
    wait_until_it_commits(settings, worker)

    worker.process.send_signal(signal.SIGINT)
    wait_until(lambda: "stopping" in worker.log, timeout_s=10, what="the worker stops")
    worker.process.send_signal(signal.SIGINT)

    assert worker.wait(5) == 130


def test_worker_whose_look_at_the_lake_hangs_ends_in_order_when_told(start: Start, ledger: Ledger) -> None:
    worker = start("--until-caught-up", "--stuck-progress")
    asked = "SELECT 1 FROM calls WHERE name = 'progress'"
    wait_until(lambda: ledger.rows(asked), timeout_s=90, what="the worker asks how far the engine is")
    began = time.monotonic()

    assert worker.stop() == 0

    assert time.monotonic() - began < 5
    assert " stopped " in worker.log.splitlines()[-1], worker.log


def test_worker_whose_commit_does_not_end_is_gone_in_the_time_that_it_has_to_stop(
    settings: Settings, ledger: Ledger, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRS_STOP_TIMEOUT_S", "2")
    worker = start("--slow-commit", "600")
    wait_until(lambda: share(ledger, worker), timeout_s=90, what="the worker owns all")
    wait_until_it_commits(settings, worker)

    assert worker.stop() == 0, worker.log

    assert "the engine does not end" in worker.log
    assert "in _commit_batches" in worker.log  # what kept it, in the dump of its threads
    admin = AdminClient({"bootstrap.servers": settings.kafka})
    assert admin.describe_consumer_groups([settings.group])[settings.group].result(20).members == []
    assert ledger.positions() == {}


@pytest.mark.long
def test_worker_that_a_task_keeps_ends_after_10_s_and_shows_its_threads(settings: Settings, start: Start) -> None:
    produce(settings, "invoices", 10)
    worker = start("--stubborn-task")
    wait_until(lambda: '"records": 10' in worker.get("/status.json")[1], timeout_s=60, what="the task has begun")

    assert worker.stop() == 0

    assert "the process does not end by itself" in worker.log
    assert "in run_worker" in worker.log  # in the dump of its threads


def test_worker_that_is_stopped_ends_a_round_of_upkeep_within_seconds(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The round waits for an object store that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("TRS_UPKEEP_EVERY", "1s")
        monkeypatch.setenv("TRS_LAKE", "s3://bucket/lake")
        monkeypatch.setenv("TRS_AWS_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        for name in ("TRS_AWS_ACCESS_KEY", "TRS_AWS_SECRET_KEY"):
            monkeypatch.setenv(name, "any")
        worker = start()

        def rounds() -> list[int]:
            children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
            return [int(pid) for pid in children if b"maintain" in Path(f"/proc/{pid}/cmdline").read_bytes()]

        wait_until(lambda: bool(rounds()), timeout_s=60, what="a round has begun")
        (running,), seen = rounds(), time.monotonic()
        wait_until(lambda: time.monotonic() - seen > 5, timeout_s=10, what="one that did not wait would have ended")
        assert rounds() == [running]
        began = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - began < 15
        wait_until(lambda: not Path(f"/proc/{running}").exists(), timeout_s=5, what="the round has ended")
