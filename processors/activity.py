"""What a stage does just now, and did lately: the steps of its epochs with their times, and counts since its start.

Written by the thread that runs the stage's epochs and by those that commit and derive beside it, looked at by any
other. What is computed follows one another; commits do too, and overlap with what is computed meanwhile; the next part
is derived while one is sent. The time for which a stage does nothing but wait for what is done beside it is theirs.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from processors.errors import TrsError

log = logging.getLogger(__name__)

EPOCH: ContextVar[str | None] = ContextVar("epoch", default=None)
"""The epoch that the present thread works on, as STAGE:BUCKET:EPOCH of the least bucket; for the log."""

StepName = Literal["decode", "apply", "commit", "derive", "send"]
STEPS: tuple[StepName, ...] = ("decode", "apply", "commit", "derive", "send")
RATE_S = 60.0
"""Rates are those of the epochs that ended within so many seconds."""
_KEPT = 2000
"""Epochs that are remembered; of more within a minute the rate would count these only."""


@dataclass(frozen=True)
class Step:
    """One part of an epoch. `detail`: the table, topic or feature set concerned, "" where it is all of them.

    `began_s`: seconds from the epoch's begin; negative for what was decoded ahead of it.
    """

    name: StepName
    detail: str
    began_s: float
    seconds: float


@dataclass(frozen=True)
class EpochTrace:
    """One epoch that ended. `dead`: by reason; `ignored`: by reason; `failure`: what ended it, None if nothing did.

    `source_delay_s`: from the newest commit at the source among its records to its end, None where none tells.
    """

    stage: str
    id: str
    began_at: datetime
    seconds: float
    steps: tuple[Step, ...]
    read: int = 0
    log_rows: int = 0
    derived: int = 0
    dead: Mapping[str, int] = field(default_factory=dict)
    ignored: Mapping[str, int] = field(default_factory=dict)
    commit_id: str = ""
    source_delay_s: float | None = None
    failure: str | None = None

    @property
    def ended_at(self) -> datetime:
        """UTC."""
        return self.began_at + timedelta(seconds=self.seconds)


@dataclass(frozen=True)
class Running:
    """The epoch that is under way: for how long, in which step, for how long that."""

    id: str
    seconds: float
    step: StepName
    detail: str
    step_s: float

    def __str__(self) -> str:
        doing = {
            "decode": "decoding",
            "apply": "applying rows",
            "commit": "committing",
            "derive": "deriving",
            "send": "sending",
        }[self.step]
        return f"epoch {self.id}, {doing}{' ' + self.detail if self.detail else ''} for {self.step_s:.0f} s"


@dataclass(frozen=True)
class Totals:
    """Counts since the worker started. `dead`, `ignored`: records by reason."""

    epochs: int = 0
    read: int = 0
    log_rows: int = 0
    derived: int = 0
    dead: Mapping[str, int] = field(default_factory=dict)
    ignored: Mapping[str, int] = field(default_factory=dict)

    @property
    def applied(self) -> int:
        """Records that were neither ignored nor refused."""
        return self.read - sum(self.dead.values()) - sum(self.ignored.values())


@dataclass(frozen=True)
class Look:
    """A stage as it is now. `rests_s`: since its last epoch ended, or its buckets were opened; None without buckets.

    `parked`: buckets that it was given and leaves alone. `positions`: the next offset of each (topic, partition) that
    is committed. `known_through`: what is committed is complete through then (R11), None before the first epoch.
    `rates`: read, log rows, derived per second.
    """

    stage: str
    buckets: frozenset[int]
    parked: frozenset[int]
    running: Running | None
    rests_s: float | None
    positions: Mapping[tuple[str, int], int]
    known_through: datetime | None
    totals: Totals
    recent: tuple[EpochTrace, ...]
    rates: tuple[float, float, float]


class Activity:
    """The notebook of one stage. `begin_s`, `step_s` and the like are times of the monotonic clock."""

    def __init__(self, stage: str, *, now: Callable[[], datetime] | None = None) -> None:
        self.stage = stage
        self.on_epoch: list[Callable[[EpochTrace], None]] = []
        """Told of each epoch that ended, in the stage's thread: must be quick."""
        self._now = now or (lambda: datetime.now(UTC))
        self._lock = threading.Lock()
        self._born_s = time.monotonic()
        self._buckets: frozenset[int] = frozenset()
        self._parked: frozenset[int] = frozenset()
        self._positions: Mapping[tuple[str, int], int] = {}
        self._known_through: datetime | None = None
        self._rests_since_s: float | None = None
        self._id: str | None = None
        self._begin_s = 0.0
        self._begin_at = self._now()
        self._steps: list[Step] = []
        self._open: list[tuple[StepName, str]] = []
        self._step_s = 0.0
        self._waits: StepName | None = None
        self._beside: list[tuple[StepName, str, float]] = []
        self._recent: deque[tuple[float, EpochTrace]] = deque(maxlen=_KEPT)
        self._counts: Counter[str] = Counter()
        self._dead: Counter[str] = Counter()
        self._ignored: Counter[str] = Counter()

    def opened(
        self,
        buckets: frozenset[int],
        positions: Mapping[tuple[str, int], int],
        *,
        parked: frozenset[int] = frozenset(),
    ) -> None:
        """The stage owns exactly these buckets from now on, and stands there; it leaves those alone that are parked."""
        with self._lock:
            self._buckets, self._parked = buckets, parked
            self._positions = dict(positions)
            self._rests_since_s = time.monotonic() if buckets else None
            if not buckets:
                self._known_through = None

    @contextmanager
    def epoch(self, epoch_id: str) -> Iterator["EpochNotes"]:
        """An epoch lasts as long as the block; what it did is written into the notes that it is given."""
        notes = EpochNotes()
        with self._lock:
            self._id, self._begin_s, self._begin_at = epoch_id, time.monotonic(), self._now()
            self._steps, self._open, self._step_s, self._waits = [], [("apply", "")], self._begin_s, None
        token = EPOCH.set(epoch_id)
        failure: str | None = None
        try:
            yield notes
        except BaseException as error:
            # What a library says may quote a row.
            failure = error.message if isinstance(error, TrsError) else type(error).__name__
            raise
        finally:
            EPOCH.reset(token)
            self._end(notes, failure)

    @contextmanager
    def step(self, name: StepName, detail: str = "") -> Iterator[None]:
        """A part of the epoch that is under way; what was done before goes on afterwards. Nothing outside an epoch."""
        if self._id is None:
            yield
            return
        with self._lock:
            self._close_step()
            self._open.append((name, detail))
        try:
            yield
        finally:
            with self._lock:
                self._close_step()
                self._open.pop()

    @contextmanager
    def beside(self, name: StepName, detail: str = "") -> Iterator[None]:
        """A part of the epoch that is done in another thread. Nothing outside an epoch."""
        if self._id is None:
            yield
            return
        began_s = time.monotonic()
        with self._lock:
            self._beside.append((name, detail, began_s))
        try:
            yield
        finally:
            with self._lock:
                self._beside.remove((name, detail, began_s))
                self._steps.append(Step(name, detail, began_s - self._begin_s, time.monotonic() - began_s))

    @contextmanager
    def waiting(self, name: StepName) -> Iterator[None]:
        """Meanwhile the stage waits for what of this name is done beside it."""
        if self._id is None:
            yield
            return
        with self._lock:
            self._close_step()
            self._waits = name
        try:
            yield
        finally:
            with self._lock:
                self._step_s, self._waits = time.monotonic(), None

    def _close_step(self) -> None:
        now_s = time.monotonic()
        name, detail = self._open[-1]
        self._steps.append(Step(name, detail, self._step_s - self._begin_s, now_s - self._step_s))
        self._step_s = now_s

    def _end(self, notes: "EpochNotes", failure: str | None) -> None:
        with self._lock:
            self._close_step()
            end_s = self._step_s
            decoded = [
                Step("decode", topic, began_s - self._begin_s, seconds) for topic, began_s, seconds in notes.decoded
            ]
            delay_s = None if notes.newest is None else max(0.0, (self._now() - notes.newest).total_seconds())
            trace = EpochTrace(
                self.stage,
                self._id or "",
                self._begin_at,
                end_s - self._begin_s,
                (*decoded, *sorted(self._steps, key=lambda step: step.began_s)),
                read=notes.read,
                log_rows=notes.log_rows,
                derived=notes.derived,
                dead=dict(notes.dead),
                ignored=dict(notes.ignored),
                commit_id=notes.commit_id,
                source_delay_s=delay_s,
                failure=failure,
            )
            self._id = None
            if failure is None:
                self._rests_since_s = end_s
                self._positions = dict(notes.positions)
                self._known_through = notes.known_through or self._known_through
                self._counts.update(epochs=1, read=notes.read, log_rows=notes.log_rows, derived=notes.derived)
                self._dead.update(notes.dead)
                self._ignored.update(notes.ignored)
            self._recent.append((end_s, trace))
        for listener in self.on_epoch:
            try:
                listener(trace)
            except Exception:
                log.warning("an observer of epochs failed", exc_info=True)

    def look(self, epochs: int = 20) -> Look:
        """The stage now, with the newest so many epochs that had something to do or failed, newest first."""
        with self._lock:
            now_s = time.monotonic()
            running = None
            if self._id is not None:
                name, detail, since_s = *self._open[-1], self._step_s
                awaited = next((part for part in self._beside if part[0] == self._waits), None)
                if awaited is not None:
                    name, detail, since_s = awaited
                running = Running(self._id, now_s - self._begin_s, name, detail, now_s - since_s)
            known = list(self._recent)
            count = self._counts
            totals = Totals(
                count["epochs"],
                count["read"],
                count["log_rows"],
                count["derived"],
                dict(self._dead),
                dict(self._ignored),
            )
            buckets, parked, positions = self._buckets, self._parked, self._positions
            through = self._known_through
            rests_s = None if self._rests_since_s is None else now_s - self._rests_since_s
        lately = [trace for end_s, trace in known if now_s - end_s <= RATE_S]
        span_s = max(1.0, min(RATE_S, now_s - self._born_s))
        sums = (sum(t.read for t in lately), sum(t.log_rows for t in lately), sum(t.derived for t in lately))
        busy = [t for _, t in reversed(known) if t.read or t.log_rows or t.derived or t.failure]
        read, rows, derived = (count / span_s for count in sums)
        return Look(
            self.stage,
            buckets,
            parked,
            running,
            rests_s,
            positions,
            through,
            totals,
            tuple(busy[:epochs]),
            (read, rows, derived),
        )


@dataclass
class EpochNotes:
    """What an epoch writes down of itself while it runs. `decoded`: (topic, begin, seconds), ahead of it.

    `newest`: the newest commit at the source among its records.
    """

    read: int = 0
    log_rows: int = 0
    derived: int = 0
    dead: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    commit_id: str = ""
    positions: Mapping[tuple[str, int], int] = field(default_factory=dict)
    known_through: datetime | None = None
    newest: datetime | None = None
    decoded: list[tuple[str, float, float]] = field(default_factory=list)
