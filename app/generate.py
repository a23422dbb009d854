"""Writes a synthetic TRS into extracts or a database, and keeps a database changing."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app.settings import Settings
from app.wiring import database_ca_file, kafka_config
from batch_bootstrap.changes import TrsChanges
from batch_bootstrap.emit import Touched, emit_rows
from batch_bootstrap.generate import Generated
from connectors.kafka import Producer, ensure_topics
from connectors.mysql import DatabaseUrl, connect, ddl, execute, load_rows, query, wrapped_errors
from connectors.mysql_source import MySqlSource
from processors.errors import UsageError
from processors.tables import TABLES, all_topics

_EMIT_EVERY_S = 0.2
Report = Callable[[str, int, int], None]


def write_extracts(data: Generated, folder: Path, *, replace: bool, report: Report) -> dict[str, int]:
    """Writes one CSV file per table; returns the rows. Raises UsageError when files are there already."""
    present = [f"{t.name}.csv" for t in TABLES if (folder / f"{t.name}.csv").exists()]
    if present and not replace:
        raise UsageError(f"{folder} already has {', '.join(present)}", hint="name another folder, or give --replace")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # as below /proc: the parents are there, nothing can be made in them
        raise UsageError(f"{folder} cannot be made: {error.strerror}", hint="name another folder") from None
    written = {}
    for table in TABLES:
        total = data.count(table)
        report(table.name, 0, total)
        written[table.name] = data.write_csv(table, folder)
        report(table.name, total, total)
    return written


def load_database(
    data: Generated, url: str, *, replace: bool, report: Report, ca_file: str | None = None
) -> dict[str, int]:
    """Fills a database's tables, made where missing; returns the rows. Raises UsageError when they hold rows."""
    where = DatabaseUrl.parse(url, ca_file=ca_file)
    loaded = {}
    with wrapped_errors(where), connect(where, autocommit=False) as connection:
        for table in TABLES:
            execute(connection, ddl(table))
            if not query(connection, f"SELECT 1 FROM {table.name} LIMIT 1"):
                continue
            if not replace:
                raise UsageError(f"{where}: table {table.name} holds rows", hint="--replace empties the tables first")
            execute(connection, f"TRUNCATE TABLE {table.name}")
        for table in TABLES:
            total, done = data.count(table), 0
            report(table.name, 0, total)
            for rows in data.rows(table):
                done += load_rows(connection, table, rows)
                report(table.name, done, total)
            loaded[table.name] = done
    return loaded


@dataclass
class SimulationSummary:
    """What a simulation did: transactions at the source, row events sent (0 without `emit`)."""

    changes: int = 0
    emitted: int = 0
    seconds: float = 0.0


def simulate(
    settings: Settings,
    url: str,
    *,
    rate: float,
    seed: int,
    changes: int | None,
    seconds: float | None,
    emit: bool,
    stopped: Callable[[], bool],
    report: Callable[[SimulationSummary], None],
) -> SimulationSummary:
    """Makes `rate` changes per second until `changes` are made, `seconds` are over, or `stopped`.

    With `emit` the rows touched are sent to the topics at least every fifth of a second, the last ones before it
    returns.
    """
    source = MySqlSource(url, TABLES, chunk_rows=1, ca_file=database_ca_file(settings))
    source.preflight()
    producer = None
    if emit:
        ensure_topics(kafka_config(settings), all_topics(settings.topic_prefix), settings.partitions)
        producer = Producer(kafka_config(settings))
    summary = SimulationSummary()
    begin = emitted_at = time.monotonic()
    pending: list[Touched] = []

    with wrapped_errors(source.url), connect(source.url, autocommit=False) as connection:

        def send() -> None:
            if producer is not None and pending:
                summary.emitted += emit_rows(
                    pending,
                    source,
                    connection,
                    producer,
                    topic_prefix=settings.topic_prefix,
                    source_name=settings.source_names[-1],
                )
            pending.clear()

        trs = TrsChanges(connection, source, seed)
        try:
            while (changes is None or summary.changes < changes) and not stopped():
                now = time.monotonic()
                if seconds is not None and now - begin >= seconds:
                    break
                if now - emitted_at >= _EMIT_EVERY_S:
                    send()
                    emitted_at = now
                    summary.seconds = now - begin
                    report(summary)
                due = begin + summary.changes / rate
                if due > now:
                    time.sleep(min(due - now, _EMIT_EVERY_S))
                    continue
                touched = trs.next_change()
                pending += touched
                summary.changes += bool(touched)
            send()
        finally:
            if producer is not None:
                producer.close()
    summary.seconds = time.monotonic() - begin
    return summary
