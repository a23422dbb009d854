"""Workers on one lake, interleaved at every commit: killed, paused, replaced, their buckets moved, by one seed.

Each worker runs the real stages in a thread of its own, and only one thread runs at a time: it stops before and after
each commit (memory_lake.py) until the cluster lets it go on. A worker that sleeps through a rebalance is a zombie: it
keeps its buckets and goes on when it wakes, until the lake refuses it.
"""

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import pytest

from processors.block_codec import BlockDecoder
from processors.charging import PriceAt
from processors.document_codec import DOCUMENT_BLOCKS
from processors.errors import FencedError
from processors.feature_stages import AccountStage, ItemStage
from processors.features.declarations import SETS_BY_ARTICLE
from processors.inbox import Chunk
from processors.line_codec import LINE_BLOCKS
from processors.records import RawBatch, Truncate
from processors.stage import Stage, StageContext
from processors.stages import InvoiceStage, SkuStage
from processors.state import cursor, open_state
from processors.tables import CHARGED_LINES_TOPIC, DERIVED_TOPICS, DOCUMENTS_TOPIC
from tests.murmur2 import murmur2
from tests.processors.memory_lake import Disk, MemoryLake, utc
from tests.processors.row_oracle import Record
from tests.processors.row_world import BUCKETS, bucket_of, events

DOCUMENTS, LINES = DOCUMENTS_TOPIC, CHARGED_LINES_TOPIC
TOPICS = ("skus", "invoices", "invoice_line_items", "accounts", *DERIVED_TOPICS)
SKEW_MS = 3000
"""How far a worker's clock may be off."""
GO_ON = 0.7
"""How often a worker passes a step without a stop: enough happens in a case, and each step is a stop in some."""


@dataclass(frozen=True)
class TruncateEvent:
    """A `t` record: rows of `table` ordered below `order` are gone."""

    table: str
    order: int


Entry = Record | TruncateEvent | tuple[bytes, bytes]
Logs = dict[tuple[str, int], list[Entry]]


class KilledError(BaseException):
    """The worker dies here."""


class SerialPool:
    """Stands for ThreadPoolExecutor: threads of a worker's own would make the interleaving a matter of chance."""

    def __init__(self, workers: int) -> None:
        pass

    def __enter__(self) -> "SerialPool":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    map = staticmethod(map)


class SerialLane:
    """Stands for CommitLane, for the same reason: what the lake sees, and in which order, is the same."""

    def put(self, commit: Callable[[], None]) -> None:
        commit()

    def settle(self) -> None:
        pass


