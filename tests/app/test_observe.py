"""The probes and metrics of a running worker, on a real broker with the recording engine."""

import json

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.settings import Settings
from tests.app.worker_process import Start, WorkerProcess, produce
from tests.waiting import wait_until

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(worker: WorkerProcess) -> Samples:
    """What /metrics says, as Prometheus itself reads it."""
    status, text = worker.get("/metrics")
    assert status == 200
    families = text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(found: Samples, name: str, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


def test_worker_that_commits_is_ready_and_its_metrics_count_what_it_read(settings: Settings, start: Start) -> None:
    worker = start()
    produce(settings, "invoices", 300)
    wait_until(
        lambda: value(samples(worker), "trs_events_total", stage="all", outcome="applied") == 300.0,
        timeout_s=60,
        what="the metrics count all records",
    )
    topic = f"{settings.topic_prefix}.invoices"
    wait_until(
        lambda: value(samples(worker), "trs_lag_records", topic=topic, partition="1") == 0.0,
        timeout_s=20,
        what="Kafka was asked where the partition ends",
    )
    assert worker.get("/ready")[0] == worker.get("/health")[0] == 200
    found = samples(worker)
    assert value(found, "trs_ready") == value(found, "trs_live") == 1.0
    assert (value(found, "trs_epoch_duration_seconds_count", stage="all") or 0) >= 1
    assert (value(found, "process_resident_memory_bytes") or 0) > 10_000_000
    assert worker.stop() == 0


def test_worker_whose_commit_does_not_end_is_not_ready_and_says_which(
    settings: Settings, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRS_STUCK_EPOCH_S", "1")
    monkeypatch.setenv("TRS_IDLE_EPOCH_S", "0.5")
    monkeypatch.setenv("TRS_EPOCH_INTERVAL_S", "0.5")
    worker = start("--slow-commit", "600")
    produce(settings, "invoices", 3)
    wait_until(lambda: "stuck_epoch" in worker.get("/ready")[1], timeout_s=60, what="the stuck epoch makes /ready fail")
    status, body = worker.get("/ready")
    (trouble,) = json.loads(body)["troubles"]
    assert status == 503
    assert "stage all has ended no epoch" in trouble["sentence"]
    assert "committing batches" in trouble["sentence"]
    assert value(samples(worker), "trs_trouble", condition="stuck_epoch") == 1.0
    wait_until(lambda: worker.get("/health")[0] == 503, timeout_s=30, what="a restart is asked for in the end")
    assert value(samples(worker), "trs_live") == 0.0


def test_worker_whose_event_loop_is_stuck_asks_for_a_restart(
    settings: Settings, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRS_STUCK_LOOP_S", "2")
    worker = start("--stuck-loop")
    wait_until(lambda: worker.get("/ready")[0] == 200, timeout_s=60, what="the worker is ready")
    produce(settings, "invoices", 1)
    wait_until(lambda: worker.get("/health")[0] == 503, timeout_s=30, what="a restart is asked for")
    (told,) = json.loads(worker.get("/health")[1])["troubles"]
    assert told.startswith("the event loop has been stuck for ")
    assert worker.get("/ready")[0] == 503
    found = samples(worker)
    assert value(found, "trs_live") == value(found, "trs_ready") == 0.0
    assert value(found, "trs_trouble", condition="event_loop") == 1.0
    assert "event_loop" in json.loads(worker.get("/status.json")[1])["conditions"]
