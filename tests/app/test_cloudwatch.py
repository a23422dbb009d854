"""The worker's line of metrics, of a real engine on a lake in a folder."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog

from app.broker_watch import BrokerWatch, Place
from app.cloudwatch import DIMENSION, NAMESPACE, UNITS, CloudWatchMetrics
from app.logs import configure_logging
from app.probes import LagHistory
from app.settings import Settings
from app.worker_state import WorkerState
from connectors.delta_lake import DeltaLake
from connectors.kafka import KafkaConfig
from connectors.lake import LakeLocation
from processors.activity import Activity
from tests.processors.engine_shell import INVOICE, SKU, Shell, Topics, event


@pytest.fixture
def topics() -> Topics:
    made = Topics()
    made.add("skus", event("skus", "r", 1, SKU))
    made.add("invoices", event("invoices", "c", 3, INVOICE), b"no JSON", b"nor this")
    return made


def test_line_has_every_metric_and_counts_a_refused_record_once(tmp_path: Path, topics: Topics) -> None:
    shell = Shell(DeltaLake(LakeLocation(str(tmp_path / "lake"))), topics, tmp_path / "spill")
    activities = shell.engine.activities

    def committed() -> dict[Place, int]:
        return {place: offset for a in activities.values() for place, offset in a.look(0).positions.items()}

    watch = BrokerWatch(KafkaConfig("127.0.0.1:1"), lambda: list(watch.ends), committed, LagHistory(600.0), every_s=5.0)
    watch.ends = {("test.invoices", 0): 5, ("test.skus", 0): 1}
    metrics = CloudWatchMetrics(WorkerState("workers", shell.engine.status, activities=activities, broker=watch))
    try:
        behind = metrics.line(datetime.now(UTC))
        shell.settle()
        now = datetime.now(UTC) + timedelta(seconds=90)
        settled, later = metrics.line(now), metrics.line(now)
    finally:
        shell.engine.stop()
    assert behind["Lag"] == 6
    assert (settled["Lag"], settled["DeadLetters"], settled["Alarms"]) == (2, 2, 0)
    assert later["DeadLetters"] == 0
    assert 90 <= settled["WatermarkAgeSeconds"] < 90 + 60
    (directive,) = settled["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == NAMESPACE
    assert directive["Dimensions"] == [[DIMENSION]]
    assert {m["Name"]: m["Unit"] for m in directive["Metrics"]} == UNITS
    assert all(name in settled for name in (DIMENSION, *UNITS))


def test_partition_that_went_to_another_worker_does_not_lag_here() -> None:
    """Its position went with it; what the brokers hold of it is not all unread."""
    places: list[Place] = [("t", 0), ("t", 1)]
    committed = {("t", 0): 1_000, ("t", 1): 1_000}
    watch = BrokerWatch(KafkaConfig("127.0.0.1:1"), lambda: places, lambda: committed, LagHistory(600.0), every_s=5.0)
    watch.ends = {("t", 0): 1_001, ("t", 1): 1_002}
    assert watch.lag == {("t", 0): 1, ("t", 1): 2}
    places.remove(("t", 1))
    del committed["t", 1]
    assert watch.lag == {("t", 0): 1}
    metrics = CloudWatchMetrics(WorkerState("g", dict, broker=watch))
    assert metrics.line(datetime.now(UTC))["Lag"] == 1
    places.clear()
    assert "Lag" not in json.dumps(metrics.line(datetime.now(UTC)))


def test_worker_without_buckets_tells_no_age() -> None:
    activity = Activity("skus")
    activity.opened(frozenset({0}), {})
    with activity.epoch("skus:0:1") as notes:
        notes.known_through = datetime.now(UTC)
    metrics = CloudWatchMetrics(WorkerState("g", dict, activities={"skus": activity}))
    assert metrics.line(datetime.now(UTC))["WatermarkAgeSeconds"] < 60
    activity.opened(frozenset(), {})
    line = metrics.line(datetime.now(UTC))
    assert "WatermarkAgeSeconds" not in line
    assert "WatermarkAgeSeconds" not in json.dumps(line["_aws"])


def test_json_log_has_the_members_where_cloudwatch_looks_for_them(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings(log_format="json"))
    structlog.get_logger("trs.test").info(
        "metrics", **CloudWatchMetrics(WorkerState("g", dict)).line(datetime.now(UTC))
    )
    line = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert line["_aws"]["CloudWatchMetrics"][0]["Namespace"] == NAMESPACE
    assert (line[DIMENSION], line["DeadLetters"]) == ("g", 0)
