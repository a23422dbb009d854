"""`trs bootstrap snapshot`: every row of a source as a row event of op `r`, resumable by chunk.

A run is registered before it reads (R3). Each chunk is one Kafka transaction; then the run's progress is saved. After a
kill the same command goes on behind the last saved chunk: the chunk in between is sent twice at most, with the same
order, which changes nothing. A source with a binlog is read by several connections side by side, SKUs before the rest.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from batch_bootstrap.dead_letters import dead_letter_values
from batch_bootstrap.events import Stamp, connect, row_events
from batch_bootstrap.order_checks import NewestOrder, check_order, check_position
from batch_bootstrap.read_ahead import ReadAhead
from batch_bootstrap.runs import ProgressFile, RunProgress, RunRegistry, check_folder, give_up_diffs
from batch_bootstrap.source import Source
from connectors.kafka import KafkaConfig, TransactionalProducer, check_topics, ensure_topics
from connectors.source_rows import Chunk, Finding
from processors.errors import UsageError
from processors.order import BATCH_SOURCE_NAME
from processors.tables import DEAD_LETTERS_TOPIC, SKUS, Table, all_topics, topic_of

_SHOWN_FINDINGS = 5

Report = Callable[[str, int, int | None], None]
"""Called with a table's name, the rows sent so far (in this and earlier attempts) and about how many there are."""


@dataclass(frozen=True)
class SnapshotConfig:
    """`source_names`: of sources with a binlog, the newest last (R2). `state`: folder in which progress is kept."""

    topic_prefix: str
    partitions: int
    source_names: tuple[str, ...]
    state: Path


@dataclass
class SnapshotSummary:
    """What a run has sent, earlier attempts included; `seconds` and `sent` are of this attempt alone."""

    run: int
    source: str
    resumed: bool
    progress: RunProgress
    topics_made: tuple[str, ...]
    finished: bool = False
    sent: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Messages:
    chunk: Chunk
    keys: Sequence[bytes]
    values: Sequence[bytes]
    dead: Sequence[bytes]


def run_snapshot(
    source: Source,
    config: SnapshotConfig,
    *,
    kafka: KafkaConfig,
    open_registry: Callable[[], RunRegistry],
    newest_order: NewestOrder,
    restart: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    report: Report = lambda table, rows, estimate: None,
    announce: Callable[[str], None] = lambda line: None,
) -> SnapshotSummary:
    """Sends the whole source, or what an open run of it has not sent yet.

    `open_registry` is called once every check of source and topics has passed. `restart` abandons open runs. `stopped`
    is asked between chunks; once true, the summary's `finished` stays False and the same call resumes. Raises
    SourceError before anything is sent when a check fails, also where the lake holds rows of a later place than the
    source's; CdcOpenError for a source without binlog positions after those of another; FencedError when a newer
    snapshot took over.
    """
    started = time.monotonic()
    source.preflight()
    topics = all_topics(config.topic_prefix)
    check_topics(kafka, topics, config.partitions)
    check_folder(config.state)
    registry = open_registry()
    check_order(source, newest_order)
    check_position(source, len(config.source_names), newest_order)
    run, resumed = _register(source, config, registry, restart=restart)
    if resumed:
        announce(f"run {run} of {source.description} was not finished: it goes on (--restart begins a new one)")
    made = ensure_topics(kafka, topics, config.partitions)
    file = ProgressFile(config.state, registry.generation(), run)
    progress = file.load()
    summary = SnapshotSummary(run, source.description, resumed, progress, made, notices=source.notices)
    producer = TransactionalProducer(kafka, f"trs-bootstrap-{registry.generation()}")
    try:
        for group in table_groups(source):
            if not _send_group(source, group, config, producer, file, summary, stopped=stopped, report=report):
                break
        else:
            summary.finished = True
    finally:
        producer.close()
    summary.seconds = time.monotonic() - started
    if summary.finished:
        position = progress.first_position
        registry.close_run(
            run,
            {
                "rows": {name: table.rows for name, table in progress.tables.items()},
                "position": None if position is None else {"file": position.file, "pos": position.pos},
            },
        )
        file.remove()
    return summary


