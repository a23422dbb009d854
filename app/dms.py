"""The translator of AWS DMS's records: reads its topics, sends row events, both in one Kafka transaction at a time."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from typing import Any

import structlog

from app.settings import Settings
from app.wiring import database_url, kafka_config
from connectors.debezium import flavour_of
from connectors.dms import DmsTranslator, Message, Place
from connectors.dms_letters import dead_letter_value
from connectors.dms_task import CONTROL_TOPIC, DmsPlan, Migration, render
from connectors.kafka import (
    GroupReader,
    KafkaConfig,
    Record,
    TransactionalProducer,
    check_topics,
    ensure_topics,
    partition_counts,
    watermarks,
)
from connectors.mysql import connect, current_position, server_version, wrapped_errors
from connectors.mysql_schema import check_capture, check_captured_table
from processors.decode_record import BadRecordError
from processors.errors import FencedError, SettingsError, TrsError, UnavailableError
from processors.tables import DEAD_LETTERS_TOPIC, TABLES, all_topics, topic_of

log = structlog.get_logger("trs.dms")

_BATCH_RECORDS = 20_000
_BATCH_S = 0.1
_REPORT_S = 30.0
_ASK_S = 0.5
_TRUNCATE_PARTITION = 0
"""A truncate has no key; all that have come go to one partition, so that they keep their order."""


def dms_topics(settings: Settings) -> tuple[str, ...]:
    """The topics that DMS writes to: one per table, and one for what is of no table."""
    return tuple(topic_of(settings.dms_topic_prefix, name) for name in (*(t.name for t in TABLES), CONTROL_TOPIC))


def source_schema(settings: Settings) -> str:
    """The source database. Raises SettingsError when no setting names it."""
    if settings.dms_schema is not None:
        return settings.dms_schema
    if settings.database is None:
        raise SettingsError("nothing says whose rows AWS DMS sends", hint="set TRS_DMS_SCHEMA, or TRS_DATABASE")
    return database_url(settings).database


@dataclass(frozen=True)
class PlannedDms:
    """What DMS is to be told, secrets included; the server's version, and what somebody should know."""

    arguments: dict[str, dict[str, Any]] = field(repr=False)
    server: str
    position: str | None
    notices: list[str]


def plan_dms(settings: Settings, *, migration: Migration = "cdc", version: str | None = None) -> PlannedDms:
    """Endpoints and task of these settings. Unless `version` is given, the server is asked, and checked.

    Raises SettingsError, and SourceError for a server or table whose changes cannot be captured.
    """
    url = database_url(settings)
    if not settings.source_names:
        raise SettingsError("TRS_SOURCE_NAMES is empty, and row events need the name of their source")
    notices: list[str] = []
    position = None
    if version is None:
        with wrapped_errors(url), connect(url) as connection:
            version = server_version(connection)
            check_capture(connection, url)
            for table in TABLES:
                notices += check_captured_table(connection, url, table)
            position = current_position(connection)
    start = None if position is None else f"{position.file}:{position.pos}"
    if migration == "full-load-and-cdc":
        known = "the binlog's position, noted just before the task starts" if start is None else start
        notices.append(f"the translator needs TRS_DMS_LOAD_POSITION={known}, and no other source may send until then")
    elif start is None:
        notices.append("the task needs CdcStartPosition, the binlog's position as FILE:POS: the server was not asked")
    plan = DmsPlan(
        name=f"trs-{settings.source_names[-1]}",
        topic_prefix=settings.dms_topic_prefix,
        flavour=flavour_of(version),
        database=url,
        schema=source_schema(settings),
        kafka=kafka_config(settings),
        migration=migration,
        start=start if migration == "cdc" else None,
    )
    return PlannedDms(render(plan), version, start, notices)


def run_translator(
    settings: Settings, *, instance: str, until_caught_up: bool, accept_gap: bool, stopped: Callable[[], bool]
) -> None:
    """Translates until `stopped`, or (`until_caught_up`) until all that was there at the start is translated.

    Missing topics are made. Each batch of records is one transaction: row events, dead letters and positions appear
    together or not at all. Any failure ends the process; the next one goes on behind the last transaction.
    """
    if not settings.source_names:
        raise SettingsError("TRS_SOURCE_NAMES is empty, and row events need the name of their source")
    load_position = None if settings.dms_load_position is None else Place.parse(settings.dms_load_position)
    translator = DmsTranslator(
        source_name=settings.source_names[-1], schema=source_schema(settings), load_position=load_position
    )
    kafka, topics = kafka_config(settings), dms_topics(settings)
    _make_topics(settings, kafka, topics)
    with ExitStack() as stack:
        # The producer comes first: it ends the transaction that a killed one left open, which hides its positions.
        producer = TransactionalProducer(kafka, f"{settings.topic_prefix}.{settings.dms_group}.{instance}")
        stack.enter_context(closing(producer))
        reader = GroupReader(
            kafka,
            topics,
            group=settings.dms_group,
            instance=instance,
            session_timeout_s=settings.session_timeout_s,
            accept_gap=accept_gap,
        )
        stack.enter_context(closing(reader))
        end = _End(reader, watermarks(kafka, topics)) if until_caught_up else None
        log.info("translating", topics=list(topics), group=settings.dms_group, instance=instance)
        job = _Job(translator, producer, settings.topic_prefix)
        report = _Report(translator, reader)
        try:
            while not stopped():
                records = reader.read(_BATCH_RECORDS, _BATCH_S)
                if records:
                    job.translate(records, reader)
                report.perhaps()
                if end is not None and end.is_reached():
                    log.info("caught up")
                    break
        except FencedError as error:
            error.hint = f"run one process per --instance; this one was {instance}"
            raise
        finally:
            with suppress(TrsError):  # what went wrong is told already
                producer.abort()
            report.now()


