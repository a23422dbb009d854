"""The stages of one worker in threads: one computes rows (skus, then A), one derives features (B; C, if it is there).

    transport ─offer─► inbox ─decode thread─► rows thread:     skus, A ─► documents, lines ─┐
              ─offer─► inbox ─decode thread─► features thread: B, C ◄──── transport ◄───────┘

C is there where a feature set is derived by article.

The shell that owns the Kafka consumer calls `assign` and `revoke`; both wait for the epochs in flight. Whatever fails
in a thread completes `failure` and ends the worker: state is rebuilt from the lake by the next one.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb

from processors.activity import Activity
from processors.charging import PriceAt
from processors.decoding import Decoding
from processors.errors import InvariantError
from processors.feature_stages import AccountStage, FeatureStage, ItemStage
from processors.inbox import Inbox
from processors.ports import DocumentSink, Lake, LakeProgress, LoadProgress, StateMemory, StoredPosition
from processors.progress import ProgressLook
from processors.records import RawBatch
from processors.stage import Stage, StageContext, utc_now
from processors.stages import PUT_OFF_S, InvoiceStage, SkuStage
from processors.state import compress, cursor, memory_of, open_state
from processors.tables import STAGE_TOPICS, topic_of

log = logging.getLogger(__name__)

COMPRESS_S = 60.0
CLOSE_S = 5.0
"""How long the last empty epochs of a catch-up wait for an epoch that is under way."""
MUCH_LEFT = 10_000
"""Records behind an epoch that make it a part of a backlog, if they are a fifth of its own as well."""
COMPRESS_ABOVE_PERCENT = 40
"""Of the memory budget: state beyond it is compressed. The rest is for the work of epochs."""


def look_every_s(interval_s: float) -> float:
    """How often a stage looks for others' prices and control entries; each look reads and lists in the store."""
    return min(interval_s, max(1.0, interval_s / 4))


@dataclass(frozen=True)
class EngineConfig:
    """What the engine is told. Times in seconds, sizes in the unit that they name.

    `inbox_bytes`: what may wait before each stage, decoded or not, and be worked on by it.
    """

    topic_prefix: str
    partitions: int
    source_names: tuple[str, ...]
    price_at: PriceAt = "creation"
    interval_s: float = 10.0
    max_events: int = 400_000
    idle_s: float = 30.0
    memory_mb: int = 2000
    threads: int = 2
    inbox_bytes: int = 400_000_000
    dead_letter_stop: frozenset[str] = frozenset()
    spill: Path = Path("spill")