def _register(source: Source, config: SnapshotConfig, registry: RunRegistry, *, restart: bool) -> tuple[int, bool]:
    """The number of the run to work on, and whether it was begun before. One run is open at a time."""
    open_runs = give_up_diffs(registry)
    if restart:
        for old in open_runs:
            registry.close_run(old.run, {"abandoned": True})
        open_runs = []
    if open_runs:
        old = open_runs[-1]
        if old.detail.get("source") != source.description:
            raise UsageError(
                f"run {old.run} of {old.detail.get('source')} is open",
                hint="finish it first, or abandon it with --restart",
            )
        if old.detail.get("fingerprint") != source.fingerprint():
            raise UsageError(
                f"run {old.run} began with other files, tables, date formats or --chunk-rows",
                hint="begin a new run with --restart",
            )
        return old.run, True
    name = config.source_names[-1] if source.has_binlog else BATCH_SOURCE_NAME
    return registry.open_run(name, {"source": source.description, "fingerprint": source.fingerprint()}), False


def table_groups(source: Source) -> Iterator[tuple[Table, ...]]:
    """Tables that may be read side by side. Without a binlog the order of chunks counts, so one at a time."""
    tables = source.tables()
    if not source.has_binlog:
        yield from ((table,) for table in tables)
        return
    yield tuple(t for t in tables if t is SKUS)
    yield tuple(t for t in tables if t is not SKUS)


def _send_group(
    source: Source,
    group: tuple[Table, ...],
    config: SnapshotConfig,
    producer: TransactionalProducer,
    file: ProgressFile,
    summary: SnapshotSummary,
    *,
    stopped: Callable[[], bool],
    report: Report,
) -> bool:
    """Sends the tables' remaining chunks; False when it was stopped."""
    progress = summary.progress
    todo = [table for table in group if not progress.table(table.name).done]
    estimates = {table.name: source.row_estimate(table) for table in todo}
    sent_before = sum(p.chunks for name, p in progress.tables.items() if name not in {t.name for t in todo})
    readers = [partial(_messages, source, table, config, progress, sent_before) for table in todo]
    started = time.monotonic()
    for table in todo:
        report(table.name, progress.table(table.name).rows, estimates[table.name])
    dead_topic = topic_of(config.topic_prefix, DEAD_LETTERS_TOPIC)
    with ReadAhead(readers) as items:
        for item in items:
            if stopped():
                return False
            chunk = item.chunk
            producer.begin()
            producer.send(topic_of(config.topic_prefix, chunk.table.name), item.keys, item.values)
            producer.send(dead_topic, [None] * len(item.dead), item.dead)
            producer.commit()
            progress.add(chunk)
            table_progress = progress.table(chunk.table.name)
            table_progress.seconds += time.monotonic() - started
            started = time.monotonic()
            file.save(progress)
            summary.sent += chunk.rows.num_rows
            _show_first(summary.findings, chunk.findings)
            report(chunk.table.name, table_progress.rows, estimates[chunk.table.name])
    for table in todo:
        progress.table(table.name).done = True
    file.save(progress)
    return True


def _show_first(shown: list[Finding], found: list[Finding]) -> None:
    """Adds findings while few of their kind are shown."""
    for finding in found:
        if sum(other.kind == finding.kind for other in shown) < _SHOWN_FINDINGS:
            shown.append(finding)


def _messages(
    source: Source, table: Table, config: SnapshotConfig, progress: RunProgress, sent_before: int
) -> Iterator[_Messages]:
    """The table's remaining chunks as messages. `sent_before`: chunks of the tables before it, which number on."""
    con = connect()
    try:
        for chunk in source.chunks(table, progress.table(table.name).resume()):
            now_ms = time.time_ns() // 1_000_000
            if chunk.position is None:
                number = sent_before + chunk.number
                stamp = Stamp(BATCH_SOURCE_NAME, source.database, f"run.{progress.run:010d}", number, now_ms, True)
            else:
                stamp = Stamp(config.source_names[-1], source.database, chunk.position.file, chunk.position.pos, now_ms)
            keys, values = row_events(con, table, chunk.rows, stamp, numeric_keys=source.numeric_keys(table))
            dead = dead_letter_values(chunk.rejects, origin=source.origin, run=progress.run, ts_ms=now_ms)
            yield _Messages(chunk, keys, values, dead)
    finally:
        con.close()
