"""`trs lake verify`: whether a lake keeps its promises (processors/verify.py), read from its files alone."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from app.lake_session import LakeSession
from app.settings import Settings
from app.wiring import kafka_config, lake_location
from connectors.kafka import watermarks
from connectors.lake import LakeStore
from processors.charging import PriceAt
from processors.errors import DamagedLakeError, TrsError, UnsettledLakeError
from processors.features.batch import inputs_from_lake
from processors.features.declarations import FEATURE_SETS
from processors.lake_tables import changes_name, outputs_of_invoices
from processors.stands import LOGS, STANDS, pending_sql
from processors.tables import DERIVED_TOPICS, all_topics, topic_of
from processors.verify import NAMES, Check, checks


@dataclass(frozen=True)
class Outcome:
    """One check: rows looked at, rows that break the promise (None: not checked), the first of them by key."""

    check: str
    table: str
    promise: str
    rows: int
    failures: int | None
    example: str | None = None

    @property
    def holds(self) -> bool | None:
        """None where it was not checked."""
        return None if self.failures is None else self.failures == 0


@dataclass(frozen=True)
class Verification:
    """Every outcome. `pending`: why checks were skipped, sentences; empty when everything is derived.

    `kafka_problem`: why it is not known whether documents or lines wait in Kafka; they are then taken not to.
    """

    lake: str
    price_at: PriceAt
    outcomes: tuple[Outcome, ...]
    pending: tuple[str, ...]
    kafka_problem: str | None

    def raise_unless_sound(self) -> None:
        """Raises DamagedLakeError when a check failed, UnsettledLakeError when some could not be made."""
        broken = [o for o in self.outcomes if o.holds is False]
        if broken:
            named = ", ".join(dict.fromkeys(f"{o.check} of {o.table}" for o in broken))
            raise DamagedLakeError(
                f"{self.lake}: {len(broken)} of {len(self.outcomes)} checks failed: {named}",
                hint="derived tables are made again from the logs; damaged logs need the topics or a snapshot",
            )
        if self.pending:
            raise UnsettledLakeError(
                f"{self.lake}: not everything is derived: {'; '.join(self.pending)}",
                hint="`trs worker --until-caught-up`, then verify again",
            )


def verify(settings: Settings, *, price_at: PriceAt, ask_kafka: bool = True) -> Verification:
    """Makes every check on the lake, which should be at rest. Raises UnavailableError when there is no lake.

    `ask_kafka`: also ask how many documents and lines wait to be read.
    """
    with LakeSession(settings) as session:
        # Tables first, ids second: what a running worker commits in between makes no row look as if it were ahead.
        session.create_views([*NAMES, *LOGS.values()])
        offsets = _read_stands(session, settings)
        pending = [reason for (reason,) in session.con.sql(pending_sql()).fetchall()]
        problem = None
        if ask_kafka:
            waiting, problem = _waiting(settings, offsets)
            pending += [f"{count} records of {topic} wait in Kafka" for topic, count in waiting.items() if count]
        if not pending:
            inputs_from_lake(session.con, price_at=price_at)
        outcomes = tuple(_outcome(session, check, skip=bool(pending) and check.settled) for check in checks())
        return Verification(settings.lake_uri, price_at, outcomes, tuple(pending), problem)


def _outcome(session: LakeSession, check: Check, *, skip: bool) -> Outcome:
    con = session.con
    ((rows,),) = con.sql(f"SELECT count(*) FROM {check.rows}").fetchall()
    if skip:
        return Outcome(check.name, check.table, check.promise, rows, None)
    failing = f"SELECT count(*), min(CAST(to_json(f) AS VARCHAR)) FROM ({check.failing}) AS f"
    ((failures, example),) = con.sql(failing).fetchall()
    shown = None if example is None else ", ".join(f"{k} {v}" for k, v in json.loads(example).items())
    return Outcome(check.name, check.table, check.promise, rows, failures, shown)


def _read_stands(session: LakeSession, settings: Settings) -> dict[tuple[str, int], int]:
    """Fills the tables of application ids; returns the next offset per topic and bucket."""
    store = LakeStore(lake_location(settings))
    buckets = range(settings.partitions)
    topics = all_topics(settings.topic_prefix)
    epochs: list[tuple[str, int, int]] = []
    offsets: list[tuple[str, str, int, int]] = []
    cursors: list[tuple[str, int, int]] = []
    for stage, log in LOGS.items():
        fence = {f"epoch:{stage}:{b}": b for b in buckets}
        places = {f"offset:{t}:{b}": (t, b) for t in topics for b in buckets}
        outputs = outputs_of_invoices() if stage == "invoices" else ()
        sent = {f"{output}:{b}": (output, b) for output in outputs for b in buckets}
        found = store.fenced(log).stored((*fence, *places, *sent))
        epochs += [(stage, b, found[i]) for i, b in fence.items() if i in found]
        offsets += [(stage, *place, found[i]) for i, place in places.items() if i in found]
        cursors += [(*of, found[i]) for i, of in sent.items() if i in found]
    for feature_set in FEATURE_SETS:
        ids = {f"cursor:{b}": b for b in buckets}
        found = store.fenced(changes_name(feature_set)).stored(tuple(ids))
        cursors += [(feature_set.name, b, found[i]) for i, b in ids.items() if i in found]
    stands: tuple[Sequence[tuple[object, ...]], ...] = (epochs, offsets, cursors)
    for (name, columns), rows in zip(STANDS.items(), stands, strict=True):
        session.con.execute(f"CREATE TABLE {name} ({columns})")
        if rows:
            values = ", ".join(["?"] * len(rows[0]))
            session.con.executemany(f"INSERT INTO {name} VALUES ({values})", rows)
    return {(topic, bucket): offset for _, topic, bucket, offset in offsets}


def _waiting(settings: Settings, offsets: dict[tuple[str, int], int]) -> tuple[Counter[str], str | None]:
    """By topic the documents and lines that their stage has not read, and why that is not known."""
    waiting: Counter[str] = Counter()
    try:
        held = watermarks(kafka_config(settings), [topic_of(settings.topic_prefix, name) for name in DERIVED_TOPICS])
    except TrsError as error:
        return waiting, str(error)
    for (topic, bucket), (_, end) in held.items():
        waiting[topic] += max(0, end - offsets.get((topic, bucket), 0))
    return waiting, None
