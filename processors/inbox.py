"""Where batches wait for their stage: taken from the transport as bytes, decoded, handed over as tables.

Much is decoded in a thread of its own while the stage computes and commits (R12); little waits until the stage asks, so
that hundreds of small batches cost one call instead of one each. Batches of a partition must be contiguous; a gap means
that records would be lost, so it is an error, never a warning.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from processors.bucket_runs import by_bucket
from processors.errors import InvariantError
from processors.records import DEAD_SCHEMA, RawBatch, Truncate

DECODE_RECORDS = 100_000
"""Records per decode call, at most about: large enough for table speed, small enough to overlap with the stage."""
AHEAD_BYTES = 2_000_000
"""Decoded before the stage asks, from so many on: some 4,000 row events, 10 milliseconds."""


@dataclass(frozen=True)
class Chunk:
    """Decoded records of one topic: their rows, what was refused or ignored, and the positions after them.

    `decoded`: when decoding began, by the monotonic clock, and how many seconds it took; None where nobody noted it.
    """

    topic: str
    rows: pa.Table | None
    read: int
    positions: Mapping[int, int]
    dead: pa.Table = field(default_factory=DEAD_SCHEMA.empty_table)
    truncates: tuple[Truncate, ...] = ()
    ignored: Counter[str] = field(default_factory=Counter)
    decoded: tuple[float, float] | None = None

    @property
    def weight(self) -> int:
        """What it counts in an epoch: the records that were read, or their rows where records hold several."""
        return max(self.read, 0 if self.rows is None else self.rows.num_rows)

    @property
    def size_bytes(self) -> int:
        """Bytes that its tables hold."""
        return int(self.dead.nbytes + (0 if self.rows is None else self.rows.nbytes))


Decode = Callable[[str, Sequence[RawBatch], Mapping[int, int]], Chunk]
"""(topic, batches, positions after them) to a chunk."""


class Inbox:
    """The buffer of one stage. `offer` is called by the transport, `take` by the stage, decoding happens in between.

    `max_bytes` bounds all that came and is not done with: as fetched, decoded, and taken until `finish`. What a fetch
    brings at once may pass it. A quarter of it is decoded at a time.
    """

    def __init__(
        self,
        decode: Decode,
        *,
        max_records: int,
        max_bytes: int,
        on_arrival: Callable[[], None],
        decode_records: int = DECODE_RECORDS,
    ) -> None:
        self._decode = decode
        self._decode_records = min(decode_records, DECODE_RECORDS)
        self._decode_bytes = max_bytes // 4
        self._ahead_bytes = min(AHEAD_BYTES, self._decode_bytes)
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._on_arrival = on_arrival
        self._lock = threading.Condition()
        self._raw: deque[RawBatch] = deque()
        self._ready: deque[Chunk] = deque()
        self._expected: dict[tuple[str, int], int | None] = {}
        self._known: dict[tuple[str, int], int] = {}
        self._behind: dict[tuple[str, int], int] = {}
        self._records = 0
        self._raw_bytes = 0
        self._bytes = 0
        self._taken_bytes = 0
        self._wanted = False
        self._decoding = False
        self._generation = 0
        self._stopped = False

    def reset(self, known: Mapping[tuple[str, int], int]) -> None:
        """Forgets everything and accepts exactly these partitions, with where the lake stands in each.

        The first batch may begin elsewhere: a gap may be accepted (R9).
        """
        with self._lock:
            self._raw.clear()
            self._ready.clear()
            self._expected = dict.fromkeys(known)
            self._known = dict(known)
            self._behind.clear()
            self._records = self._bytes = self._raw_bytes = self._taken_bytes = 0
            self._generation += 1
            self._lock.notify_all()

    def expect(self, behind: Mapping[tuple[str, int], int]) -> None:
        """How many records the broker has for these partitions, before the first ones are offered."""
        with self._lock:
            self._behind |= behind

    def offer(self, batch: RawBatch) -> None:
        """Takes a batch of an accepted partition; drops others, they will be fetched again by their owner."""
        place = (batch.topic, batch.partition)
        with self._lock:
            if place not in self._expected:
                return
            expected = self._expected[place]
            if expected is not None and batch.start_offset != expected:
                raise InvariantError(
                    f"{batch.topic}-{batch.partition}: expected offset {expected}, was offered {batch.start_offset}"
                )
            self._expected[place] = batch.next_offset
            self._behind[place] = batch.behind
            self._raw.append(batch)
            self._records += len(batch)
            size_bytes = batch.size_bytes
            self._bytes += size_bytes
            self._raw_bytes += size_bytes
            self._lock.notify_all()
        self._on_arrival()

    @property
    def records(self) -> int:
        """Records that wait, decoded or not."""
        return self._records

    @property
    def behind(self) -> int:
        """Records that the broker has beyond those that were offered, as far as is known."""
        return sum(self._behind.values())

    def has_reached(self, topic: str, offsets: Mapping[int, int]) -> bool:
        """Whether the accepted partitions of a topic were offered up to these offsets, now or before the reset."""
        with self._lock:
            reached = {p: self._known[t, p] if o is None else o for (t, p), o in self._expected.items() if t == topic}
        return all(reached[p] >= o for p, o in offsets.items() if p in reached)

    @property
    def has_room(self) -> bool:
        """Whether more may be offered."""
        return self._records < self._max_records and self._bytes + self._taken_bytes < self._max_bytes

    @property
    def moved(self) -> bool:
        """Whether anything waits, be it only a position that moved without a record."""
        return bool(self._raw or self._ready or self._decoding)

    def run(self) -> None:
        """The decoding loop; returns after `stop`."""
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._stopped or (self._raw and (self._wanted or self._much_waits)))
                if self._stopped:
                    return
                generation = self._generation
                topic, batches = self._next_group()
                self._decoding = True
            positions: dict[int, int] = {}
            for batch in batches:
                positions[batch.partition] = batch.next_offset
            began_s = time.monotonic()
            chunk = self._decode(topic, batches, positions)
            chunk = replace(chunk, decoded=(began_s, time.monotonic() - began_s))
            with self._lock:
                self._decoding = False
                if generation == self._generation:
                    self._ready.append(chunk)
                    self._bytes += chunk.size_bytes - sum(b.size_bytes for b in batches)
                self._lock.notify_all()

    @property
    def _much_waits(self) -> bool:
        """Whether it is worth decoding before the stage asks: what a call costs hardly depends on less."""
        return self._raw_bytes >= self._ahead_bytes or not self.has_room

    def _next_group(self) -> tuple[str, list[RawBatch]]:
        """Batches of the oldest one's topic, up to what one call decodes; the order within a partition is kept."""
        topic = self._raw[0].topic
        taken: list[RawBatch] = []
        left: deque[RawBatch] = deque()
        records = size_bytes = 0
        for batch in self._raw:
            if batch.topic == topic and records < self._decode_records and size_bytes < self._decode_bytes:
                taken.append(batch)
                records += len(batch)
                size_bytes += batch.size_bytes
            else:
                left.append(batch)
        self._raw = left
        self._raw_bytes -= size_bytes
        return topic, taken

    def take(self, max_weight: int, *, timeout_s: float = 5.0) -> list[Chunk]:
        """Decoded chunks in order, until they weigh `max_weight`; waits for what is being decoded while it has less."""
        with self._lock:
            self._wanted = True
            self._lock.notify_all()
            self._lock.wait_for(
                lambda: (
                    self._stopped
                    or sum(c.weight for c in self._ready) >= max_weight
                    or not (self._raw or self._decoding)
                ),
                timeout_s,
            )
            self._wanted = False
            chunks: list[Chunk] = []
            weight = 0
            while self._ready and (not chunks or weight < max_weight):
                chunk = self._ready.popleft()
                chunks.append(chunk)
                weight += chunk.weight
                self._records -= chunk.read
                self._bytes -= chunk.size_bytes
                self._taken_bytes += chunk.size_bytes
            return chunks

    def finish(self) -> None:
        """What was taken is done with: its bytes count no more."""
        with self._lock:
            self._taken_bytes = 0

    def stop(self) -> None:
        """Ends `run` and lets `take` return."""
        with self._lock:
            self._stopped = True
            self._lock.notify_all()


def reasons_of(chunks: Sequence[Chunk]) -> "Counter[str]":
    """How many records were refused for each reason."""
    counts: Counter[str] = Counter()
    for chunk in chunks:
        if chunk.dead.num_rows:
            counts.update({c["values"]: c["counts"] for c in chunk.dead["reason"].value_counts().to_pylist()})
    return counts


def newest_of(chunks: Sequence[Chunk]) -> datetime | None:
    """The newest commit at the source among the rows, None where none says when it was."""
    tables = [c.rows for c in chunks if c.rows is not None and "source_ts" in c.rows.schema.names]
    times = [pc.max(rows["source_ts"]).as_py() for rows in tables]
    return max((t for t in times if t is not None), default=None)


def rows_of(chunks: Sequence[Chunk], topic: str) -> pa.Table | None:
    """The rows of one topic in all chunks, bucket by bucket, or None."""
    tables = [c.rows for c in chunks if c.topic == topic and c.rows is not None and c.rows.num_rows]
    return by_bucket(pa.concat_tables(tables)) if tables else None
