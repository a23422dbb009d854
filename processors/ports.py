"""What the pure core asks of the outside, and what the worker's shell asks of the core, as Protocols."""

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import duckdb
import pyarrow as pa

from processors.activity import Activity
from processors.keyed_table import KeyedTable
from processors.records import RawBatch


@dataclass(frozen=True)
class StoredPosition:
    """Where the lake stands in one topic-partition: the next offset to read, and the topic's Kafka id then."""

    next_offset: int
    topic_id: str


@dataclass(frozen=True)
class LakeProgress:
    """How far the lake is, over all buckets and all workers, read afresh from the lake.

    `positions`: next offset per (topic, partition) that is committed; a missing entry means nothing was read.
    `documents_settled`: every document and line that committed invoice epochs caused was acknowledged by the broker.
    `features_settled`: every feature set is derived through the last epoch of every bucket of its stage.
    """

    positions: Mapping[tuple[str, int], int]
    documents_settled: bool
    features_settled: bool


LoadStep = Literal["opening tables", "reading rows", "deriving"]


@dataclass(frozen=True)
class LoadProgress:
    """How far a stage is with loading the state of buckets that it gained.

    `folded_rows`, `log_rows`: rows to be read of its folded tables and of its logs beyond the folds, by Delta's log; 0
    while tables are opened. `share`: the part of them that was read, 0 to 1. `seconds`: since the load began.
    """

    stage: str
    buckets: int
    step: LoadStep
    folded_rows: int
    log_rows: int
    share: float
    seconds: float


@dataclass(frozen=True)
class StateMemory:
    """What an engine's state takes, and its share of the budget TRS_MEMORY_MB. `spilled_bytes`: on disk."""

    used_bytes: int
    budget_bytes: int
    spilled_bytes: int


class Engine(Protocol):
    """The stages of one worker, driven by the shell that owns the Kafka consumer.

    All methods are thread-safe and blocking; the shell calls those that touch the lake (`assign`, `revoke`, `progress`,
    `stop`) in a thread. A failure inside ends the worker: `failure` is then completed with the exception.
    """

    failure: "Future[None]"

    @property
    def topics(self) -> tuple[str, ...]:
        """Every topic to subscribe to; all have the same number of partitions."""

    def start(self) -> None:
        """Begins to work; buckets come with `assign`."""

    def assign(self, buckets: frozenset[int]) -> Mapping[tuple[str, int], StoredPosition | None]:
        """Takes over exactly these buckets: opens those gained, keeps those held, drops the others.

        Returns for each topic and each bucket where to read next; None: the lake has no entry, start at the beginning.
        What is left out is not to be read: it is parked (see `parked`).
        Whatever was offered before and not applied is forgotten: the shell must seek to the returned positions.
        """

    @property
    def parked(self) -> frozenset[int]:
        """Buckets that were assigned but hold features of a newer version: a worker of that version must take them."""

    @property
    def loading(self) -> LoadProgress | None:
        """How far the stage is that loads state just now, within `assign`; None when none does. Does not wait."""

    @property
    def memory(self) -> StateMemory | None:
        """What the state takes now; None where that is not known. Does not wait."""

    def revoke(self) -> None:
        """A rebalance begins: finishes the commit in flight and accepts nothing until the next `assign`."""

    def expect(self, behind: Mapping[tuple[str, int], int]) -> None:
        """How many records Kafka holds in each (topic, partition) from where the shell begins to read."""

    def offer(self, batch: RawBatch) -> None:
        """Takes a batch. Batches of a partition must be contiguous (`start_offset` = the previous `next_offset`, at
        first the position returned by `assign` or the one the shell chose in its place). Batches of a partition that
        is not assigned, or offered between `revoke` and `assign`, are dropped: they will be fetched again."""

    def has_room(self) -> bool:
        """False while so much is buffered that the shell should wait before it offers more."""

    def set_draining(self) -> None:
        """The shell wants everything settled soon: cursors that wait for a next epoch are committed at once."""

    def progress(self) -> LakeProgress:
        """Reads the lake afresh."""

    @property
    def activities(self) -> Mapping[str, Activity]:
        """What each stage does and did, by its name; not to be changed."""

    @property
    def conflicts(self) -> Mapping[tuple[str, str], int]:
        """Commits that were refused, by table and what came of it: `again`, `fenced` or `moved`."""

    def status(self) -> Mapping[str, object]:
        """What the pages show: per stage the buckets, last epoch, its seconds and rows, buffered events, counts of
        applied, ignored (by reason) and dead records."""

    def stop(self) -> None:
        """Finishes the commit in flight, commits nothing new, releases everything."""


