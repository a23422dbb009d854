"""Dashboard, alert rules and docs/observe.md speak of metrics that there are, and of all conditions."""

import json
import re
from pathlib import Path

import pytest
import yaml

from app.metrics import Metrics
from app.probes import Condition
from app.worker_state import WorkerState
from deploy.observe.dashboard import PANELS, dashboard
from processors.activity import Activity

_ROOT = Path(__file__).parents[2]
_METRIC = re.compile(r"\b(?:trs|process)_[a-z_]+\b")
_PROMETHEUS_OWN = ("_bucket", "_sum", "_count")


@pytest.fixture(scope="module")
def metrics() -> set[str]:
    """Names as Prometheus stores them, of every metric that a worker has."""
    activity = Activity("invoices")
    shown = Metrics(WorkerState("g", dict, activities={"invoices": activity}), version="0")
    activity.on_epoch.append(shown.note)
    with activity.epoch("invoices:0:1"):
        pass
    families = list(shown.registry.collect())
    assert families
    names = set()
    for family in families:
        if family.type == "histogram":
            names |= {family.name, *(family.name + suffix for suffix in _PROMETHEUS_OWN)}
        else:
            names.add(family.name + {"counter": "_total", "info": "_info"}.get(family.type, ""))
    return names | {"trs_broker_silent_seconds"}  # only with a broker


def rules() -> list[dict[str, str]]:
    """The alert rules."""
    (group,) = yaml.safe_load((_ROOT / "deploy/observe/alerts.yaml").read_text())["groups"]
    found: list[dict[str, str]] = group["rules"]
    return found


def test_dashboard_and_rules_use_metrics_that_there_are(metrics: set[str]) -> None:
    used = {n for _, _, expression, _ in PANELS for n in _METRIC.findall(expression)}
    used |= {n for rule in rules() for n in _METRIC.findall(rule["expr"])}
    assert used - metrics == set()


def test_dashboard_file_is_the_one_that_is_written() -> None:
    assert json.loads((_ROOT / "deploy/observe/dashboard.json").read_text()) == dashboard()


def test_rules_speak_of_conditions_that_there_are() -> None:
    named = {c for rule in rules() for c in re.findall(r'condition="(\w+)"', rule["expr"])}
    assert named <= {str(c) for c in Condition}


def test_page_of_docs_has_every_metric_condition_and_alert(metrics: set[str]) -> None:
    text = (_ROOT / "docs/observe.md").read_text()
    told = set(re.findall(r"`([a-z_A-Z]+)", text))
    ours = {n for n in metrics if n.startswith("trs_") and not n.endswith(_PROMETHEUS_OWN)}
    assert ours - told == set()
    assert {str(c) for c in Condition} - told == set()
    assert {rule["alert"] for rule in rules()} - told == set()
    assert {n for n in told if n.startswith("trs_")} - metrics == set()
