"""A month of a shop, by a clock that runs fast: what the lake knew at any time is the batch over the source of then."""

import random
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from app.lake_session import LakeSession
from app.settings import Settings
from connectors.delta_lake import DeltaLake
from connectors.lake import LakeLocation
from connectors.source_rows import declared_schema
from processors.engine import EngineConfig, StreamEngine
from processors.features.batch import add_rows, create_source_tables, inputs_from_source
from processors.features.declarations import SETS_BY_ACCOUNT
from processors.features.derive import derive_sql
from processors.tables import DERIVED_TOPICS, DOCUMENTS_TOPIC, TABLES, TABLES_BY_NAME
from tests.processors.engine_shell import PREFIX, Shell, Topics, event

DAYS = 30
STEPS = 24
QUESTIONS = 20
EPOCH = date(1970, 1, 1)
Row = dict[str, Any]


class FastClock:
    """Begins a month ago; it runs 3,000 times as fast as ours, and can be put forward."""

    def __init__(self) -> None:
        self._base = datetime.now(UTC) - timedelta(days=DAYS + 2)
        self._began_s = time.monotonic()

    def __call__(self) -> datetime:
        return self._base + (time.monotonic() - self._began_s) * timedelta(seconds=3000)

    def skip(self, span: timedelta) -> None:
        self._base += span


class Shop:
    """The rows of the source, and the events that changed them."""

    def __init__(self, topics: Topics, clock: Callable[[], datetime], chance: random.Random) -> None:
        self.rows: dict[str, dict[tuple[object, ...], Row]] = {table.name: {} for table in TABLES}
        self._topics, self._clock, self._chance = topics, clock, chance
        self._pos = 0
        self._invoices = 0
        for n in range(4):
            price = {"item_cost_price": Decimal(1), "item_retail_price": Decimal(n + 1) / 4}
            self._put("skus", {"item_id": f"s{n}", "item_name": "N", "item_description": "D", **price})
            about = {"company_name": "F", "company_address": "R", "contact_person": "P", "contact_phone": "5"}
            self._put("accounts", {"account_id": n, **about, "gender": None, "joining_date": date(2020, 1, 1 + n)})

    def _put(self, table: str, row: Row) -> None:
        key = tuple(row[k] for k in TABLES_BY_NAME[table].key)
        self._send(table, "u" if key in self.rows[table] else "c", row)
        self.rows[table][key] = row

    def _drop(self, table: str, key: tuple[object, ...]) -> None:
        self._send(table, "d", self.rows[table].pop(key))

    def _send(self, table: str, op: str, row: Row) -> None:
        self._pos += 1
        told = {
            k: (v - EPOCH).days if isinstance(v, date) else str(v) if isinstance(v, Decimal) else v
            for k, v in row.items()
        }
        self._topics.add(table, event(table, op, self._pos, told))

    def step(self) -> None:
        """Some of what happens in a shop."""
        for _ in range(self._chance.randrange(1, 5)):
            self._chance.choice(
                [self._sell, self._sell, self._pay, self._change, self._move, self._remove, self._reprice]
            )()

    def _sell(self) -> None:
        self._invoices += 1
        issued = self._clock().date() - timedelta(days=self._chance.choice([0, 0, 1, 40]))
        number = {
            "invoice_id": self._invoices,
            "account_id": self._chance.randrange(5),
        }  # of account 4 nothing is known
        self._put("invoices", {**number, "date_issued": issued, "payment_dates": None})
        for item in self._chance.sample(range(5), self._chance.randrange(4)):  # article 4 neither
            line = {"item_id": f"s{item}", "quantity": self._chance.randrange(-1, 5)}
            self._put("invoice_line_items", {"invoice_id": self._invoices, **line})

    def _some(self, table: str) -> Row | None:
        rows = list(self.rows[table].values())
        return self._chance.choice(rows) if rows else None

    def _pay(self) -> None:
        row = self._some("invoices")
        if row is not None:
            self._put("invoices", row | {"payment_dates": self._clock().date()})

    def _change(self) -> None:
        row = self._some("invoice_line_items")
        if row is not None:
            self._put("invoice_line_items", row | {"quantity": self._chance.randrange(9)})

    def _move(self) -> None:
        row = self._some("invoices")
        if row is not None:
            self._put("invoices", row | {"account_id": self._chance.randrange(5)})

    def _remove(self) -> None:
        table = self._chance.choice(["invoices", "invoice_line_items"])
        row = self._some(table)
        if row is not None:
            self._drop(table, tuple(row[k] for k in TABLES_BY_NAME[table].key))

    def _reprice(self) -> None:
        row = self._some("skus")
        if row is not None:
            self._put("skus", row | {"item_retail_price": Decimal(self._chance.randrange(1, 40)) / 8})

    def features(self) -> dict[str, list[tuple[object, ...]]]:
        """The batch over the rows of now."""
        with duckdb.connect() as con:
            con.execute("SET TimeZone = 'UTC'")
            create_source_tables(con)
            for table in TABLES:
                rows = list(self.rows[table.name].values())
                add_rows(con, table, pa.Table.from_pylist(rows, schema=declared_schema(table)))
            inputs_from_source(con)
            return {f.name: sorted(con.sql(f"FROM {derive_sql(f)}").fetchall(), key=str) for f in SETS_BY_ACCOUNT}


@pytest.fixture
def clock() -> FastClock:
    return FastClock()


def test_as_of_at_any_time_of_a_month_is_the_batch_over_the_source_of_then(tmp_path: Path, clock: FastClock) -> None:
    chance = random.Random(11)
    topics, lake = Topics(), DeltaLake(LakeLocation(str(tmp_path / "lake")))
    shop = Shop(topics, clock, chance)
    shell = Shell.of(
        StreamEngine(
            EngineConfig(
                topic_prefix=PREFIX,
                partitions=1,
                source_names=("aurora",),
                price_at="current",
                interval_s=0.05,
                threads=1,
                spill=tmp_path / "spill",
            ),
            lake=lake,
            sink=topics.sinks[DOCUMENTS_TOPIC],
            topic_ids={f"{PREFIX}.{t.name}": t.name for t in TABLES}
            | {f"{PREFIX}.{n}": n for n in ("dead_letters", *DERIVED_TOPICS)},
            writer="test",
            now=clock,
        ),
        topics,
    )
    then: list[tuple[datetime, datetime, dict[str, list[tuple[object, ...]]]]] = []
    for _ in range(STEPS):
        shop.step()
        shell.settle()
        known = clock()
        clock.skip(timedelta(days=DAYS / STEPS))
        then.append((known, clock(), shop.features()))
    shell.engine.stop()
    assert then[-1][0] - then[0][0] > timedelta(days=DAYS - 2)
    with LakeSession(Settings(lake=str(tmp_path / "lake"))) as session:
        for known, until, expected in chance.sample(then, QUESTIONS):
            moment = known + chance.random() * (until - known)
            for feature_set in SETS_BY_ACCOUNT:
                found = session.con.sql(session.as_of(feature_set, moment)).fetchall()
                assert sorted(found, key=str) == expected[feature_set.name], (moment, feature_set.name)