class StreamEngine:
    """Implements `processors.ports.Engine`."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        lake: Lake,
        sink: DocumentSink,
        topic_ids: Mapping[str, str],
        writer: str,
        lines_sink: DocumentSink | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        """`lines_sink`: where charged lines go; with it there is a stage for feature sets by article. `now`: the clock
        of commits, UTC."""
        self.failure: Future[None] = Future()
        self._config = config
        self._lake = lake
        self._stopping = threading.Event()
        self._draining = False
        self._closing = False
        self._gate = threading.Condition()
        self._accepting = False
        self._state = open_state(spill=config.spill, memory_mb=config.memory_mb, threads=config.threads)
        lake.prepare(self._state)
        self._generation = lake.generation

        topics = {s: [topic_of(config.topic_prefix, n) for n in names] for s, names in STAGE_TOPICS.items()}
        context = StageContext(lake, topic_ids, writer, now=now, dead_letter_stop=config.dead_letter_stop)
        self._memory_con, self._memory_lock = cursor(self._state), threading.Lock()
        rows_con, features_con = cursor(self._state), cursor(self._state)
        self._skus = SkuStage(context, rows_con, topics[SkuStage.name])
        self._invoices = InvoiceStage(
            context,
            rows_con,
            topics[InvoiceStage.name],
            sink=sink,
            price_at=config.price_at,
            stopping=lambda: self._stopping.is_set() or self._closing,
            lines_sink=lines_sink,
        )
        accounts = AccountStage(context, features_con, topics[AccountStage.name])
        self._of_features: tuple[FeatureStage, ...] = (accounts,)
        self._outputs = {accounts.name: self._invoices.documents}
        if self._invoices.charged_lines is not None:
            items = ItemStage(context, features_con, topics[ItemStage.name])
            self._of_features = (accounts, items)
            self._outputs[items.name] = self._invoices.charged_lines
        self._stages: tuple[Stage, ...] = (self._skus, self._invoices, *self._of_features)
        self._wake = {stage.name: threading.Event() for stage in self._stages}
        self._wake[self._skus.name] = self._wake[self._invoices.name]
        rows_lock, features_lock = threading.Lock(), threading.Lock()
        self._locks = {self._skus.name: rows_lock, self._invoices.name: rows_lock}
        for stage in self._of_features:
            self._wake[stage.name] = self._wake[accounts.name]
            self._locks[stage.name] = features_lock
        self._inboxes = {stage.name: self._inbox(stage) for stage in self._stages}
        self._by_topic = {t: self._inboxes[s.name] for s in self._stages for t in s.topics}
        self._progress = ProgressLook(lake, self._skus, self._invoices, self._of_features, config.partitions)
        self._offered_s = 0.0
        self._sends_taken = dict.fromkeys(self._outputs, 0)
        """How often rows had sent documents and lines when a stage's features were derived the last time."""
        self._began_s = dict.fromkeys((stage.name for stage in self._stages), -math.inf)
        """When the interval of each stage's last epoch began, as time.monotonic tells it."""
        self._threads: list[threading.Thread] = []

    def _inbox(self, stage: Stage) -> Inbox:
        config = self._config
        decoding = Decoding(
            dict(zip(stage.topics, STAGE_TOPICS[stage.name], strict=True)),
            source_names=config.source_names,
            generation=self._generation,
            threads=config.threads,
        )
        return Inbox(
            decoding.decode,
            max_records=2 * config.max_events,
            decode_records=config.max_events,
            max_bytes=config.inbox_bytes,
            on_arrival=self._wake[stage.name].set,
        )

    # --- the Engine protocol -------------------------------------------------------------------------------------

    @property
    def topics(self) -> tuple[str, ...]:
        return tuple(t for stage in self._stages for t in stage.topics)

    def start(self) -> None:
        self._thread("rows", lambda: self._loop((self._skus, self._invoices)))
        self._thread("features", lambda: self._loop(self._of_features))
        for name, inbox in self._inboxes.items():
            self._thread(f"decode-{name}", inbox.run)
        self._thread("compress", self._keep_small)

    def _thread(self, name: str, run: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                run()
            except BaseException as error:  # noqa: BLE001 - handed over whole to the shell
                self._fail(error)

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _fail(self, error: BaseException) -> None:
        self._stopping.set()
        for inbox in self._inboxes.values():
            inbox.stop()
        for wake in self._wake.values():
            wake.set()
        if not self.failure.done():
            self.failure.set_exception(error)

    def assign(self, buckets: frozenset[int]) -> Mapping[tuple[str, int], StoredPosition | None]:
        outside = [b for b in buckets if not 0 <= b < self._config.partitions]
        if outside:
            raise InvariantError(f"buckets {outside} are not below TRS_PARTITIONS={self._config.partitions}")
        positions: dict[tuple[str, int], StoredPosition | None] = {}
        self._accepting = False
        for stage in self._stages:
            with self._locks[stage.name]:
                started = time.monotonic()
                found = stage.assign(buckets)
                log.info(
                    "stage %s: %d buckets open in %.2f s, %d rows loaded",
                    stage.name,
                    len(stage.buckets),
                    time.monotonic() - started,
                    stage.loading.rows,
                )
                known = {place: 0 if p is None else p.next_offset for place, p in found.items()}
                self._inboxes[stage.name].reset(known)
                positions |= found
        self._compress()
        self._accepting = True
        return positions

    def _compress(self) -> None:
        """Makes large state small; both threads wait meanwhile."""
        with self._locks[self._invoices.name], self._locks[self._of_features[0].name]:
            compress(self._state, beyond_mb=self._config.memory_mb * COMPRESS_ABOVE_PERCENT // 100)

    @property
    def loading(self) -> LoadProgress | None:
        return next((found for found in (stage.loading.look() for stage in self._stages) if found is not None), None)

    @property
    def memory(self) -> StateMemory | None:
        with self._memory_lock, suppress(duckdb.ConnectionException):  # closed: the worker ends
            return memory_of(self._memory_con, budget_mb=self._config.memory_mb)
        return None

    @property
    def parked(self) -> frozenset[int]:
        return frozenset().union(*(stage.parked for stage in self._stages))

    @property
    def activities(self) -> Mapping[str, Activity]:
        return {stage.name: stage.activity for stage in self._stages}

    @property
    def conflicts(self) -> Mapping[tuple[str, str], int]:
        return self._lake.conflicts

    def revoke(self) -> None:
        self._accepting = False
        for stage in self._stages:
            with self._locks[stage.name]:
                self._inboxes[stage.name].reset({})

    def expect(self, behind: Mapping[tuple[str, int], int]) -> None:
        for topic, inbox in self._by_topic.items():
            inbox.expect({place: count for place, count in behind.items() if place[0] == topic})

    def offer(self, batch: RawBatch) -> None:
        if self._accepting:
            self._offered_s = time.monotonic()
            self._by_topic[batch.topic].offer(batch)

    def has_room(self) -> bool:
        return all(inbox.has_room for inbox in self._inboxes.values())

    def set_draining(self) -> None:
        self._draining = True

    def stop(self) -> None:
        try:
            if self._draining and not self._stopping.is_set():
                self._close_epochs()
        finally:
            self._end_threads()

    def _end_threads(self) -> None:
        self._accepting = False
        self._stopping.set()
        for inbox in self._inboxes.values():
            inbox.stop()
        for wake in self._wake.values():
            wake.set()
        for thread in self._threads:
            thread.join()
        with suppress(duckdb.Error):  # busy with an opening in the shell's thread, which is not waited for
            self._state.close()

    def _close_epochs(self) -> None:
        """One empty epoch per stage: the lake's watermark passes everything that was committed before it.

        Not while an epoch is under way that does not end: it waits for Kafka or the store.
        """
        self._closing = True
        for stage in self._stages:
            if not self._locks[stage.name].acquire(timeout=CLOSE_S):
                return
            try:
                if self._stopping.is_set():
                    return
                if self._accepting and stage.buckets and not self._inboxes[stage.name].moved:
                    stage.run_epoch([])
            finally:
                self._locks[stage.name].release()

    # --- the loops -----------------------------------------------------------------------------------------------

    def _loop(self, stages: Sequence[Stage]) -> None:
        """Runs epochs of its stages when they are due; sleeps in between until something arrives."""
        interval_s = self._config.interval_s
        polled_s = 0.0
        wake = self._wake[stages[0].name]
        while not self._stopping.is_set():
            wake.wait(timeout=min(0.05, interval_s))
            wake.clear()
            every_s = min(interval_s, 1.0) if self._draining else look_every_s(interval_s)
            poll = time.monotonic() - polled_s >= every_s
            if poll:
                polled_s = time.monotonic()
            with self._locks[stages[0].name]:
                if self._stopping.is_set() or not self._accepting:
                    continue
                working = [stage for stage in stages if stage.buckets]  # all of a stage's may be parked
                if poll:
                    for stage in working:
                        stage.poll_news()
                due = [self._due(stage) for stage in working]
                began_s = time.monotonic()
                # Prices before the lines that they charge: they go first when lines are due.
                first = self._skus in working and any(due) and self._inboxes[self._skus.name].moved
                for place, stage in enumerate(working):
                    if due[place] or (first and stage is self._skus):
                        self._began_s[stage.name] = began_s
                        self._run(stage)
                        if place + 1 < len(working):
                            working[place + 1].poll_news()

    def _keep_small(self) -> None:
        while not self._stopping.wait(COMPRESS_S):
            self._compress()

    def _due(self, stage: Stage) -> bool:
        inbox = self._inboxes[stage.name]
        since = time.monotonic() - self._interval_began_s(stage)
        if inbox.records >= self._config.max_events or not inbox.has_room:
            return True
        if isinstance(stage, FeatureStage):
            if since < PUT_OFF_S and self._arrives(stage):
                return False
            if self._invoices.sends != self._sends_taken[stage.name] and inbox.moved:
                return True  # not at the interval's end: it would be half an interval behind the rows for ever
        if self._draining and self._upstream_rests(stage) and (inbox.moved or stage.news or stage.unsettled):
            return True
        if since >= self._config.interval_s and (inbox.moved or stage.news):
            return True
        return since >= self._config.idle_s

    def _interval_began_s(self, stage: Stage) -> float:
        """Prices keep step with rows that wait for them: one epoch of each per interval."""
        began = self._began_s[stage.name]
        if stage is self._skus and self._inboxes[self._invoices.name].moved:
            return max(began, self._began_s[self._invoices.name])
        return began

    def _arrives(self, stage: FeatureStage) -> bool:
        """Whether the features would be derived of a part of what our own epoch of rows is sending just now."""
        sent = self._outputs[stage.name].through
        return self._invoices.sending or not self._inboxes[stage.name].has_reached(stage.derived_topic, sent)

    def _upstream_rests(self, stage: Stage) -> bool:
        """Whether nothing more comes at the moment: from Kafka, nor as documents of the rows that wait here."""
        if time.monotonic() - self._offered_s <= 0.1 or self._inboxes[stage.name].behind >= MUCH_LEFT:
            return False
        rows = self._locks[self._invoices.name]
        return not isinstance(stage, FeatureStage) or not (self._inboxes[self._invoices.name].moved or rows.locked())

    def _run(self, stage: Stage) -> None:
        inbox = self._inboxes[stage.name]
        if isinstance(stage, FeatureStage):
            self._sends_taken[stage.name] = self._invoices.sends
        chunks = inbox.take(self._config.max_events)
        left = inbox.records + inbox.behind
        much = max(MUCH_LEFT, sum(c.read for c in chunks) // 5)
        began_s = time.monotonic()
        done = stage.run_epoch(chunks, more_soon=left >= much)
        inbox.finish()
        log.log(
            logging.INFO if done.read else logging.DEBUG,
            "stage %s: epoch of %d records, %d log rows, %d derived, %d dead in %.2f s",
            stage.name,
            done.read,
            done.log_rows,
            done.derived,
            done.dead.total(),
            time.monotonic() - began_s,
        )

    # --- looking at it -------------------------------------------------------------------------------------------

    def progress(self) -> LakeProgress:
        return self._progress.look()

    def status(self) -> Mapping[str, object]:
        return {stage.name: self._status_of(stage) for stage in self._stages}

    def _status_of(self, stage: Stage) -> Mapping[str, object]:
        look = stage.activity.look(0)
        return {
            "buckets": sorted(stage.buckets),
            "parked": sorted(stage.parked),
            "epochs": dict(stage.epochs),
            "waiting_records": self._inboxes[stage.name].records,
            "read": look.totals.read,
            "log_rows": look.totals.log_rows,
            "derived": look.totals.derived,
            "dead": sum(look.totals.dead.values()),
            "ignored": dict(look.totals.ignored),
            "alarms": [str(alarm) for alarm in stage.structure.alarms],
        }