@contextmanager
def serial() -> Iterator[None]:
    """Stages open their tables one after the other, and commit where they hand over; blocks and parts are tiny."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("processors.stage.ThreadPoolExecutor", SerialPool)
        patch.setattr("processors.stage.CommitLane", SerialLane)
        patch.setattr("processors.block_codec.BLOCK_BYTES", 400)
        patch.setattr("processors.invoice_documents.PART_ROWS", 2)
        yield


class Sink:
    """A topic that stage A fills; its worker may die in the middle."""

    partitions = BUCKETS

    def __init__(self, worker: "Worker", topic: str) -> None:
        self._worker, self._topic = worker, topic

    def send(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        cluster = self._worker.cluster
        middle = cluster.chance.randint(0, len(keys))
        for place, (key, value) in enumerate(zip(keys, values, strict=True)):
            if place == middle:
                self._worker.step(f"amid the {self._topic}")
            cluster.logs[self._topic, murmur2(key) % BUCKETS].append((key, value))

    def flush(self) -> dict[int, int]:
        self._worker.step(f"{self._topic} are acknowledged")
        return {}


class Worker:
    """The stages of this installation, and a thread that runs one operation on them at a time."""

    def __init__(self, cluster: "Cluster", number: int) -> None:
        self.cluster = cluster
        self._killed = False
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self.error: BaseException | None = None
        self.zombie = False
        self.skew_ms = cluster.chance.randint(-SKEW_MS, SKEW_MS)
        lake = MemoryLake(cluster.disk, self.step)
        self.state = open_state(spill=cluster.disk.folder, memory_mb=200, threads=1)
        rows, features = cursor(self.state), cursor(self.state)
        context = StageContext(lake=lake, topic_ids={t: t for t in TOPICS}, writer=f"worker {number}", now=self._now)
        self.skus = SkuStage(context, rows, ["skus"])
        self.invoices = InvoiceStage(
            context,
            rows,
            ["invoices", "invoice_line_items"],
            sink=Sink(self, DOCUMENTS),
            lines_sink=Sink(self, LINES) if SETS_BY_ARTICLE else None,
            price_at=cluster.price_at,
            stopping=lambda: False,
        )
        self.accounts = AccountStage(context, features, ["accounts", DOCUMENTS])
        self.stages: tuple[Stage, ...] = (self.skus, self.invoices, self.accounts)
        if SETS_BY_ARTICLE:
            self.stages = (*self.stages, ItemStage(context, features, [LINES]))

    def _now(self) -> datetime:
        self.cluster.clock_ms += 1
        return utc(self.cluster.clock_ms + self.skew_ms)

    def step(self, label: str) -> None:
        """Mostly goes on; else waits here until the cluster lets the worker go on, or kills it."""
        if not self._killed and self.cluster.chance.random() < GO_ON:
            return
        self._stopped.release()
        self._go.acquire()
        if self._killed:
            raise KilledError(label)

    @property
    def busy(self) -> bool:
        """Whether an operation is under way."""
        return self._thread is not None

    def begin(self, operation: Callable[[], None]) -> None:
        """Starts an operation and runs it to its first step."""

        def run() -> None:
            try:
                operation()
            except BaseException as error:  # noqa: BLE001 - looked at by the cluster
                self.error = error
            self._thread = None
            self._stopped.release()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        self._stopped.acquire()

    def resume(self) -> None:
        """On to the next step, or to the end of the operation."""
        self._go.release()
        self._stopped.acquire()

    def kill(self) -> None:
        """Ends the worker where it stands."""
        self._killed = True
        while self.busy:
            self.resume()
        self.state.close()


class Cluster:
    """A group of workers over logs of records; `run` plays a history of faults, then drains."""

    def __init__(self, disk: Disk, logs: Logs, *, seed: int, price_at: PriceAt) -> None:
        self.disk = disk
        self.logs = logs
        self.chance = random.Random(seed)
        self.price_at: PriceAt = price_at
        self.clock_ms = 0
        self.faults: list[str] = []
        self._number = 0
        self._workers: list[Worker] = []
        self._decoders = {
            DOCUMENTS: BlockDecoder(DOCUMENT_BLOCKS, generation=MemoryLake.generation),
            LINES: BlockDecoder(LINE_BLOCKS, generation=MemoryLake.generation),
        }

    def run(self, actions: int) -> None:
        """So many actions with faults among them, then everything is read and derived."""
        self._rebalance(leave_zombie=False)
        for _ in range(actions):
            self.clock_ms += self.chance.randint(0, 500)
            draw = self.chance.random()
            if draw < 0.04:
                self._rebalance(leave_zombie=self.chance.random() < 0.8)
            elif draw < 0.06:
                self.faults.append("kill")
                self._kill(self.chance.choice(self._workers))
            else:
                self._advance(self.chance.choice(self._workers))
        self._drain()

    def close(self) -> None:
        """Ends all workers."""
        for worker in self._workers:
            worker.kill()

    def _advance(self, worker: Worker) -> None:
        if worker.busy:
            worker.resume()
        else:
            worker.begin(self.epoch(worker, self.chance.choice(worker.stages), whole=False))
        self._look_after(worker)

    def _look_after(self, worker: Worker) -> None:
        """A worker that was refused ends; its buckets go to others, as after its exit."""
        if self._was_refused(worker):
            self.faults.append("fenced zombie" if worker.zombie else "fenced")
            self._kill(worker)

    @staticmethod
    def _was_refused(worker: Worker) -> bool:
        error, worker.error = worker.error, None
        if error is not None and not isinstance(error, FencedError):
            raise error
        return error is not None

    def _kill(self, worker: Worker) -> None:
        self._workers.remove(worker)
        worker.kill()
        if not worker.zombie:
            self._rebalance(leave_zombie=False)

    def _rebalance(self, *, leave_zombie: bool) -> None:
        """Members finish what they do; one may sleep through it all. Then the buckets go to two or three members."""
        members = [w for w in self._workers if not w.zombie]
        if leave_zombie and any(w.busy for w in members):
            sleeper = self.chance.choice([w for w in members if w.busy])
            sleeper.zombie = True
            members.remove(sleeper)
            self.faults.append("zombie")
        self.finish(members)
        members = [w for w in self._workers if not w.zombie]
        while len(members) < 2 or (len(members) < 3 and self.chance.random() < 0.2):
            self._number += 1
            members.append(Worker(self, self._number))
            self._workers.append(members[-1])
        owners = [self.chance.choice(members) for _ in range(BUCKETS)]
        for worker in members:
            buckets = frozenset(b for b, owner in enumerate(owners) if owner is worker)
            worker.begin(lambda w=worker, b=buckets: [stage.assign(b) for stage in w.stages] and None)
        self.faults.append("rebalance")
        for worker in members:
            if worker in self._workers:
                self._look_after(worker)

    def finish(self, members: list[Worker]) -> None:
        while busy := [w for w in members if w.busy and w in self._workers]:
            worker = self.chance.choice(busy)
            worker.resume()
            self._end_if_refused(worker)

    def _end_if_refused(self, worker: Worker) -> None:
        if self._was_refused(worker):
            self.faults.append("fenced")
            self._workers.remove(worker)
            worker.kill()

    def epoch(self, worker: Worker, stage: Stage, *, whole: bool) -> Callable[[], None]:
        """An epoch of a stage over some of what waits, or over all."""
        if not stage.buckets:
            return lambda: None
        chunks = [c for t in stage.topics for b in sorted(stage.buckets) if (c := self.chunk(stage, t, b, whole=whole))]
        more_soon = not whole and self.chance.random() < 0.3

        def epoch() -> None:
            stage.poll_news()
            stage.run_epoch(chunks, more_soon=more_soon)

        return epoch

    def chunk(self, stage: Stage, topic: str, bucket: int, *, whole: bool) -> Chunk | None:
        start, log = stage.positions.get((topic, bucket), 0), self.logs[topic, bucket]
        end = len(log) if whole else min(len(log), start + self.chance.randint(0, max(1, len(log) // 3)))
        if start == end:
            return None
        entries = log[start:end]
        if topic in self._decoders:
            batch = RawBatch.of(topic, bucket, entries, start_offset=start)  # type: ignore[arg-type]
            rows, ignored, dead = self._decoders[topic].decode([batch])
            assert (dict(ignored), dead.num_rows) == ({}, 0)
            return Chunk(topic, rows, end - start, {bucket: end})
        truncates = tuple(
            Truncate(e.table, bucket, start + place, e.order)
            for place, e in enumerate(entries)
            if isinstance(e, TruncateEvent)
        )
        records = [e for e in entries if isinstance(e, Record)]
        rows = events(topic, records)
        assert set(rows["bucket"].to_pylist()) <= {bucket}
        return Chunk(topic, rows, end - start, {bucket: end}, truncates=truncates)

    def _drain(self) -> None:
        """Zombies wake and are refused; then members read, derive and settle everything.

        A member may have been robbed before: a zombie that slept while it opened buckets opens them once more when it
        wakes, above the owner's epoch. The owner is refused at its next commit and ends, as after any fence; whoever
        began after the last zombie's end is not.
        """
        for zombie in [w for w in self._workers if w.zombie]:
            while zombie.busy:
                zombie.resume()
            self._was_refused(zombie)
            self._workers.remove(zombie)
            zombie.kill()
        robbed = set(self._workers)
        while not self._settle():
            left = robbed & set(self._workers)
            assert left < robbed, "a worker was refused though nobody else was awake since it began"
            robbed = left

    def _settle(self) -> bool:
        """Members that own all buckets read everything; False when one of them was refused meanwhile."""
        self._rebalance(leave_zombie=False)
        members = list(self._workers)
        self.finish(members)
        if members != self._workers:
            return False
        for _ in range(3):
            for place in range(len(members[0].stages)):
                for worker in members:
                    worker.begin(self.epoch(worker, worker.stages[place], whole=True))
                    self.finish([worker])
                    if worker in self._workers:
                        self._end_if_refused(worker)
                    if worker not in self._workers:
                        return False
        return True


def fill(
    records: Sequence[Record], truncates: Sequence[TruncateEvent], chance: random.Random
) -> tuple[Logs, list[Record]]:
    """The records in logs, in any order, some of them twice; returned with the offsets that they got there."""
    logs: Logs = {(topic, bucket): [] for topic in TOPICS for bucket in range(BUCKETS)}
    arriving: list[Record | TruncateEvent] = [*records, *truncates]
    arriving += [record for record in records if chance.random() < 0.2]
    chance.shuffle(arriving)
    placed = []
    for one in arriving:
        if isinstance(one, TruncateEvent):
            logs[one.table, chance.randrange(BUCKETS)].append(one)
            continue
        log = logs[one.table, bucket_of(one.table, one.key)]
        placed.append(Record(one.table, one.key, one.order, len(log), one.is_delete, one.is_create, one.values))
        log.append(placed[-1])
    return logs, placed
