"""When a worker is in trouble, on real activities and a clock of the test's own."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app.metrics import Metrics
from app.probes import Condition, LagHistory, Limits, outside_troubles, parked_troubles, stage_troubles
from app.traces import spans_of
from app.web import health_answer, ready_answer
from app.worker_state import WorkerState
from processors.activity import Activity
from processors.errors import FencedError


class Clock:
    """Seconds that pass when told."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Outside:
    """Kafka and store as they are seen."""

    silent_s: float = 0.0
    reason: str | None = None
    away: str | None = None


def grows(lags: list[int], every_s: float = 10.0) -> bool:
    clock = Clock()
    history = LagHistory(600.0, clock=clock)
    for lag in lags:
        history.note(lag)
        clock.now_s += every_s
    return history.growth() is not None


def test_lag_that_rises_for_the_whole_time_grows() -> None:
    assert grows([100 * n for n in range(61)])


def test_lag_that_epochs_take_away_again_and_again_does_not_grow() -> None:
    assert not grows([1000 * (n % 5) for n in range(61)])


def test_lag_of_a_burst_that_is_worked_off_does_not_grow() -> None:
    assert not grows([0] * 10 + [1_000_000 - 10_000 * n for n in range(51)])


def test_lag_is_not_judged_before_its_time() -> None:
    assert not grows([100 * n for n in range(30)])


@contextmanager
def old_epoch(age_s: float, monkeypatch: pytest.MonkeyPatch) -> Iterator[Activity]:
    """A stage whose epoch has been committing for so long."""
    activity = Activity("invoices")
    activity.opened(frozenset({0}), {})
    with activity.epoch("invoices:0:7"), activity.step("commit", "invoice_log"):
        monotonic = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: monotonic() + age_s)
        yield activity
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("age_s", "outside", "live"),
    [
        (100, Outside(), None),
        (200, Outside(), False),
        (700, Outside(), True),
        (700, Outside(silent_s=100), False),
        (700, Outside(away="S3 is away"), False),
    ],
)
def test_epoch_that_hangs_asks_for_a_restart_only_while_all_else_answers(
    age_s: float, outside: Outside, live: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with old_epoch(age_s, monkeypatch) as activity:
        found = stage_troubles({"invoices": activity}, Limits(), broker=outside, store=outside)
    assert [trouble.live for trouble in found] == ([] if live is None else [live])
    assert all("epoch invoices:0:7, committing invoice_log" in trouble.sentence for trouble in found)


def test_silent_broker_and_store_make_not_ready_and_never_dead() -> None:
    outside = Outside(silent_s=31, reason="timed out", away="S3 is away")
    found = outside_troubles(Limits(), broker=outside, store=outside)
    assert {t.condition: t.live for t in found} == {Condition.BROKER_LOST: False, Condition.STORE_AWAY: False}


def test_brokers_that_answer_every_look_never_count_as_lost_however_short_the_limit() -> None:
    for limit_s in (0.3, 3.0, 30.0, 600.0):
        limits = Limits(broker_lost_s=limit_s)
        just_before_the_next = Outside(silent_s=2 * limits.broker_look_s, reason=None, away=None)
        assert outside_troubles(limits, broker=just_before_the_next, store=None) == []


def stage_of(buckets: set[int], parked: set[int]) -> Activity:
    """A stage that was given both, and works on the first."""
    activity = Activity("accounts")
    activity.opened(frozenset(buckets), {}, parked=frozenset(parked))
    return activity


@pytest.mark.parametrize(
    ("buckets", "parked", "troubled"),
    [(set(), {10, 9}, True), ({0}, {9}, False), ({0}, set(), False), (set(), set(), False)],
)
def test_stage_troubles_by_parked_buckets_only_while_it_has_no_others(
    buckets: set[int], parked: set[int], troubled: bool
) -> None:
    found = parked_troubles({"accounts": stage_of(buckets, parked)})
    assert [(t.condition, t.sentence, t.live) for t in found] == troubled * [
        (
            Condition.PARKED,
            "stage accounts does nothing: a newer version of a feature set wrote its buckets 9, 10",
            False,
        )
    ]


def test_worker_with_a_stage_of_parked_buckets_is_healthy_and_not_ready_while_it_runs() -> None:
    activities = {"accounts": stage_of(set(), {0}), "skus": stage_of({0}, set())}
    state = WorkerState("g", dict, activities=activities, phase="running", buckets=frozenset({0}))
    status, answer = ready_answer(state)
    assert (status, [t["condition"] for t in answer["troubles"]]) == (503, ["parked"])
    assert health_answer(state)[0] == 200
    assert 'trs_trouble{condition="parked"} 1.0' in Metrics(state, version="0").text().decode().splitlines()
    assert len(state.alarms()) == 1

    activities["accounts"].opened(frozenset({1}), {}, parked=frozenset({0}))
    assert ready_answer(state)[0] == 200
    assert state.alarms() == ["buckets 0 are parked: a newer version of a feature set wrote them; deploy it here"]

    state.phase = "rebalancing"
    activities["accounts"].opened(frozenset(), {}, parked=frozenset({0}))
    assert [t.condition for t in state.troubles()] == [Condition.NOT_ASSIGNED]


def test_steps_of_an_epoch_follow_one_another_and_add_up() -> None:
    activity = Activity("accounts")
    seen = []
    activity.on_epoch.append(seen.append)
    with activity.epoch("accounts:0:1") as notes:
        notes.read = 3
        with activity.step("derive", "invoice_features"), activity.step("commit", "invoice_features_changes"):
            pass
    (trace,) = seen
    names = [step.name for step in trace.steps]
    assert names == ["apply", "derive", "commit", "derive", "apply"]
    assert sum(step.seconds for step in trace.steps) == pytest.approx(trace.seconds)
    assert activity.look().totals.applied == 3


@pytest.mark.parametrize(
    ("error", "told"), [(FencedError("another owner"), "another owner"), (ValueError("Mrs Smith"), "ValueError")]
)
def test_failed_epoch_is_told_without_the_words_of_libraries(error: Exception, told: str) -> None:
    activity = Activity("accounts")
    with pytest.raises(type(error)), activity.epoch("accounts:0:1"):
        raise error
    look = activity.look()
    assert (look.recent[0].failure, look.totals.epochs, look.running) == (told, 0, None)


def test_observer_that_fails_ends_no_epoch() -> None:
    activity = Activity("accounts")
    activity.on_epoch.append(lambda _: 1 / 0)  # type: ignore[arg-type,return-value]
    with activity.epoch("accounts:0:1"):
        pass
    assert activity.look().totals.epochs == 1


def test_epoch_is_a_trace_of_its_steps() -> None:
    spans, provider, activity = InMemorySpanExporter(), TracerProvider(), Activity("skus")
    provider.add_span_processor(SimpleSpanProcessor(spans))
    activity.on_epoch.append(spans_of(provider))
    with activity.epoch("skus:0:4") as notes, activity.step("commit", "sku_log"):
        notes.read = 1
    *steps, epoch = spans.get_finished_spans()
    assert epoch.name == "epoch skus"
    assert (epoch.attributes or {})["trs.epoch"] == "skus:0:4"
    assert [s.name for s in steps] == ["apply", "commit sku_log", "apply"]
    assert {s.parent.span_id for s in steps if s.parent} == {epoch.context.span_id}