def _make_topics(settings: Settings, kafka: KafkaConfig, topics: Sequence[str]) -> None:
    """Makes ours as the worker needs them, and DMS's where they are missing: their partitions are its own affair."""
    present = partition_counts(kafka, topics)
    for topic, partitions in present.items():
        check_topics(kafka, [topic], partitions)  # not compacted
    made = ensure_topics(kafka, all_topics(settings.topic_prefix), settings.partitions)
    made += ensure_topics(kafka, [topic for topic in topics if topic not in present], settings.partitions)
    if made:
        log.info("topics made", topics=list(made), partitions=settings.partitions)


class _End:
    """Whether all that was there at the start is translated, by this member or by others of the group.

    A member that dies leaves its partitions to the others, so that waiting for it ends.
    """

    def __init__(self, reader: GroupReader, held: Mapping[tuple[str, int], tuple[int, int]]) -> None:
        self._reader = reader
        self._goal = {place: end for place, (start, end) in held.items() if end > start}
        self._asked = 0.0

    def is_reached(self) -> bool:
        """False while it cannot be told. Raises UnavailableError."""
        own = self._reader.positions
        if not self._reader.is_assigned or any(own[p] < end for p, end in self._goal.items() if p in own):
            return False
        others = {place: end for place, end in self._goal.items() if place not in own}
        if not others:
            return True
        if time.monotonic() - self._asked < _ASK_S:
            return False
        self._asked = time.monotonic()
        committed = self._reader.committed(others)
        return all(committed.get(place, 0) >= end for place, end in others.items())


@dataclass
class _Outcome:
    """What a batch becomes: per table keys and values in order, truncates, dead letters."""

    rows: dict[str, tuple[list[bytes | None], list[bytes | None]]] = field(default_factory=dict)
    truncates: list[Message] = field(default_factory=list)
    dead: list[bytes | None] = field(default_factory=list)


class _Job:
    def __init__(self, translator: DmsTranslator, producer: TransactionalProducer, topic_prefix: str) -> None:
        self._translator = translator
        self._producer = producer
        self._prefix = topic_prefix

    def translate(self, records: Sequence[Record], reader: GroupReader) -> None:
        """One transaction."""
        outcome = self._outcome(records)
        self._producer.begin()
        for table, (keys, values) in outcome.rows.items():
            self._producer.send(topic_of(self._prefix, table), keys, values)
        for truncate in outcome.truncates:
            topic = topic_of(self._prefix, truncate.table)
            self._producer.send(topic, [None], [truncate.value], partition=_TRUNCATE_PARTITION)
        if outcome.dead:
            self._producer.send(topic_of(self._prefix, DEAD_LETTERS_TOPIC), [None] * len(outcome.dead), outcome.dead)
        self._producer.send_positions(*reader.commit_point(records))
        self._producer.commit()

    def _outcome(self, records: Sequence[Record]) -> _Outcome:
        outcome = _Outcome()
        for record in records:
            try:
                messages = self._translator.translate(record.value, record.timestamp_ms)
            except BadRecordError as error:
                self._translator.told.dead[str(error.reason)] += 1
                outcome.dead.append(dead_letter_value(record, error, ts_ms=int(time.time() * 1000)))
                continue
            for message in messages:
                if message.key is None:
                    outcome.truncates.append(message)
                    continue
                keys, values = outcome.rows.setdefault(message.table, ([], []))
                keys.append(message.key)
                values.append(message.value)
        return outcome


class _Report:
    """Tells the log how far the work is, every half minute and at the end.

    Each notice, and each reason of a dead letter, is told when it first comes.
    """

    def __init__(self, translator: DmsTranslator, reader: GroupReader) -> None:
        self._told = translator.told
        self._reader = reader
        self._last = time.monotonic()
        self._noticed: set[str] = set()

    def perhaps(self) -> None:
        refused = {f"records are refused for {reason}, see the dead letters" for reason in self._told.dead}
        for notice in sorted((self._told.notices.keys() | refused) - self._noticed):
            self._noticed.add(notice)
            log.warning(notice)
        if time.monotonic() - self._last < _REPORT_S:
            return
        try:
            self.now(lag=self._reader.lag())
        except UnavailableError as error:
            self._last = time.monotonic()
            log.warning("Kafka does not answer", reason=error.message)

    def now(self, **more: int) -> None:
        told = self._told
        self._last = time.monotonic()
        log.info(
            "translated",
            **dict(told.translated),
            ignored=dict(told.ignored),
            dead_letters=dict(told.dead),
            partitions=len(self._reader.positions),
            **more,
        )
