"""The capacity model: it gives back the runs that it was made of, grows as it should, and its page says the same."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors import capacity
from processors.capacity import HEADROOM, SIZES, Plan, gets_per_commit, limits, planned, quantities, tables
from processors.engine import look_every_s

PAGE = Path(__file__).parents[2] / "docs" / "capacity.md"
MEASURED = Path(__file__).parents[2] / "docs" / "performance.md"

plans = st.builds(
    Plan,
    lines=st.integers(1, 10**10),
    changes_per_s=st.floats(0, 1e5),
    workers=st.integers(1, 100),
    interval_s=st.floats(1, 3600),
    cores=st.integers(1, 16),
    memory_mb=st.integers(64, 120_000),
    cdc=st.booleans(),
)


def measured(row: str) -> list[float]:
    """The figures of a table's row in docs/performance.md; what stands in parentheses or after a comma is left out."""
    (cells,) = re.findall(rf"^\| {re.escape(row)} \|(.*)\|$", MEASURED.read_text(encoding="utf-8"), re.MULTILINE)
    return [float(re.findall(r"[\d.]+", cell)[0]) for cell in cells.split("|")]


def test_epoch_takes_what_it_was_measured_to_take() -> None:
    for lines, seconds in zip((101_000, 1_011_000, 10_096_000), measured("S3"), strict=True):
        plan = Plan(lines=lines, changes_per_s=0, workers=1, interval_s=1)
        assert plan.busy == pytest.approx(seconds, rel=0.12)


def test_commit_asks_what_it_was_counted_to_ask() -> None:
    writers = [int(n) for n in measured("writers")]
    assert writers[-1] == 64
    for count, reads in zip(writers, measured("reads"), strict=True):
        assert gets_per_commit(count) == pytest.approx(reads, rel=0.05)


def test_core_takes_the_changes_that_it_took() -> None:
    section = MEASURED.read_text(encoding="utf-8").partition("## Several workers")[2]
    told = re.search(r"all of its ([\d,]+) lines are corrected(?:.|\n)*?\| 1 \| ([\d.]+) s ", section)
    assert told is not None
    assert int(told[1].replace(",", "")) / float(told[2]) == pytest.approx(capacity.EVENTS_PER_CORE_S, rel=0.01)


def test_recovery_of_ten_million_lines_takes_what_it_took() -> None:
    plan = Plan(lines=10_096_234, changes_per_s=0, workers=1, interval_s=10)
    assert plan.rows == pytest.approx(2_250_320 + 10_096_234, rel=0.02)
    assert plan.recovery_s == pytest.approx(9.5, rel=0.05)
    assert plan.state_mb == pytest.approx(1_800, rel=0.02)
    assert replace(plan, memory_mb=1_000).recovery_s > 3 * plan.recovery_s  # it spills


@given(plans, st.sampled_from(["lines", "changes_per_s"]))
def test_more_of_the_source_never_needs_less(plan: Plan, what: str) -> None:
    more = replace(plan, **{what: getattr(plan, what) * 2})
    assert all(m.value >= q.value for m, q in zip(quantities(more), quantities(plan), strict=True))
    before = {limit.name: limit.use for limit in limits(plan)}
    assert all(limit.use >= before[limit.name] for limit in limits(more))


@given(plans)
def test_one_worker_more_has_less_to_do_and_reads_more_of_the_others(plan: Plan) -> None:
    more = replace(plan, workers=plan.workers + 1)
    assert more.state_mb < plan.state_mb
    assert more.busy < plan.busy
    assert more.gets_per_s > plan.gets_per_s
    assert more.gets_per_s / more.workers >= plan.gets_per_s / plan.workers


@given(plans)
def test_longer_interval_asks_less_of_the_store(plan: Plan) -> None:
    longer = replace(plan, interval_s=plan.interval_s * 2)
    assert longer.gets_per_s < plan.gets_per_s
    assert longer.writes_per_s < plan.writes_per_s
    assert longer.busy < plan.busy


@given(plans)
def test_what_is_planned_fits_and_what_is_given_stays(plan: Plan) -> None:
    assert planned(plan) == plan
    found = planned(replace(plan, workers=0, interval_s=0.0))
    assert found.state_mb <= found.memory_mb
    exceeded = {limit.name for limit in limits(found) if limit.use > HEADROOM}
    log_of_one_table = {"commits of one table", "reads of one table's log"}
    assert not exceeded & log_of_one_table or found.interval_s == capacity.INTERVALS_S[-1]


@given(plans)
def test_limits_come_in_their_order_and_a_diff_only_without_change_data_capture(plan: Plan) -> None:
    found = limits(plan)
    assert [limit.use for limit in found] == sorted((limit.use for limit in found), reverse=True)
    assert any(limit.name == "diff within its interval" for limit in found) is not plan.cdc


@pytest.mark.parametrize(("interval_s", "every_s"), [(0.2, 0.2), (1.0, 1.0), (3.0, 1.0), (10.0, 2.5), (60.0, 15.0)])
def test_looks_for_news_are_rarer_where_epochs_are_and_never_rarer_than_they(interval_s: float, every_s: float) -> None:
    assert look_every_s(interval_s) == every_s
    plan = Plan(lines=1_000_000, changes_per_s=1, workers=3, interval_s=interval_s)
    assert plan.looks_per_s == pytest.approx(3 * 4 / every_s)


def test_sizes_of_the_page_work() -> None:
    assert all(limits(plan)[0].use <= 1 for plan in SIZES.values())


def test_page_has_the_tables_as_they_are_printed() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for table in tables().strip().split("\n\n"):
        assert table in page, "python -m processors.capacity"


def test_page_has_every_measured_constant_with_its_value() -> None:
    source = Path(capacity.__file__).read_text(encoding="utf-8")
    measured = source[source.index("# --- measured") : source.index("# --- of AWS")]
    names = re.findall(r"\b([A-Z][A-Z_]+)\b(?=.* = )", "\n".join(re.findall(r"^[A-Z_, ]+ = .*$", measured, re.M)))
    told = re.findall(r"^\| `([A-Z_]+)` \| ([\d.,]+) \|", PAGE.read_text(encoding="utf-8"), re.M)
    assert {name: float(value.replace(",", "")) for name, value in told} == {
        name: float(getattr(capacity, name)) for name in names
    }
