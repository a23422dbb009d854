"""What the stages share: buckets, epochs, positions, the opening, and the order of commits (R5, R6, R8).

One epoch of a stage, over all buckets that its worker owns:

    1 side tables that cannot be derived again (dead letters, personal data), with offset ids of their own
    2 the stage's log: rows, next epoch and next offsets, atomically
    3 what is derived from it, with a cursor; then the row of `epochs`

Any crash in between is healed by the next opening: below 1's offsets nothing is written twice, what lies after 2 is
derived again from the log. The commits of an epoch are made beside what it computes, in this order; `settle` waits for
them, at the latest at its end.
"""

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from processors.activity import Activity, EpochNotes
from processors.alarms import StructureWatch
from processors.commit_lane import CommitLane
from processors.dead_letters import Place, refused_for, stop_at
from processors.errors import FencedError, InvariantError, MovedError
from processors.inbox import Chunk, newest_of, reasons_of
from processors.lake_tables import DEAD_LETTER_ACTIONS, DEAD_LETTERS, EPOCHS
from processors.loading import Loading
from processors.open_letters import dealt_with_sql
from processors.ports import FencedLog, Lake, StoredPosition
from processors.prices import Control
from processors.recent_commits import RecentCommits

log = logging.getLogger(__name__)

OWNED = "owned"
"""Temporary table (bucket, epoch) of the epoch being made."""


