"""docs/runbooks/index.md has a line for whatever may ring, with the way on, and none for what there is not."""

import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from app.probes import Condition
from deploy.alarms import alarms
from deploy.debezium import debezium_template
from processors.alarms import STRUCTURAL, AlarmKind
from processors.exit_codes import ADVICE, markdown

_ROOT = Path(__file__).parents[1]
_SIGNALS = {code for code in re.findall(r"\b\d{3}\b", markdown()) if int(code) > 128}


@cache
def rows() -> dict[str, dict[str, str]]:
    """By heading, what a line's first cell names, and the rest of the line."""
    found: dict[str, dict[str, str]] = {}
    for part in (_ROOT / "docs/runbooks/index.md").read_text().split("\n## ")[1:]:
        heading, _, text = part.partition("\n")
        lines = [line.strip("| ").split(" | ", 1) for line in text.splitlines() if line.startswith("| ")]
        found[heading] = {n: rest for cell, rest in lines[2:] for n in cell.replace("`", "").split(", ")}
    return found


def alerts() -> set[str]:
    (group,) = yaml.safe_load((_ROOT / "deploy/observe/alerts.yaml").read_text())["groups"]
    return {rule["alert"] for rule in group["rules"]}


def alarms_of_cloudwatch() -> set[str]:
    connectors = {n for n, r in debezium_template()["Resources"].items() if r["Type"] == "AWS::CloudWatch::Alarm"}
    return {*alarms(), *connectors}


@pytest.mark.parametrize(
    ("heading", "rings"),
    [
        ("Alerts", alerts()),
        ("Alarms of CloudWatch", alarms_of_cloudwatch()),
        ("Conditions", {str(condition) for condition in Condition}),
        ("Alarms of `trs status`", {str(kind) for kind in AlarmKind}),
        ("Exit codes", {"0", *(str(code) for code in ADVICE), *_SIGNALS}),
    ],
)
def test_every_name_that_may_ring_has_its_line_and_no_line_another_name(heading: str, rings: set[str]) -> None:
    assert set(rows()[heading]) == rings
    assert set(rows()) == {"Alerts", "Alarms of CloudWatch", "Conditions", "Alarms of `trs status`", "Exit codes"}


def test_a_reason_that_speaks_of_the_sources_structure_has_an_alarm() -> None:
    assert {str(reason) for reason in STRUCTURAL} <= {str(kind) for kind in AlarmKind}


def test_every_line_leads_to_a_page_or_to_a_line_that_does_or_says_that_nothing_is_to_be_done() -> None:
    known = {name for lines in rows().values() for name in lines}
    lost = []
    for lines in rows().values():
        for name, rest in lines.items():
            like = re.findall(r"\bas `(\w+)`", rest)
            if set(like) - known or not (like or "](" in rest or re.search(r"\bnothing\b", rest)):
                lost.append(f"{name}: {rest}")
    assert lost == []