class DocumentSink(Protocol):
    """Where stage A sends documents, or charged lines: a Kafka topic, partitioned by murmur2 of the key."""

    @property
    def partitions(self) -> int:
        """How many the topic has."""

    def send(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Takes messages; nothing is certain before `flush` returned. Raises UnavailableError."""

    def flush(self) -> Mapping[int, int]:
        """Returns when the broker has acknowledged all that was sent: an offset per partition that is beyond it.

        Raises UnavailableError when it did not; some may have arrived, so the caller sends them all again later.
        """


@dataclass(frozen=True)
class ControlEntry:
    """One row of the control log; `detail` is its JSON."""

    entry: int
    kind: str
    table_name: str | None = None
    row_order: int | None = None
    run: int | None = None
    source_name: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OpenRun:
    """A bootstrap run that was registered and has not ended."""

    run: int
    source_name: str
    detail: Mapping[str, Any]


class FencedLog(Protocol):
    """A table written by one worker for the buckets that it owns (R5, R8)."""

    name: str

    def stored(self, ids: tuple[str, ...]) -> dict[str, int]:
        """What a fresh look at the table shows for these application ids; absent ones are left out."""

    def open(self, ids: Mapping[str, int], metadata: Mapping[str, Any], *, seen: Mapping[str, int]) -> None:
        """Commits an opening with all ids that this writer owns.

        `seen`: what `stored` last said of them. Raises MovedError when that is not so any more.
        """

    def append(self, rows: pa.Table | None, ids: Mapping[str, int], metadata: Mapping[str, Any] | None = None) -> str:
        """Appends rows and moves these ids, atomically; returns the commit's id.

        Raises FencedError or StateUnknownError; waits while the table is busy.
        """


class NewFiles(Protocol):
    """Follows the files of an append-only table."""

    def new_files(self) -> list[str]:
        """Files that were not returned before."""


@dataclass(frozen=True)
class KeyedFiles:
    """A keyed table as of now: SQL of subqueries over its log and its folded table, and how many rows these give.

    `log_rows`: those that are not folded. Both counts are Delta's own, as far as nothing was deleted from the log.
    """

    log: str
    folded: str
    folded_rows: int
    log_rows: int


class Control(Protocol):
    """The control log, as the worker uses it."""

    def entries(self) -> list[ControlEntry]:
        """All entries in order."""

    def truncate(self, table_name: str, row_order: int, source_ts_ms: int) -> None:
        """Records a truncate (R4); a repetition changes nothing."""


class Lake(Protocol):
    """What the stages need of the lake."""

    @property
    def control(self) -> Control:
        """The control log."""

    @property
    def generation(self) -> str:
        """The lake's generation (R12)."""

    @property
    def conflicts(self) -> Mapping[tuple[str, str], int]:
        """How often commits were refused, by table and outcome: `again` (tried again), `fenced` or `moved`."""

    def prepare(self, con: duckdb.DuckDBPyConnection) -> None:
        """Makes the lake's files readable from this connection."""

    def relation(self, name: str, files: Sequence[str] | None = None) -> str:
        """SQL of a subquery over a table's active files as of now, or over the given files."""

    def keyed(self, table: KeyedTable, homes: Collection[int] | None = None) -> KeyedFiles:
        """A keyed table; of the folded one only the partitions of these buckets, if any are named."""

    def fenced(self, name: str) -> FencedLog:
        """A new writer of a table."""

    def follow(self, name: str) -> NewFiles:
        """A new follower of a table's files."""

    def recent_commits(self, name: str, limit: int) -> Sequence[Mapping[str, Any]]:
        """What the stages wrote into the metadata of a table's last commits, newest first; one request per commit."""
