"""Dead letters for people: what there is, one of them whole, sending them again, putting them aside."""

import getpass
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from app.lake_session import LakeSession
from app.settings import Settings
from app.wiring import kafka_config, lake_location
from processors.alarms import STRUCTURAL, Alarm, parked_alarm
from processors.errors import SourceError, UsageError
from processors.lake_tables import DEAD_LETTER_ACTIONS, DEAD_LETTERS
from processors.open_letters import Action, Selection, letters_sql, why_not_replayed

_ROUND_LETTERS = 5_000
_ROUND_BYTES = 64_000_000
_BATCH_ROWS = 100
_MESSAGE_BYTES = 1_000_000_000
"""No limit of ours: what the topic took once it takes again."""


@dataclass(frozen=True)
class Count:
    """How many letters of one reason and topic."""

    reason: str
    topic: str
    letters: int


@dataclass(frozen=True)
class Letter:
    """A letter without its content. `time`: when it was refused. From `action` on all is None while it is open."""

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    time: datetime | None
    action: Action | None
    note: str | None
    who: str | None
    done_at: datetime | None


@dataclass(frozen=True)
class Content:
    """What a letter holds, to the byte. `record_ts`: Kafka's time of the record."""

    letter: Letter
    key: bytes | None
    value: bytes | None
    record_ts: datetime | None


_LETTER = "topic, partition, row_offset, reason, detail, known_from, action, note, who, done_at"


class DeadLetters:
    """The dead letters of one lake, read through a session."""

    def __init__(self, session: LakeSession) -> None:
        self._con = session.con
        session.create_views([DEAD_LETTERS.name, DEAD_LETTER_ACTIONS.name])
        self._all = letters_sql(DEAD_LETTERS.name, DEAD_LETTER_ACTIONS.name)

    def counts(self, selection: Selection) -> list[Count]:
        """Letters by reason and topic, most first."""
        rows = self._rows(selection, "reason, topic, count(*)", "GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2")
        return [Count(*row) for row in rows]

    def alarms(self) -> list[Alarm]:
        """One for each topic and thing that open letters say of the source's structure."""
        selection = Selection(reasons=tuple(str(reason) for reason in STRUCTURAL))
        rows = self._rows(selection, "topic, reason, detail, count(*)", "GROUP BY 1, 2, 3 ORDER BY 1, 2, 3")
        return [parked_alarm(*row) for row in rows]

    def newest(self, selection: Selection, limit: int) -> list[Letter]:
        """The letters that were refused last, newest first, at most `limit`."""
        last = "ORDER BY known_from DESC NULLS LAST, topic, partition, row_offset DESC LIMIT"
        return [Letter(*row) for row in self._rows(selection, _LETTER, f"{last} {limit}")]

    def content(self, topic: str, partition: int, offset: int) -> Content:
        """The letter at this place, open or not; the latest where there are several. Raises UsageError."""
        selection = Selection(topic=topic, partition=partition, offset=offset, dealt_with=True)
        columns = f"record_key, record_value, record_ts, {_LETTER}"
        rows = self._rows(selection, columns, "ORDER BY known_from DESC NULLS LAST LIMIT 1")
        if not rows:
            raise UsageError(
                f"no dead letter at {topic}-{partition} offset {offset}", hint="`trs dead-letters list --all` shows all"
            )
        key, value, record_ts, *letter = rows[0]
        return Content(Letter(*letter), key, value, record_ts)

    def places(self, selection: Selection) -> pa.Table:
        """(topic, partition, row_offset, known_from) of the letters."""
        condition, parameters = selection.condition()
        columns = "topic, partition, row_offset, known_from"
        query = f"SELECT {columns} FROM {self._all} WHERE {condition}"
        return self._con.sql(query, params=parameters).to_arrow_table()

    def records(self, selection: Selection) -> Iterator[pa.Table]:
        """The letters with `record_key` and `record_value`, in no particular order, a round of some MB at a time."""
        condition, parameters = selection.condition()
        columns = "topic, partition, row_offset, known_from, record_key, record_value"
        query = f"SELECT {columns} FROM {self._all} WHERE {condition}"
        waiting: list[pa.RecordBatch] = []
        # Not through execute(), which would hold all of them in memory.
        for batch in self._con.sql(query, params=parameters).to_arrow_reader(_BATCH_ROWS):
            waiting.append(batch)
            if sum(b.num_rows for b in waiting) >= _ROUND_LETTERS or sum(b.nbytes for b in waiting) >= _ROUND_BYTES:
                yield pa.Table.from_batches(waiting)
                waiting = []
        if waiting:
            yield pa.Table.from_batches(waiting)

    def _rows(self, selection: Selection, columns: str, rest: str) -> list[tuple[Any, ...]]:
        condition, parameters = selection.condition()
        query = f"SELECT {columns} FROM {self._all} WHERE {condition} {rest}"
        rows: list[tuple[Any, ...]] = self._con.execute(query, parameters).fetchall()
        return rows


