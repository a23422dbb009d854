"""`trs capacity`: the model's answer for people and for programs."""

import json

from processors.capacity import Plan, limits, planned, quantities
from tests.app.commands import trs


def test_table_has_every_need_and_every_limit() -> None:
    answer = trs("capacity", "--lines", "10000000", "--changes-per-second", "10")
    plan = planned(Plan(lines=10_000_000, changes_per_s=10))
    assert answer.code == 0
    assert all(q.name in answer.out and str(q) in answer.out for q in quantities(plan))
    assert all(limit.name in answer.out for limit in limits(plan))


def test_json_has_what_was_given_and_exit_code_1_says_that_a_limit_is_exceeded() -> None:
    answer = trs("capacity", "--lines", "100000000", "--workers", "100", "--interval-s", "10", "--json")
    told = json.loads(answer.out)
    assert told["plan"]["memory_mb"] == Plan(lines=1, changes_per_s=0).memory_mb
    assert (told["plan"]["workers"], told["plan"]["interval_s"]) == (100, 10)
    assert told["limits"][0]["name"] == "commits of one table"
    assert told["limits"][0]["use"] > 1
    assert answer.code == 1


def test_no_lines_are_refused() -> None:
    assert trs("capacity", "--lines", "0").code == 2
