"""`trs bootstrap diff`: what differs between a source and the lake, sent as row events of op `c`, `u` and `d`.

A run is registered (R3), waits until the lake has read what the topics hold, and compares table by table, SKUs before
lines. Each chunk that differs is one Kafka transaction that carries the position of its own read; keys of which the
lake has a later state are left alone. Nothing is kept between runs: what a killed run did not send, the next one finds.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import duckdb

from batch_bootstrap.compare import Comparison, Found, LakeTables, Workspace
from batch_bootstrap.dead_letters import dead_letter_values
from batch_bootstrap.events import Op, Stamp, connect, row_events
from batch_bootstrap.lake_wait import Place, ReadPositions, wait_for_lake
from batch_bootstrap.order_checks import NewestOrder, check_order
from batch_bootstrap.read_ahead import ReadAhead
from batch_bootstrap.runs import RunRegistry, begin_diff, check_folder, work_folder
from batch_bootstrap.snapshot import Report, table_groups
from batch_bootstrap.source import Source
from connectors.kafka import KafkaConfig, TransactionalProducer, ensure_topics, watermarks
from connectors.source_rows import Reject
from processors.errors import FencedError, TrsError
from processors.order import BATCH_SOURCE_NAME
from processors.tables import DEAD_LETTERS_TOPIC, Table, all_topics, topic_of

_OPS: tuple[Op, ...] = ("d", "u", "c")
_SHOWN_REJECTS = 5


@dataclass(frozen=True)
class DiffConfig:
    """`source_names`: names of sources with a binlog, oldest first (R2). `state`: folder for temporary files.

    `wait_s`: how long a lake that reads nothing is waited for. `memory_mb`: what the rows being compared may take.
    """

    topic_prefix: str
    partitions: int
    source_names: tuple[str, ...]
    state: Path
    chunk_rows: int
    wait_s: float = 300.0
    memory_mb: int = 2000
    threads: int = 2
    accept_empty: bool = False


@dataclass
class TableSummary:
    """What was compared, found and sent of one table. `newer`: rows of which the lake has a later state, left alone."""

    compared: int = 0
    read: int = 0
    chunks: int = 0
    chunks_read: int = 0
    created: int = 0
    updated: int = 0
    deleted: int = 0
    newer: int = 0
    rejects: int = 0
    bytes_read: int = 0
    seconds: float = 0.0

    def add(self, found: Found) -> None:
        """Counts a step."""
        self.compared += found.compared
        self.read += found.read
        self.chunks += found.steps
        self.chunks_read += found.steps_read
        self.newer += found.newer
        self.rejects += len(found.rejects)
        self.bytes_read += found.bytes_read
        for op, rows in found.changes.items():
            name = {"c": "created", "u": "updated", "d": "deleted"}[op]
            setattr(self, name, getattr(self, name) + rows.num_rows)

    @property
    def changed(self) -> int:
        """Rows that differ and are not left alone."""
        return self.created + self.updated + self.deleted


@dataclass
class DiffSummary:
    """What a run did. `emitted`: row events that Kafka acknowledged. `waited_s`: for the lake, part of `seconds`."""

    run: int
    source: str
    tables: dict[str, TableSummary] = field(default_factory=dict)
    finished: bool = False
    emitted: int = 0
    seconds: float = 0.0
    waited_s: float = 0.0
    notices: list[str] = field(default_factory=list)

    def total(self, name: str) -> int:
        """A count over all tables."""
        return sum(getattr(table, name) for table in self.tables.values())


@dataclass(frozen=True)
class Lake:
    """What a run needs of the lake. `rows` is opened anew for each run. `known_rejects`: raw texts of rows that are
    among the dead letters already."""

    open_registry: Callable[[], RunRegistry]
    positions: Callable[[], ReadPositions]
    rows: Callable[[], LakeTables]
    newest_order: NewestOrder
    known_rejects: Callable[[], set[str]] = set


@dataclass(frozen=True)
class Watcher:
    """Who watches a run: `stopped` is asked between chunks; `report` moves bars, `announce` tells a line."""

    stopped: Callable[[], bool] = lambda: False
    report: Report = lambda table, rows, estimate: None
    announce: Callable[[str], None] = lambda line: None


@dataclass(frozen=True)
class Messages:
    """What was found in one step, as keys and values per op, and dead letters."""

    found: Found
    by_op: Sequence[tuple[Sequence[bytes], Sequence[bytes]]]
    dead: Sequence[bytes]


def run_diff(
    source: Source, config: DiffConfig, lake: Lake, *, kafka: KafkaConfig, watcher: Watcher | None = None
) -> DiffSummary:
    """Compares everything and sends what differs.

    Raises SourceError when a check of the source fails, CdcOpenError for a source without binlog positions after those
    of another, UnavailableError when the lake does not read, UsageError while a snapshot is unfinished, FencedError
    when a newer run took over. Whatever ends it, the next run mends.
    """
    watcher = watcher or Watcher()
    started = time.monotonic()
    source.preflight()
    check_folder(config.state)
    ensure_topics(kafka, all_topics(config.topic_prefix), config.partitions)
    registry = lake.open_registry()
    check_order(source, lake.newest_order)
    name = config.source_names[-1] if source.has_binlog else BATCH_SOURCE_NAME
    run = begin_diff(registry, name, source.description)
    summary = DiffSummary(run, source.description, notices=source.notices)
    try:
        producer = TransactionalProducer(kafka, f"trs-bootstrap-{registry.generation()}")
        try:
            began = time.monotonic()
            if wait_until_read(source, config, lake, kafka, watcher):
                summary.waited_s = time.monotonic() - began
                _compare_and_send(source, config, lake, producer, summary, watcher)
        finally:
            producer.close()
        if run not in {r.run for r in registry.open_runs()}:
            raise FencedError(f"run {run} was given up, because a newer one began", hint="let that one finish")
    except BaseException:
        with suppress(TrsError):  # the next run ends it; what went wrong first is told
            registry.close_run(run, {"abandoned": True})
        raise
    summary.seconds = time.monotonic() - started
    registry.close_run(run, _outcome(summary))
    return summary


def wait_until_read(source: Source, config: DiffConfig, lake: Lake, kafka: KafkaConfig, watcher: Watcher) -> bool:
    """Waits until the lake has read the topics up to where they end now; False when it was stopped."""
    names = [*(table.name for table in source.tables()), DEAD_LETTERS_TOPIC]
    topics = [topic_of(config.topic_prefix, name) for name in names]
    held: Mapping[Place, tuple[int, int]] = watermarks(kafka, topics)
    return wait_for_lake(
        lake.positions(),
        held,
        timeout_s=config.wait_s,
        stopped=watcher.stopped,
        report=lambda read, records: watcher.report("waiting for the lake", read, records) if records else None,
        announce=watcher.announce,
    )


def _outcome(summary: DiffSummary) -> dict[str, Any]:
    if not summary.finished:
        return {"abandoned": True}
    return {"emitted": summary.emitted, "rows": {name: table.changed for name, table in summary.tables.items()}}


def _compare_and_send(
    source: Source,
    config: DiffConfig,
    lake: Lake,
    producer: TransactionalProducer,
    summary: DiffSummary,
    watcher: Watcher,
) -> None:
    """Sets `finished` once every table was compared and every change acknowledged."""
    with work_folder(config.state) as folder:
        rows = lake.rows()
        with Workspace(folder, rows, memory_mb=config.memory_mb, threads=config.threads) as workspace:
            comparison = Comparison(
                source,
                workspace,
                source_epoch=len(config.source_names),
                run=summary.run,
                chunk_rows=config.chunk_rows,
                accept_empty=config.accept_empty,
                announce=summary.notices.append,
            )
            known = cache(lake.known_rejects)  # read once a row is rejected
            numbers = iter(range(1, 10**13))
            for group in table_groups(source):
                estimates = {table.name: source.row_estimate(table) for table in group}
                for table in group:
                    watcher.report(table.name, 0, estimates[table.name])
                readers = [partial(_messages, comparison, table, config, known, numbers) for table in group]
                started = time.monotonic()
                with ReadAhead(readers) as items:
                    for item in items:
                        if watcher.stopped():
                            return
                        send(producer, config, item)
                        told = summary.tables.setdefault(item.found.table.name, TableSummary())
                        told.add(item.found)
                        told.seconds = time.monotonic() - started
                        summary.emitted += item.found.changed
                        _note_rejects(summary, item.found)
                        watcher.report(item.found.table.name, told.compared, estimates[item.found.table.name])
    summary.finished = True


def send(producer: TransactionalProducer, config: DiffConfig, item: Messages) -> None:
    """One transaction, or none where there is nothing to send."""
    if not item.found.changed and not item.dead:
        return
    producer.begin()
    for keys, values in item.by_op:
        producer.send(topic_of(config.topic_prefix, item.found.table.name), keys, values)
    producer.send(topic_of(config.topic_prefix, DEAD_LETTERS_TOPIC), [None] * len(item.dead), item.dead)
    producer.commit()


def _note_rejects(summary: DiffSummary, found: Found) -> None:
    shown = sum(t.rejects for t in summary.tables.values()) - len(found.rejects)
    for reject in found.rejects[: max(0, _SHOWN_REJECTS - shown)]:
        summary.notices.append(f"{reject.table}: a row is not as declared and was not compared: {reject.detail}")


def _messages(
    comparison: Comparison, table: Table, config: DiffConfig, known: Callable[[], set[str]], numbers: Iterator[int]
) -> Iterator[Messages]:
    """What differs in a table as messages. `numbers`: places of rows without a position, in the order of reading."""
    con = connect()
    try:
        for found in comparison.of_table(table):
            fresh = [r for r in found.rejects if r.raw not in known()]
            yield messages_of(con, comparison, config, found, numbers, fresh)
    finally:
        con.close()


def messages_of(
    con: duckdb.DuckDBPyConnection,
    comparison: Comparison,
    config: DiffConfig,
    found: Found,
    numbers: Iterator[int],
    rejects: Sequence[Reject] = (),
) -> Messages:
    """The changes as row events at the position of their read, and rejects as dead letters."""
    source, table, position = comparison.source, found.table, found.position
    by_op = []
    for op in _OPS:
        if op not in found.changes:
            continue
        if position is None:
            file = f"run.{comparison.run:010d}"
            stamp = Stamp(BATCH_SOURCE_NAME, source.database, file, next(numbers), found.read_ms, True)
        else:
            stamp = Stamp(config.source_names[-1], source.database, position.file, position.pos, found.read_ms)
        keys = source.numeric_keys(table)
        by_op.append(row_events(con, table, found.changes[op], stamp, op=op, numeric_keys=keys))
    dead = dead_letter_values(rejects, origin=source.origin, run=comparison.run, ts_ms=found.read_ms)
    return Messages(found, by_op, dead)
