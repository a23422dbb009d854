"""The worker's line of metrics, of a real engine on a lake in a folder."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog

from app.cloudwatch import DIMENSION, NAMESPACE, UNITS, CloudWatchMetrics
from app.logs import configure_logging
from app.settings import Settings
from connectors.delta_lake import DeltaLake
from connectors.lake import LakeLocation
from tests.processors.test_engine import INVOICE, SKU, Shell, Topics, event


@pytest.fixture
def topics() -> Topics:
    made = Topics()
    made.add("skus", event("skus", "r", 1, SKU))
    made.add("invoices", event("invoices", "c", 3, INVOICE), b"no JSON", b"nor this")
    return made


def test_line_has_every_metric_and_counts_a_refused_record_once(tmp_path: Path, topics: Topics) -> None:
    shell = Shell(DeltaLake(LakeLocation(str(tmp_path / "lake"))), topics, tmp_path / "spill")
    metrics = CloudWatchMetrics("workers", shell.engine.status)
    try:
        shell.engine.expect({("test.invoices", 0): 5})
        behind = metrics.line(datetime.now(UTC))
        shell.settle()
        now = datetime.now(UTC) + timedelta(seconds=90)
        settled, later = metrics.line(now), metrics.line(now)
    finally:
        shell.engine.stop()
    assert behind["Lag"] == 5
    assert (settled["Lag"], settled["DeadLetters"], settled["Alarms"]) == (0, 2, 0)
    assert later["DeadLetters"] == 0
    assert 90 <= settled["WatermarkAgeSeconds"] < 90 + 60
    (directive,) = settled["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == NAMESPACE
    assert directive["Dimensions"] == [[DIMENSION]]
    assert {m["Name"]: m["Unit"] for m in directive["Metrics"]} == UNITS
    assert all(name in settled for name in (DIMENSION, *UNITS))


def test_worker_without_buckets_tells_no_age() -> None:
    stage = {"waiting_records": 0, "behind_records": 0, "dead": 0, "alarms": [], "parked": [], "buckets": []}
    line = CloudWatchMetrics("g", lambda: {"skus": {**stage, "committed_at": "2024-05-01T00:00:00+00:00"}}).line(
        datetime.now(UTC)
    )
    assert "WatermarkAgeSeconds" not in line
    assert "WatermarkAgeSeconds" not in json.dumps(line["_aws"])


def test_json_log_has_the_members_where_cloudwatch_looks_for_them(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings(log_format="json"))
    structlog.get_logger("trs.test").info("metrics", **CloudWatchMetrics("g", dict).line(datetime.now(UTC)))
    line = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert line["_aws"]["CloudWatchMetrics"][0]["Namespace"] == NAMESPACE
    assert (line[DIMENSION], line["Lag"]) == ("g", 0)
