"""What a running worker tells of itself, on its pages and in its log."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.local_workers import local_workers
from app.settings import Settings
from connectors.lake import LakeLocation, LakeStore
from tests.app.commands import trs
from tests.app.worker_process import Start, produce
from tests.waiting import wait_until


def test_worker_pages_say_live_ready_and_what_it_does(start: Start) -> None:
    worker = start()
    wait_until(lambda: worker.get("/ready")[0] == 200, timeout_s=30, what="the worker is ready")

    assert worker.get("/health")[0] == 200
    status = json.loads(worker.get("/status.json")[1])
    assert status["buckets"] == [0, 1, 2, 3]
    assert status["engine"] == {"records": 0, "queued": 0}
    assert "trs worker" in worker.get("/")[1]


def test_worker_that_loads_state_says_how_far_it_is_and_is_not_ready(
    settings: Settings, start: Start, tmp_path: Path
) -> None:
    worker = start("--slow-load", "25")  # `trs status` waits 8 s for a Kafka that is not there
    assert worker.get("/ready")[0] == 503
    shown: dict[str, Any] = {}

    def loads() -> bool:
        shown.update(json.loads(worker.get("/status.json")[1]))
        return shown["loading"] is not None and shown["loading"]["share"] > 0

    wait_until(loads, timeout_s=60, what="the worker loads state")
    code, said = worker.get("/ready")
    assert (code, json.loads(said)["phase"], json.loads(said)["ready"]) == (503, "loading state", False)
    assert worker.get("/health")[0] == 200
    assert (shown["phase"], shown["loading"]["stage"], shown["loading"]["share"] < 1) == (
        "loading state",
        "invoices",
        True,
    )
    there = {"TRS_HOME": str(settings.home), "TRS_LAKE": str(tmp_path / "lake"), "TRS_KAFKA": "127.0.0.1:1"}
    told = trs("status", **there).out
    assert f"worker {worker.pid}: loading state, stage invoices, reading rows, " in told
    assert "% of 1,000 rows in" in told

    wait_until(lambda: worker.get("/ready")[0] == 200, timeout_s=60, what="the worker is ready")
    lines = [line for line in worker.log.splitlines() if "loading state" in line]
    first, second, *later = (int(line.split("done=")[1].split("%")[0]) for line in lines)
    assert first < 15 and second - first >= 20, "after a second, and 5 s later"
    assert 1 <= len(later) <= 3, "and every 5 s"
    assert "folded_rows=900 log_rows=100" in lines[0]
    assert f"worker {worker.pid}: running, 4 buckets" in trs("status", **there).out
    assert worker.stop() == 0
    assert "worker " not in trs("status", **there).out


def test_worker_that_loads_for_a_moment_says_nothing_of_it(start: Start) -> None:
    worker = start("--slow-load", "0.7")  # is looked at every half second
    wait_until(lambda: worker.get("/ready")[0] == 200, timeout_s=60, what="the worker is ready")
    assert "loading" not in worker.log


def test_worker_json_log_is_one_object_per_line(settings: Settings, start: Start) -> None:
    worker = start("--fail-after", "0", log_format="json")
    produce(settings, "invoices", 10)
    assert worker.wait() == 70
    events = [json.loads(line)["event"] for line in worker.log.splitlines()]
    assert events[0] == "pages"
    assert "a fault of the program" in events


def test_upkeep_that_fails_is_told_and_the_worker_goes_on_until_a_round_succeeds(
    settings: Settings, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = settings.home / "lake of upkeep"
    monkeypatch.setenv("TRS_UPKEEP_EVERY", "1s")
    monkeypatch.setenv("TRS_UPKEEP_BUDGET_PERCENT", "100")
    monkeypatch.setenv("TRS_LAKE", str(lake))
    worker = start()

    def upkeep() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(worker.get("/status.json")[1])["upkeep"]
        return found

    wait_until(lambda: upkeep()["failure"] is not None, timeout_s=60, what="a round has failed")
    assert "there is no lake" in upkeep()["failure"]
    assert "upkeep failed; it is tried again" in worker.log
    (told,) = [str(w) for w in local_workers(settings.home) if w.pid == worker.pid]
    assert "upkeep failed: there is no lake" in told
    assert worker.get("/health")[0] == 200
    LakeStore(LakeLocation(str(lake))).create()
    wait_until(lambda: upkeep()["failure"] is None, timeout_s=60, what="a round succeeds")
    assert upkeep()["last_actions"] > 0
    assert worker.stop() == 0