def replayable(counts: Sequence[Count], settings: Settings) -> tuple[list[Count], dict[str, str]]:
    """The counts of letters that can be sent again, and for each topic of the others why not and what to do."""
    refused = {c.topic: why_not_replayed(c.topic, settings.topic_prefix) for c in counts}
    return (
        [c for c in counts if refused[c.topic] is None],
        {topic: why for topic, why in refused.items() if why is not None},
    )


def replay(
    settings: Settings,
    letters: DeadLetters,
    selection: Selection,
    topics: Sequence[str],
    *,
    note: str | None,
    progress: Callable[[int], None],
) -> int:
    """Sends the letters of these topics to them again, unchanged; returns how many, all acknowledged and recorded.

    Key and value, that is. The time is new: with that of the letter, Kafka's retention could delete the record before a
    worker reads it.
    A record without key goes to the partition that it came from, any other where its key leads. Each round is recorded
    once the brokers have it: what is sent twice because this ended in between changes nothing, for records carry their
    order. `progress` is told how many are done. Raises SourceError for a topic that does not exist or has another
    number of partitions.
    """
    from connectors.kafka import Producer, check_topics
    from connectors.lake import LakeStore
    from connectors.results import append_results

    kafka = kafka_config(settings)
    missing = check_topics(kafka, topics, settings.partitions)
    if missing:
        raise SourceError(f"topic {missing[0]} does not exist", hint="`trs worker` makes the topics")
    store = LakeStore(lake_location(settings))
    store.create()
    producer = Producer(kafka, **{"message.max.bytes": _MESSAGE_BYTES})
    done = 0
    try:
        for found in letters.records(selection):
            rows = [r for r in found.to_pylist() if r["topic"] in topics]
            for row in rows:
                partition = row["partition"] if row["record_key"] is None else None
                producer.send(row["topic"], [row["record_key"]], [row["record_value"]], partition=partition)
            producer.flush()
            if rows:
                places = pa.Table.from_pylist(rows, schema=found.schema)
                append_results(
                    store, DEAD_LETTER_ACTIONS, action_rows(places, "replayed", note=note, now=datetime.now(UTC))
                )
            done += len(rows)
            progress(done)
    finally:
        producer.close()
    return done


def discard(settings: Settings, letters: DeadLetters, selection: Selection, *, note: str) -> int:
    """Records that the letters are dealt with; returns how many."""
    from connectors.lake import LakeStore
    from connectors.results import append_results

    places = letters.places(selection)
    if places.num_rows:
        store = LakeStore(lake_location(settings))
        store.create()
        append_results(store, DEAD_LETTER_ACTIONS, action_rows(places, "discarded", note=note, now=datetime.now(UTC)))
    return int(places.num_rows)


def action_rows(places: pa.Table, action: Action, *, note: str | None, now: datetime) -> pa.Table:
    """Rows of `dead_letter_actions` for letters (topic, partition, row_offset, known_from).

    An action is known no earlier than its letter, whatever the clocks of worker and person say.
    """
    who = whoami()
    rows = [
        {
            **{name: letter[name] for name in ("topic", "partition", "row_offset")},
            "action": action,
            "note": note,
            "who": who,
            "known_from": max(now, letter["known_from"] or now),
            "known_date": now.date(),
        }
        for letter in places.select(["topic", "partition", "row_offset", "known_from"]).to_pylist()
    ]
    return pa.Table.from_pylist(rows, schema=DEAD_LETTER_ACTIONS.schema)


def whoami() -> str:
    """The user and the machine, as far as they can be told."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
