"""`trs lake verify`: whether a lake keeps its promises (processors/verify.py), read from its files alone."""

import json
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
from processors.lake_tables import changes_name
from processors.stands import DOCUMENTS, LOGS, STANDS, pending_sql
from processors.tables import DOCUMENTS_TOPIC, all_topics, topic_of
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

    `kafka_problem`: why it is not known whether documents wait in Kafka; they are then taken not to.
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

    `ask_kafka`: also ask how many documents wait to be read.
    """
    with LakeSession(settings) as session:
        # Tables first, ids second: what a running worker commits in between makes no row look as if it were ahead.
        session.create_views([*NAMES, *LOGS.values()])
        offsets = _read_stands(session, settings)
        pending = [reason for (reason,) in session.con.sql(pending_sql()).fetchall()]
        problem = None
        if ask_kafka:
            waiting, problem = _waiting_documents(settings, offsets)
            if waiting:
                pending.append(f"{waiting} documents wait in Kafka")
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
        sent = {f"documents:{b}": b for b in buckets} if stage == "invoices" else {}
        found = store.fenced(log).stored((*fence, *places, *sent))
        epochs += [(stage, b, found[i]) for i, b in fence.items() if i in found]
        offsets += [(stage, *place, found[i]) for i, place in places.items() if i in found]
        cursors += [(DOCUMENTS, b, found[i]) for i, b in sent.items() if i in found]
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


def _waiting_documents(settings: Settings, offsets: dict[tuple[str, int], int]) -> tuple[int, str | None]:
    """Documents that the accounts stage has not read, and why that is not known."""
    try:
        held = watermarks(kafka_config(settings), [topic_of(settings.topic_prefix, DOCUMENTS_TOPIC)])
    except TrsError as error:
        return 0, str(error)
    return sum(max(0, end - offsets.get(place, 0)) for place, (_, end) in held.items()), None
