"""Dashboard, alert rules and docs/observe.md speak of metrics that there are, and of all conditions."""

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.broker_watch import BrokerWatch
from app.cloudwatch import NAMESPACE
from app.findings import TableReconciled
from app.lake_watch import LakeLook, LakeWatch
from app.metrics import Metrics
from app.probes import Condition, LagHistory
from app.settings import Settings
from app.worker_state import WorkerState
from connectors.kafka import KafkaConfig
from connectors.table_looks import TableLook
from deploy.observe.dashboard import PANELS, dashboard
from processors.activity import Activity
from processors.ports import StateMemory

_ROOT = Path(__file__).parents[2]
_METRIC = re.compile(r"\b(?:trs|process)_[a-z_]+\b")
_PROMTOOL = shutil.which("promtool")
_PROMETHEUS_OWN = ("_bucket", "_sum", "_count")


Metric = dict[str, set[str]]
"""Names of metrics as Prometheus stores them, with their labels."""


@pytest.fixture(scope="module")
def metrics() -> Metric:
    """Every metric that a worker has, with at least one sample each."""
    activity = Activity("invoices")
    place = ("aurora.trs.invoices", 0)
    kafka = BrokerWatch(KafkaConfig("127.0.0.1:1"), lambda: [place], dict, LagHistory(600.0), every_s=5.0)
    kafka.ends = {place: 1}
    lake = LakeWatch(Settings(lake="lake"), owns=lambda: True)
    now = datetime.now(UTC)
    compared = TableReconciled("skus", now, 1, 0, 0, "csv")
    lake.last = LakeLook(now, (TableLook("sku_log_folded", 1, 1, 1, 1, 1),), (compared,), (), ())
    state = WorkerState(
        "g",
        lambda: {"invoices": {"waiting_records": 1}},
        conflicts=lambda: {("invoice_log", "again"): 1},
        activities={"invoices": activity},
        broker=kafka,
        lake=lake,
        memory=lambda: StateMemory(1, 2, 0),
    )
    shown = Metrics(state, version="0")
    activity.on_epoch.append(shown.note)
    activity.opened(frozenset({0}), {})
    with activity.epoch("invoices:0:1") as notes:
        notes.known_through, notes.dead["not_json"], notes.ignored["tombstone"] = now, 1, 1
    found: Metric = {}
    for family in text_string_to_metric_families(shown.text().decode()):
        assert family.samples, f"{family.name} has no sample here"
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
        if family.type == "histogram":
            found.setdefault(family.name, set())
    return found


def rules() -> list[dict[str, str]]:
    """The alert rules."""
    (group,) = yaml.safe_load((_ROOT / "deploy/observe/alerts.yaml").read_text())["groups"]
    found: list[dict[str, str]] = group["rules"]
    return found


def test_dashboard_and_rules_use_metrics_that_there_are_with_labels_that_they_have(metrics: Metric) -> None:
    for expression in [*(expression for _, _, expression, _ in PANELS), *(rule["expr"] for rule in rules())]:
        used = set(_METRIC.findall(expression))
        assert used, expression
        assert used - metrics.keys() == set(), expression
        grouped = {label for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(", ")}
        selected = set(re.findall(r"(\w+)!?=\"", expression))
        for name in used:
            assert (grouped | selected) - metrics[name] == set(), expression


def test_dashboard_file_is_the_one_that_is_written() -> None:
    assert json.loads((_ROOT / "deploy/observe/dashboard.json").read_text()) == dashboard()


@pytest.mark.skipif(_PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")
def test_rules_ring_when_workers_and_counts_come_and_go() -> None:
    cases = Path(__file__).with_name("alert_cases.yaml")
    done = subprocess.run([str(_PROMTOOL), "test", "rules", str(cases)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_speak_of_conditions_that_there_are() -> None:
    named = {c for rule in rules() for c in re.findall(r'condition="(\w+)"', rule["expr"])}
    assert named <= {str(c) for c in Condition}


def test_page_of_docs_has_every_metric_condition_and_alert(metrics: Metric) -> None:
    text = (_ROOT / "docs/observe.md").read_text()
    told = set(re.findall(r"`([a-z_A-Z]+)", text))
    ours = {n for n in metrics if n.startswith("trs_") and not n.endswith((*_PROMETHEUS_OWN, "_created"))}
    assert ours - told == set()
    assert {str(c) for c in Condition} - told == set()
    assert {rule["alert"] for rule in rules()} - told == set()
    assert {n for n in told if n.startswith("trs_")} - metrics.keys() == set()


def test_every_alarm_has_a_row_that_says_which_test_makes_it_happen() -> None:
    _, _, after = (_ROOT / "docs/observe.md").read_text().partition("## Tests\n")
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in after.splitlines() if line.startswith("| `")]
    assert sorted(name.strip("`") for name, _, _ in rows) == sorted(
        [rule["alert"] for rule in rules()] + list(_of_cloudwatch())
    )
    for name, made, by in rows:
        ours = name.startswith("`Trs") or _of_cloudwatch()[name.strip("`")].get("Namespace") == NAMESPACE
        assert ("::" in by) == bool(made) == ours, f"{name}: what we measure ourselves is made to happen by a test"


def _of_cloudwatch() -> dict[str, dict[str, object]]:
    """What tells somebody, in the templates, with its properties; the alarms that scale tell nobody."""
    found: dict[str, dict[str, object]] = {}
    for template in ("foundation", "service", "debezium"):
        resources = json.loads((_ROOT / f"deploy/{template}.json").read_text())["Resources"]
        found |= {n: r["Properties"] for n, r in resources.items() if "AlarmTopicArn" in json.dumps(r)}
    return found
