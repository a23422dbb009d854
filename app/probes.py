"""What is wrong with a worker, each condition with its sentence: `/health` and `/ready` answer by it, metrics count it.

Live is what a restart mends; everything else only makes the worker not ready, because an orchestrator that kills
workers while Kafka or S3 is away would make them load their state again and again (docs/observe.md).
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from processors.activity import Activity, Look


class Condition(StrEnum):
    """Each trouble that a worker can tell of, with what it means; the names are labels of `trs_trouble`."""

    meaning: str

    def __new__(cls, name: str, meaning: str) -> "Condition":
        condition = str.__new__(cls, name)
        condition._value_ = name
        condition.meaning = meaning
        return condition

    FAILURE = "failure", "The worker failed, a refused commit for example, and ends."
    EVENT_LOOP = "event_loop", "The event loop has not turned for TRS_STUCK_LOOP_S."
    STUCK_EPOCH = "stuck_epoch", "A stage has ended no epoch for TRS_STUCK_EPOCH_S longer than it may rest."
    BROKER_LOST = "broker_lost", "Kafka has not answered for TRS_BROKER_LOST_S."
    STORE_AWAY = "store_away", "The lake's object store does not answer."
    LAG_GROWS = "lag_grows", "Records arrive faster than they are committed, for TRS_LAG_GROWS_S."
    PARKED = "parked", "A newer version of a feature set wrote every bucket of a stage, which leaves them alone."
    NOT_ASSIGNED = "not_assigned", "The worker has no buckets for certain: it starts, joins, loads state or stops."


@dataclass(frozen=True)
class Trouble:
    """A condition that holds now. `live`: a restart mends it, so that the worker should be killed for it."""

    condition: Condition
    sentence: str
    live: bool = False


@dataclass(frozen=True)
class Limits:
    """When a condition holds. Seconds; `lag_records`: a lag below it never troubles.

    `rest_s`: how long a stage may do nothing. A stuck epoch is worth a restart after LIVE_TIMES `stuck_epoch_s`.
    """

    stuck_epoch_s: float = 120.0
    stuck_loop_s: float = 15.0
    rest_s: float = 30.0
    broker_lost_s: float = 30.0
    lag_grows_s: float = 300.0
    lag_records: int = 10_000

    @property
    def broker_look_s(self) -> float:
        """How often the brokers are asked: several times before they count as lost, and often while the lag grows."""
        return min(_LOOK_S, self.broker_lost_s / _LOOKS_UNTIL_LOST, self.lag_grows_s / _LOOKS_AT_LAG)


LIVE_TIMES = 5
_LOOK_S = 5.0
_LOOKS_UNTIL_LOST = 3
_LOOKS_AT_LAG = 20
"""Within TRS_LAG_GROWS_S at least, so that they tell whether it grows."""


class Broker(Protocol):
    """What is known of the brokers."""

    @property
    def silent_s(self) -> float:
        """How long ago they answered last."""

    @property
    def reason(self) -> str | None:
        """Why the last look failed, None if it did not."""


class Store(Protocol):
    """What is known of the lake's object store."""

    @property
    def away(self) -> str | None:
        """Why it does not answer, None while it does."""


class LagHistory:
    """Whether the lag of a worker grows. An epoch takes records away at once, so single values tell nothing.

    It grows when each half of the time looked at is full of samples, and the least lag of the later half is above the
    greatest of the earlier: no single epoch, and no burst that is being worked off, does that.
    """

    def __init__(self, span_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._span_s = span_s
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque()

    def note(self, lag: int) -> None:
        """The lag over all partitions now."""
        now_s = self._clock()
        self._samples.append((now_s, lag))
        while self._samples[0][0] < now_s - self._span_s:
            self._samples.popleft()

    def forget(self) -> None:
        """After a rebalance the lag is another one."""
        self._samples.clear()

    def growth(self) -> tuple[int, int] | None:
        """The greatest lag of the earlier half and the one now, if it grows."""
        now_s = self._clock()
        samples = [s for s in list(self._samples) if s[0] >= now_s - self._span_s]
        middle_s = now_s - self._span_s / 2
        earlier = [lag for at_s, lag in samples if at_s < middle_s]
        later = [lag for at_s, lag in samples if at_s >= middle_s]
        if not earlier or not later or samples[0][0] > now_s - self._span_s * 0.9:
            return None
        return (max(earlier), samples[-1][1]) if min(later) > max(earlier) else None


def stuck(look: Look, limits: Limits) -> float | None:
    """For how long a stage has ended no epoch, if that is too long: a resting one commits an empty one now and then."""
    if not look.buckets or look.rests_s is None or look.rests_s < limits.stuck_epoch_s + limits.rest_s:
        return None
    return look.rests_s


def stage_troubles(
    activities: Mapping[str, Activity], limits: Limits, *, broker: Broker | None, store: Store | None
) -> list[Trouble]:
    """Stages that are stuck. Worth a restart only while everything that an epoch waits for answers."""
    found = []
    outside = (broker is not None and broker.silent_s >= limits.broker_lost_s) or (
        store is not None and store.away is not None
    )
    for name, activity in activities.items():
        look = activity.look(0)
        silent_s = stuck(look, limits)
        if silent_s is not None:
            doing = "none is under way" if look.running is None else str(look.running)
            live = not outside and silent_s >= LIVE_TIMES * limits.stuck_epoch_s + limits.rest_s
            sentence = f"stage {name} has ended no epoch for {silent_s:.0f} s ({doing})"
            found.append(Trouble(Condition.STUCK_EPOCH, sentence, live))
    return found


def parked_troubles(activities: Mapping[str, Activity]) -> list[Trouble]:
    """Stages that do nothing, because all that they were given is parked; no worker of this version would do more.

    A stage that has buckets beside parked ones works: in a roll-out old workers have both.
    """
    found = []
    for name, activity in activities.items():
        look = activity.look(0)
        if look.parked and not look.buckets:
            told = ", ".join(map(str, sorted(look.parked)))
            sentence = f"stage {name} does nothing: a newer version of a feature set wrote its buckets {told}"
            found.append(Trouble(Condition.PARKED, sentence))
    return found


def outside_troubles(limits: Limits, *, broker: Broker | None, store: Store | None) -> list[Trouble]:
    """Kafka or the store does not answer; a new worker would fare no better."""
    found = []
    if broker is not None and broker.silent_s >= limits.broker_lost_s:
        why = "" if broker.reason is None else f": {broker.reason}"
        found.append(Trouble(Condition.BROKER_LOST, f"Kafka has not answered for {broker.silent_s:.0f} s{why}"))
    if store is not None and store.away is not None:
        found.append(Trouble(Condition.STORE_AWAY, store.away))
    return found


def lag_troubles(history: LagHistory, limits: Limits) -> list[Trouble]:
    """Records come faster than they are committed: more workers are needed, not new ones."""
    growth = history.growth()
    if growth is None or growth[1] < limits.lag_records:
        return []
    before, now = growth
    told = f"the lag grows: {now:,} records wait, at most {before:,} did {limits.lag_grows_s / 2:.0f} s ago and before"
    return [Trouble(Condition.LAG_GROWS, told)]
