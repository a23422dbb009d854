"""What a worker's pages, probes and metrics know of it: one state, so that all of them say the same."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from app.broker_watch import BrokerWatch, Place
from app.lake_watch import LakeWatch
from app.probes import (
    Condition,
    LagHistory,
    Limits,
    Store,
    Trouble,
    lag_troubles,
    outside_troubles,
    parked_troubles,
    stage_troubles,
)
from processors.activity import Activity
from processors.ports import LoadProgress, StateMemory

LOADING = "loading state"


@dataclass
class WorkerState:
    """What the pages may know of the worker. Written by the worker, read by the web server's thread.

    `status`, `loading`, `upkeep` and `memory` are asked when a page is. `beat` is the monotonic time at which the event
    loop last turned.
    """

    group: str
    status: Callable[[], Mapping[str, object]]
    loading: Callable[[], LoadProgress | None] = lambda: None
    upkeep: Callable[[], Mapping[str, object]] = dict
    conflicts: Callable[[], Mapping[tuple[str, str], int]] = dict
    activities: Mapping[str, Activity] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    history: LagHistory = field(default_factory=lambda: LagHistory(600.0))
    broker: BrokerWatch | None = None
    store: Store | None = None
    lake: LakeWatch | None = None
    memory: Callable[[], StateMemory | None] = lambda: None
    phase: str = "starting"
    buckets: frozenset[int] | None = None
    failure: str | None = None
    beat: float = field(default_factory=time.monotonic)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))

    def troubles(self) -> list[Trouble]:
        """Why the worker is not ready, what a restart mends first; empty when it takes records and commits them."""
        found = []
        if self.failure is not None:
            found.append(Trouble(Condition.FAILURE, self.failure, live=True))
        silent_s = time.monotonic() - self.beat
        if silent_s > self.limits.stuck_loop_s:
            told = f"the event loop has been stuck for {silent_s:.0f} s"
            found.append(Trouble(Condition.EVENT_LOOP, told, live=True))
        loading = self.loading()
        if self.phase != "running" or self.buckets is None or loading is not None:
            found.append(Trouble(Condition.NOT_ASSIGNED, f"the worker is {self.shown_phase(loading)}"))
        elif self.activities:
            found += stage_troubles(self.activities, self.limits, broker=self.broker, store=self.store)
            found += parked_troubles(self.activities)
        found += outside_troubles(self.limits, broker=self.broker, store=self.store)
        found += lag_troubles(self.history, self.limits)
        return sorted(found, key=lambda trouble: not trouble.live)

    def shown_phase(self, loading: LoadProgress | None) -> str:
        """What the worker does, for people."""
        return self.phase if loading is None or self.phase == "stopping" else LOADING

    def alarms(self) -> list[str]:
        """What needs a person while the worker goes on."""
        stages = [stage for stage in self.status().values() if isinstance(stage, Mapping)]
        alarms = [str(alarm) for stage in stages for alarm in stage.get("alarms", ())]
        parked = sorted({bucket for activity in self.activities.values() for bucket in activity.look(0).parked})
        if parked:
            told = ", ".join(map(str, parked))
            alarms.append(f"buckets {told} are parked: a newer version of a feature set wrote them; deploy it here")
        return alarms

    def waiting(self) -> dict[str, int]:
        """Records that were fetched and not taken yet, by stage."""
        stages = self.status().items()
        return {name: s["waiting_records"] for name, s in stages if isinstance(s, Mapping) and "waiting_records" in s}

    def lag(self) -> dict[Place, int]:
        """Records of each partition of ours that are not committed, by the last look at Kafka."""
        return {} if self.broker is None else self.broker.lag