def utc_now() -> datetime:
    """The machine's clock."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class StageContext:
    """What every stage of a worker is given. `topic_ids`: Kafka's id per topic; `now`: the UTC clock.

    `dead_letter_stop`: reasons at which a stage stops, once the dead letter is committed, unless it was dealt with.
    """

    lake: Lake
    topic_ids: Mapping[str, str]
    writer: str
    now: Callable[[], datetime] = utc_now
    dead_letter_stop: frozenset[str] = frozenset()


class Stage(ABC):
    """One stage of one worker; used by one thread at a time."""

    name: str
    log_name: str
    side_tables: tuple[str, ...] = ()
    recent: RecentCommits
    """Of the log, as the last opening found it."""

    def __init__(self, context: StageContext, con: duckdb.DuckDBPyConnection, topics: Sequence[str]) -> None:
        self.context = context
        self.con = con
        self.topics = tuple(topics)
        self.control = Control(context.lake, con)
        self.loading = Loading(con, self.name)
        self.structure = StructureWatch()
        self.activity = Activity(self.name, now=context.now)
        self.buckets: frozenset[int] = frozenset()
        self.parked: frozenset[int] = frozenset()
        self.epochs: dict[int, int] = {}
        self.positions: dict[tuple[str, int], int] = {}
        self.side_positions: dict[str, dict[tuple[str, int], int]] = {}
        self.news = False
        self.more_soon = False
        self._stored_topic_ids: dict[str, str] = {}
        self._rows_per_bucket: dict[int, int] = {}
        self._logs: dict[str, FencedLog] = {}
        self._lane = CommitLane()

    # --- ids -----------------------------------------------------------------------------------------------------

    def epoch_id(self, bucket: int) -> str:
        """The application id of a bucket's epoch; the same in every table, as fence and as cursor."""
        return f"epoch:{self.name}:{bucket}"

    def _offset_ids(self) -> dict[str, tuple[str, int]]:
        return {f"offset:{t}:{b}": (t, b) for t in self.topics for b in sorted(self.buckets)}

    def _side_ids(self) -> dict[str, tuple[str, int]]:
        """Ids of the marks of side tables; with Kafka's id of the topic, so that a topic made anew has none."""
        ids = self.context.topic_ids
        return {f"side:{t}:{ids[t]}:{b}": (t, b) for t in self.topics for b in sorted(self.buckets)}

    def extra_ids(self, table: str) -> tuple[str, ...]:
        """Further application ids that the stage keeps in a table for its buckets."""
        return ()

    @property
    def tables(self) -> tuple[str, ...]:
        """Every table that the stage writes, the log first."""
        return (self.log_name, *self.side_tables, DEAD_LETTERS.name, EPOCHS.name)

    # --- opening -------------------------------------------------------------------------------------------------

    def assign(self, buckets: frozenset[int]) -> dict[tuple[str, int], StoredPosition | None]:
        """Owns exactly these buckets: opens when some are gained, drops the state of the lost ones.

        Returns where to read next per topic and bucket. Buckets left out are parked: given to this worker, but written
        by a newer version of the program, so that this one must not touch them (R10).
        """
        gained = buckets - self.buckets
        lost = self.buckets - buckets
        self.loading.rows = 0
        self.buckets = buckets
        self.parked = frozenset()
        if lost:
            self._own(self.epochs)
            self.drop_lost()
            self.epochs = {b: e for b, e in self.epochs.items() if b in buckets}
            self.positions = {p: o for p, o in self.positions.items() if p[1] in buckets}
        # Lost buckets leave the ids too: a handle that carries them would be refused when their owner commits.
        if gained:
            with self.loading.of(len(gained)):
                self._open(gained)
        elif lost:
            self._open(gained)
        self.activity.opened(self.buckets, self.positions, parked=self.parked)
        found = {
            (t, b): StoredPosition(self.positions[t, b], self._stored_topic_ids.get(t, self.context.topic_ids[t]))
            if (t, b) in self.positions
            else None
            for t in self.topics
            for b in self.buckets
        }
        self._forget_former_topics()
        return found

    def _forget_former_topics(self) -> None:
        """The positions of a topic that was made anew mean nothing in the new one.

        Whoever reads on (`--accept-gap`) begins a new count; until then the lake says 0, which skips nothing.
        """
        for topic in self.topics:
            if self._stored_topic_ids.get(topic, self.context.topic_ids[topic]) != self.context.topic_ids[topic]:
                self.positions.update({place: 0 for place in self.positions if place[0] == topic})

    def _open(self, gained: frozenset[int]) -> None:
        self._logs = {table: self.context.lake.fenced(table) for table in self.tables}
        stored = self._open_log(kept={b: self.epochs[b] for b in self.buckets - gained})
        if not self.buckets:
            return
        gained -= self.parked
        # The log came first: who is refused there must not touch the other tables.
        with ThreadPoolExecutor(len(self.tables)) as pool:
            others = [t for t in self.tables if t != self.log_name]
            stored |= zip(others, pool.map(lambda t: self._open_table(t, stored[t]), others), strict=True)
        log_ids = stored[self.log_name]
        for app_id, place in self._offset_ids().items():
            if place[1] in gained and app_id in log_ids:
                self.positions[place] = log_ids[app_id]
        for table in (*self.side_tables, DEAD_LETTERS.name):
            marks = self.side_positions.setdefault(table, {})
            for app_id, place in self._side_ids().items():
                if app_id in stored[table]:
                    marks[place] = stored[table][app_id]
        self.recent = RecentCommits(self.context.lake, stage=self.name, log_name=self.log_name)
        read = [b for b in sorted(gained) if any((t, b) in self.positions for t in self.topics)]
        self._stored_topic_ids = self.recent.topic_ids(self.con, read)
        self._own(self.epochs)
        if gained:
            self.control.refresh()
            try:
                self.load_gained(gained, stored)
            finally:
                self.settle()

    def _open_log(self, *, kept: Mapping[int, int]) -> dict[str, Mapping[str, int]]:
        """Opens the log with the next epoch of all buckets but those parked; returns the ids of every table as read.

        `kept`: buckets whose state stays, with the epochs at which we left them. Raises FencedError when one of them
        had another owner meanwhile: a worker that slept through it does not learn of it from Kafka.
        """
        while True:
            with ThreadPoolExecutor(len(self.tables)) as pool:
                found = pool.map(lambda table: self._logs[table].stored(self._ids_of(table)), self.tables)
                stored: dict[str, Mapping[str, int]] = dict(zip(self.tables, found, strict=True))
            for bucket, epoch in kept.items():
                if stored[self.log_name].get(self.epoch_id(bucket)) != epoch:
                    raise FencedError(f"{self.log_name}: bucket {bucket} had another owner since our epoch {epoch}")
            self.parked = self.written_by_newer(stored)
            if self.parked:
                self.buckets -= self.parked
                stored = {t: {i: v for i, v in ids.items() if i in self._ids_of(t)} for t, ids in stored.items()}
            if not self.buckets:
                return stored
            for bucket in self.buckets:
                last = max((s.get(self.epoch_id(bucket), 0) for s in stored.values()), default=0)
                self.epochs[bucket] = max(last, self.epochs.get(bucket, 0)) + 1
            try:
                self._open_at(self.log_name, stored[self.log_name])
                return stored
            except MovedError as error:
                log.info("stage %s opens again: %s", self.name, error)

    def _open_table(self, table: str, seen: Mapping[str, int]) -> Mapping[str, int]:
        """Opens a table at the epochs of the log's opening; returns its ids as they stood right before.

        Raises FencedError when a later owner was here first: this worker slept between two openings.
        """
        while True:
            if any(seen.get(self.epoch_id(b), 0) >= e for b, e in self.epochs.items()):
                raise FencedError(f"{table}: another worker opened one of our buckets after us")
            try:
                self._open_at(table, seen)
                return seen
            except MovedError as error:
                log.info("stage %s opens again: %s", self.name, error)
                seen = self._logs[table].stored(self._ids_of(table))

    def _open_at(self, table: str, seen: Mapping[str, int]) -> None:
        self._logs[table].open({**seen, **self._fence()}, self._metadata("opening"), seen=seen)

    def written_by_newer(self, stored: Mapping[str, Mapping[str, int]]) -> frozenset[int]:
        """Buckets that a newer version of the program has written; `stored`: the ids of the tables, by name."""
        return frozenset()

    def _ids_of(self, table: str) -> tuple[str, ...]:
        ids = [self.epoch_id(b) for b in sorted(self.buckets)]
        if table == self.log_name:
            ids += self._offset_ids()
        elif table != EPOCHS.name:
            ids += self._side_ids()
        return (*ids, *self.extra_ids(table))

    def _own(self, epochs: Mapping[int, int]) -> None:
        table = pa.table(
            {
                "bucket": pa.array(list(epochs), pa.int32()),
                "epoch": pa.array(list(epochs.values()), pa.int64()),
            }
        )
        self.con.register("owned_arrow", table)
        self.con.execute(f"CREATE OR REPLACE TEMP TABLE {OWNED} AS SELECT * FROM owned_arrow")
        self.con.unregister("owned_arrow")

    @abstractmethod
    def load_gained(self, gained: frozenset[int], stored: Mapping[str, Mapping[str, int]]) -> None:
        """Reads the state of gained buckets from the lake and derives again what lies beyond the cursors."""

    @abstractmethod
    def drop_lost(self) -> None:
        """Forgets the state of buckets that are not owned any more."""

    # --- one epoch -----------------------------------------------------------------------------------------------

    @abstractmethod
    def poll_news(self) -> None:
        """Sets `news` when something other than records asks for an epoch: new prices, control entries."""

    @property
    def unsettled(self) -> bool:
        """Whether a cursor waits for the next commit."""
        return False

    def run_epoch(self, chunks: Sequence[Chunk], *, more_soon: bool = False) -> EpochNotes:
        """Applies the chunks, commits, derives. On an error the state is not to be trusted any more.

        `more_soon`: much of a further epoch waits or is on its way; what would be derived twice may wait for it.
        """
        self.epochs = {b: e + 1 for b, e in self.epochs.items()}
        self.more_soon = more_soon
        with self.activity.epoch(self._epoch_name()) as notes:
            try:
                self._run_epoch(chunks, notes)
            finally:
                self.settle()
            for alarm in self.structure.look(chunks):
                log.error("alarm: %s", alarm)
            self.news = False
            notes.positions = self.positions
        return notes

    def settle(self) -> None:
        """Returns when all that the stage handed over is committed; raises what refused it."""
        with self.activity.waiting("commit"):
            self._lane.settle()

    def _put(self, table: str, commit: Callable[[], object]) -> None:
        """Has a commit to a table made beside what is computed next, after those before it."""

        def noted() -> None:
            with self.activity.beside("commit", table):
                commit()

        self._lane.put(noted)

    def _epoch_name(self) -> str:
        """Names the epoch in logs and traces: its commit is the only one in which this bucket reached this epoch."""
        bucket = min(self.epochs, default=0)
        return f"{self.name}:{bucket}:{self.epochs.get(bucket, 0)}"

    def _run_epoch(self, chunks: Sequence[Chunk], notes: EpochNotes) -> None:
        notes.read, notes.newest, notes.dead = sum(c.read for c in chunks), newest_of(chunks), reasons_of(chunks)
        notes.decoded = [(c.topic, *c.decoded) for c in chunks if c.decoded is not None]
        for chunk in chunks:
            notes.ignored.update(chunk.ignored)
            self._move_positions(chunk)
            for truncate in chunk.truncates:
                self.context.lake.control.truncate(truncate.table, truncate.row_order, truncate.source_ts_ms)
        if any(c.truncates for c in chunks):
            self.control.refresh()
        self._own(self.epochs)
        self._commit_dead(chunks)
        self.apply_and_commit(chunks, notes)
        self._put(EPOCHS.name, lambda: self._commit_epochs_row(notes))

    def _move_positions(self, chunk: Chunk) -> None:
        for bucket, position in chunk.positions.items():
            if bucket not in self.buckets:
                raise InvariantError(f"{chunk.topic}-{bucket}: records of a bucket that is not owned")
            self.positions[chunk.topic, bucket] = position

    def _commit_dead(self, chunks: Sequence[Chunk]) -> None:
        if not any(c.dead.num_rows for c in chunks):
            return
        rows = pa.concat_tables(
            [self.beyond_side(DEAD_LETTERS.name, c.dead, c.topic, partition="partition") for c in chunks]
        )
        now = self.context.now()
        rows = rows.append_column(
            "known_from", pa.array([now] * rows.num_rows, DEAD_LETTERS.schema.field("known_from").type)
        )
        rows = rows.append_column("known_date", pa.array([now.date()] * rows.num_rows, pa.date32()))
        self.commit_side(DEAD_LETTERS.name, rows.cast(DEAD_LETTERS.schema))
        # What was refused before a restart counts again: the log stays before it while its letter is open.
        refused = refused_for(self.context.dead_letter_stop, [c.dead for c in chunks])
        if refused.num_rows:
            self.settle()
            stop_at(refused, dealt_with=self._dealt_with(refused))
            log.info("stage %s passes %d records whose dead letters were dealt with", self.name, refused.num_rows)

    def _dealt_with(self, refused: pa.Table) -> set[Place]:
        """The places of letters, which are committed, that a person replayed or discarded since."""
        letters, actions = (self.context.lake.relation(t.name) for t in (DEAD_LETTERS, DEAD_LETTER_ACTIONS))
        self.con.register("refused_arrow", refused)
        places: set[Place] = set(self.con.sql(dealt_with_sql(letters, actions, places="refused_arrow")).fetchall())
        self.con.unregister("refused_arrow")
        return places

    def beyond_side(self, table: str, rows: pa.Table, topic: str, *, partition: str) -> pa.Table:
        """The rows of one topic that the side table lacks: at or beyond its own offset of their partition."""
        for (mark_topic, bucket), position in self.side_positions.get(table, {}).items():
            if mark_topic == topic:
                offset = rows["row_offset"]
                read = pc.and_(pc.greater_equal(offset, 0), pc.less(offset, position))  # below 0: it was not read
                rows = rows.filter(pc.invert(pc.and_(pc.equal(rows[partition], bucket), read)))
        return rows

    def commit_side(self, table: str, rows: pa.Table, extra: Mapping[str, int] | None = None) -> None:
        """Commits rows that cannot be derived again, with the positions through which they are complete."""
        marks = self.side_positions.setdefault(table, {})
        # After a restart an epoch may end before the mark, which must stay: rows up to it are in the table.
        marks.update({p: max(o, marks.get(p, 0)) for p, o in self.positions.items()})
        ids = {i: marks[p] for i, p in self._side_ids().items() if p in marks}
        self._put(table, partial(self._logs[table].append, rows, self._fence() | ids | dict(extra or {})))

    def commit_log(self, rows: pa.Table, extra: Mapping[str, int], notes: EpochNotes) -> None:
        """Commits the stage's log: rows, epochs, positions and cursors in one (R5)."""
        ids = {i: self.positions[p] for i, p in self._offset_ids().items() if p in self.positions}
        notes.log_rows = rows.num_rows
        self._rows_per_bucket = dict(Counter(rows["bucket"].to_pylist())) if rows.num_rows < 1000 else _count(rows)
        counts = {"ignored": dict(notes.ignored), "read": notes.read, "dead": notes.dead.total()}
        metadata = self._metadata("epoch") | counts
        fenced = self._fence() | ids | dict(extra)

        def commit() -> None:
            notes.commit_id = self._logs[self.log_name].append(rows, fenced, metadata)

        self._put(self.log_name, commit)

    def commit_derived(self, table: str, rows: pa.Table, extra: Mapping[str, int]) -> None:
        """Commits derived rows with the cursor that says how far they go (R6)."""
        append = self._logs[table].append
        self._put(table, partial(append, rows, self._fence() | dict(extra), self._metadata("derived")))

    def _fence(self) -> dict[str, int]:
        return {self.epoch_id(b): e for b, e in self.epochs.items()}

    def _metadata(self, kind: str) -> dict[str, Any]:
        return {
            "kind": kind,
            "stage": self.name,
            "writer": self.context.writer,
            "epochs": {str(b): e for b, e in self.epochs.items()},
            "topic_ids": {t: self.context.topic_ids[t] for t in self.topics},
            "control_version": self.control.version,
            **self.extra_metadata(),
        }

    def extra_metadata(self) -> dict[str, Any]:
        """What else stands in each commit's metadata."""
        return {}

    def known_through(self) -> datetime:
        """No row of this epoch or before will be known at or before this time."""
        return self.context.now()

    @abstractmethod
    def apply_and_commit(self, chunks: Sequence[Chunk], notes: EpochNotes) -> None:
        """Merges the chunks into the state, commits the log, derives."""

    def _commit_epochs_row(self, notes: EpochNotes) -> None:
        now = self.context.now()
        through = notes.known_through = self.known_through()
        sku_versions = self.extra_metadata().get("sku_versions")
        rows = [
            {
                "stage": self.name,
                "bucket": b,
                "epoch": e,
                "known_through": through,
                "offsets": [
                    {"topic": t, "topic_id": self.context.topic_ids[t], "next_offset": self.positions[t, b]}
                    for t in self.topics
                    if (t, b) in self.positions
                ],
                "sku_versions": sku_versions,
                "control_version": self.control.version,
                "rows": self._rows_per_bucket.get(b, 0),
                "writer": self.context.writer,
                "commit_id": notes.commit_id,
                "committed_at": now,
                "known_date": now.date(),
            }
            for b, e in sorted(self.epochs.items())
        ]
        self._logs[EPOCHS.name].append(pa.Table.from_pylist(rows, schema=EPOCHS.schema), self._fence())


def _count(rows: pa.Table) -> dict[int, int]:
    counts = rows["bucket"].value_counts()
    return {c["values"].as_py(): c["counts"].as_py() for c in counts}
