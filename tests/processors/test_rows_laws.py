"""Laws of the merge: whatever the order of arrival, repetition and split into epochs, the outcome is that of the set.

The oracle is plain Python over the set of records (row_oracle.py). Offsets are drawn independently of orders, so that
deletes come before inserts, prices after the lines that they charge, and several records share a position.
"""

import os
import random
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from decimal import Decimal, localcontext
from itertools import combinations
from typing import Any, TypeVar

import duckdb
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from processors import account_rows, feature_rows, invoice_rows, sku_rows
from processors.charging import PriceAt
from processors.features.declarations import ACCOUNT_FEATURES, FEATURE_SETS, INVOICE_FEATURES, FeatureSet
from processors.lake_tables import ACCOUNT_LOG, INVOICE_LOG, SKU_LOG
from tests.processors import row_oracle
from tests.processors.row_oracle import Record
from tests.processors.row_world import BUCKETS, World, bucket_of
from tests.processors.test_feature_windows import documents_of

SHOPS = 60
"""Independent histories side by side in one run: what a history costs is statements, not rows."""
LAWS = settings(
    max_examples=int(os.environ.get("TRS_LAW_RUNS", "2")),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a seed does not shrink
    print_blob=False,
)
Fields = dict[str, Any]
T = TypeVar("T")


def histories(chance: random.Random) -> list[Record]:
    """The records of all shops, each with a few keys; offsets are unique."""
    return [r for shop in range(SHOPS) for r in _history(chance, shop)]


def _history(chance: random.Random, shop: int) -> list[Record]:
    """Up to 24 changes in no order; an update to another key is a delete and a create at one position."""
    records = []
    for n in range(chance.randrange(1, 25)):
        table = chance.choice(["skus", "accounts", "invoices", "invoices", *["invoice_line_items"] * 3])
        key, other = _key(chance, shop, table), _key(chance, shop, table)
        op, order, offset = chance.choice("ccruud"), chance.randint(1, 12), shop * 100 + n
        extra = {} if table == "accounts" else {"extra": (None, '{"x":1}', '{"x":2}')[n % 3]}
        values = tuple((_values(chance, shop, table) | extra).items())
        if op == "u" and other != key and chance.random() < 0.5:
            records.append(Record(table, key, order, offset, is_delete=True, is_create=False, values=()))
            records.append(Record(table, other, order, offset, is_delete=False, is_create=True, values=values))
        else:
            image = values if op != "d" or chance.random() < 0.5 else ()
            image = tuple(v for v in image if op != "d" or v[0] != "extra")
            records.append(Record(table, key, order, offset, op == "d", op in "cr", image))
    return records


def _key(chance: random.Random, shop: int, table: str) -> tuple[Any, ...]:
    number, item = shop * 10 + chance.randint(1, 3), f"{shop}-{chance.choice('ab')}"
    return {"skus": (item,), "invoice_line_items": (number, item)}.get(table, (number,))


def _values(chance: random.Random, shop: int, table: str) -> Fields:
    day, paid = (date(2024, 1, 1) + timedelta(chance.randrange(300)) for _ in range(2))
    if table == "skus":
        return {"item_retail_price": Decimal(chance.choice(["1.5", "0.0000000001", "1234567890.1", "2", "-3"]))}
    if table == "accounts":
        return {"joining_date": day}
    if table == "invoices":
        account = shop * 10 + chance.randint(1, 3)
        return {"account_id": account, "date_issued": day, "payment_dates": chance.choice([None, paid])}
    return {"quantity": chance.choice([-1, 1, 2, 2_000_000_000])}


def of_shop(records: list[Record], shop: int) -> list[Record]:
    """The records of one shop: all that its outcome may depend on."""
    return [r for r in records if r.offset // 100 == shop]


def by_shop(oracle: Callable[[list[Record], str], dict[int, T]], records: list[Record], price_at: str) -> dict[int, T]:
    """The oracle's answers of all shops together."""
    found: dict[int, T] = {}
    with localcontext(prec=60):  # Python's default of 28 digits would round
        for shop in range(SHOPS):
            found |= oracle(of_shop(records, shop), price_at)
    return found


def run(con: duckdb.DuckDBPyConnection, price_at: PriceAt, seed: int) -> tuple[World, list[Record]]:
    """A world after all records of this seed, and the records."""
    chance = random.Random(seed)
    records = histories(chance)
    world = World(con, price_at)
    world.run(records, chance)
    return world, records


@pytest.fixture(scope="module")
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'; SET threads = 1")
        yield connection


def by_key(rows: list[Fields], *key: str) -> dict[Any, Fields]:
    found = {tuple(r[k] for k in key): r for r in rows}
    assert len(found) == len(rows), "a key twice"
    return found


@LAWS
@given(seed=st.integers(0, 2**32))
def test_states_after_any_arrival_are_those_of_the_set(con: duckdb.DuckDBPyConnection, seed: int) -> None:
    world, records = run(con, "creation", seed)

    states = {
        "invoices": by_key(world.state(invoice_rows.INVOICES, INVOICE_LOG.schema), "invoice_id"),
        "invoice_line_items": by_key(world.state(invoice_rows.LINES, INVOICE_LOG.schema), "invoice_id", "item_id"),
        "skus": by_key(world.state(sku_rows.STATE, SKU_LOG.schema), "item_id"),
        "accounts": by_key(world.state(account_rows.ACCOUNTS, ACCOUNT_LOG.schema), "account_id"),
    }
    for table, found in states.items():
        expected = row_oracle.latest(records, table)
        assert found.keys() == expected.keys()
        for key, record in expected.items():
            state = found[key]
            assert (state["deleted"], int(state["row_order"]), state["row_offset"]) == (
                record.is_delete,
                *record.place,
            )
            if not record.is_delete:
                assert {k: state[k] for k, _ in record.values} == dict(record.values)
            assert not record.is_delete or state.get("extra") is None
    for key, line in states["invoice_line_items"].items():
        deleted, creates = row_oracle.creation(records, key)
        kept = [(line["created_order"], line["created_offset"])] if line["created_order"] is not None else []
        kept += [(p["row_order"], p["row_offset"]) for p in line["later_creates"] or ()]
        assert kept == creates
        assert (line["deleted_order"], line["deleted_offset"]) == (deleted or (None, None))
    for (item,), sku in states["skus"].items():
        prices = [(p["row_order"], p["item_retail_price"]) for p in sku["prices"]]
        assert prices == row_oracle.versions(records, item)


@pytest.mark.parametrize("price_at", ["creation", "current"])
@LAWS
@given(seed=st.integers(0, 2**32))
def test_documents_and_features_after_any_arrival_are_those_of_the_set(
    con: duckdb.DuckDBPyConnection, price_at: PriceAt, seed: int
) -> None:
    world, records = run(con, price_at, seed)

    live = [d for d in world.rows(f"FROM {account_rows.DOCUMENTS}") if d["document_state"] == "live"]
    expected = by_shop(row_oracle.documents, records, price_at)
    assert {d["invoice_id"]: {k: d[k] for k in vars(expected[d["invoice_id"]])} for d in live} == {
        invoice: vars(document) for invoice, document in expected.items()
    }
    assert len(live) == len(expected), "an invoice lives in two accounts"
    oracles: dict[FeatureSet, Callable[[list[Record], str], dict[int, tuple[Any, ...]]]] = {
        INVOICE_FEATURES: row_oracle.invoice_features,
        ACCOUNT_FEATURES: row_oracle.account_features,
    }
    for feature_set, oracle in oracles.items():
        wanted = by_shop(oracle, records, price_at)
        assert committed(world, feature_set) == wanted
        assert _features(world.rows(f"FROM {feature_rows.state_name(feature_set)}"), feature_set) == wanted


def committed(world: World, feature_set: FeatureSet) -> dict[int, tuple[Any, ...]]:
    """What people see: of each entity the row with the greatest document version and epoch, over all buckets (R7)."""
    newest: dict[int, Fields] = {}
    for row in world.history[feature_set.name]:
        entity = row[feature_set.entity_key[0]]
        rank = row["document_version"], row["epoch"]
        if entity not in newest or rank > (newest[entity]["document_version"], newest[entity]["epoch"]):
            newest[entity] = row
    return _features([row for row in newest.values() if not row["deleted"]], feature_set)


def _features(rows: list[Fields], feature_set: FeatureSet) -> dict[int, tuple[Any, ...]]:
    key, *others = feature_set.column_names
    return {entity: tuple(row[c] for c in others) for (entity,), row in by_key(rows, key).items()}


@LAWS
@given(seed=st.integers(0, 2**32))
def test_records_and_documents_read_again_change_nothing(con: duckdb.DuckDBPyConnection, seed: int) -> None:
    world, records = run(con, "creation", seed)
    assert world.rows_epoch(records) == 0
    assert world.features_epoch(records, world.sent) == 0


@LAWS
@given(seed=st.integers(0, 2**32))
def test_latest_log_rows_are_the_state(con: duckdb.DuckDBPyConnection, seed: int) -> None:
    world, _ = run(con, "creation", seed)
    names = ("kind", "invoice_id", "item_id")
    latest = {tuple(r[n] for n in names): r for r in sorted(world.invoice_log, key=lambda r: int(r["epoch"]))}
    for kind, table in (("invoice", invoice_rows.INVOICES), ("line", invoice_rows.LINES)):
        found = world.state(table, INVOICE_LOG.schema)
        logged = [r for r in latest.values() if r["kind"] == kind]
        assert len(found) == len(logged)
        for state in found:
            row = latest[kind, state["invoice_id"], state.get("item_id", "")]
            assert {n: row[n] for n in state} == state


def test_history_of_every_feature_set_is_kept(con: duckdb.DuckDBPyConnection) -> None:
    assert set(World(con, "creation").history) == {f.name for f in FEATURE_SETS}


def test_an_invoice_that_comes_back_counts_there_though_its_account_never_saw_it_leave(
    con: duckdb.DuckDBPyConnection,
) -> None:
    """7 → 8 → 7: account 8 sees the invoice come, account 7 sees it leave and return in one epoch."""

    def invoice(account: int, order: int) -> Record:
        values = (("account_id", account), ("date_issued", date(2024, 1, 1)), ("payment_dates", None))
        return Record("invoices", (1,), order, order, is_delete=False, is_create=False, values=values)

    world = World(con, "creation")
    world.rows_epoch([invoice(7, 1)])
    world.features_epoch([], world.sent)
    world.rows_epoch([invoice(8, 2)])
    world.features_epoch([], [d for d in world.sent if d["account_id"] == 8])
    assert committed(world, INVOICE_FEATURES)[1][0] == 8
    world.rows_epoch([invoice(7, 3)])
    world.features_epoch([], [d for d in world.sent if d["account_id"] == 7])

    assert committed(world, INVOICE_FEATURES)[1][0] == 7


def test_deletion_in_an_account_that_had_deleted_the_invoice_before_ends_its_row_of_another_account(
    con: duckdb.DuckDBPyConnection,
) -> None:
    """Deleted in 7, alive in 8, back in 7 and deleted there: account 7 learns of all after its deletion at once."""

    def invoice(account: int, order: int, *, deleted: bool = False) -> Record:
        values = (("account_id", account), ("date_issued", date(2024, 1, 1)), ("payment_dates", None))
        return Record("invoices", (1,), order, order, is_delete=deleted, is_create=False, values=values)

    world = World(con, "creation")
    for order in (1, 2):
        world.rows_epoch([invoice(7, order, deleted=order == 2)])
        world.features_epoch([], world.sent)
    world.rows_epoch([invoice(8, 3)])
    world.features_epoch([], [d for d in world.sent if d["account_id"] == 8])
    assert committed(world, INVOICE_FEATURES)[1][0] == 8
    for order in (4, 5):
        world.rows_epoch([invoice(7, order, deleted=order == 5)])
    world.features_epoch([], [d for d in world.sent if d["account_id"] == 7])

    assert 1 not in committed(world, INVOICE_FEATURES)


def test_history_says_on_which_day_it_happened_by_the_dates_in_the_row(con: duckdb.DuckDBPyConnection) -> None:
    """A diff finds a payment long after it was made: the times of the history are those of the reading."""

    def invoice(order: int, paid: date | None, *, deleted: bool = False) -> Record:
        values = (("account_id", 7), ("date_issued", date(2024, 1, 1)), ("payment_dates", paid))
        return Record("invoices", (1,), order, order, is_delete=deleted, is_create=False, values=values)

    world = World(con, "creation")
    for record in (invoice(1, None), invoice(2, date(2024, 3, 5)), invoice(3, date(2024, 3, 5), deleted=True)):
        world.rows_epoch([record])
        world.features_epoch([], world.sent)
    days = [r["dated_on"] for r in world.history[INVOICE_FEATURES.name]]
    assert days == [date(2024, 1, 1), date(2024, 3, 5), None]
    assert all(r["dated_on"] is None for f in FEATURE_SETS if not f.per_invoice for r in world.history[f.name])


def test_deletion_that_is_told_again_for_another_account_ends_the_row_of_the_first(
    con: duckdb.DuckDBPyConnection,
) -> None:
    """The account learns at once that its invoice was deleted and that it had left before."""

    def invoice(order: int, account: int | None, *, deleted: bool) -> Record:
        values = (("account_id", account), ("date_issued", date(2024, 1, 1)), ("payment_dates", None))
        bare = () if account is None else values
        return Record("invoices", (1,), order, order, is_delete=deleted, is_create=False, values=bare)

    line = Record("invoice_line_items", (1, "a"), 5, 5, is_delete=True, is_create=False, values=())
    world = World(con, "creation")
    world.rows_epoch([invoice(1, 7, deleted=False)])
    world.features_epoch([], world.sent)
    world.rows_epoch([invoice(3, None, deleted=True)])
    world.rows_epoch([invoice(4, 8, deleted=True), line])
    world.features_epoch([], world.sent)

    assert 1 not in committed(world, INVOICE_FEATURES)


def neighbours() -> tuple[int, int]:
    """Two accounts of one bucket."""
    bucket = {account: bucket_of("accounts", (account,)) for account in range(BUCKETS + 1)}
    return next(pair for pair in combinations(bucket, 2) if len({bucket[a] for a in pair}) == 1)


def document(account: int, state: str, *, version: int, since: int) -> dict[str, Any]:
    """Of one invoice, the same in every account."""
    values: dict[str, Any] = {"inv_total": Decimal(4), "inv_items": 1, "date_issued": date(2024, 1, 1)}
    place = {"account_id": account, "invoice_id": 7, "document_state": state, "payment_dates": None}
    [made] = documents_of(version, [values | place])
    return made | {"account_since": since}


def invoice_rows_of(world: World) -> list[tuple[int, int, int]]:
    """(document version, epoch, account) of every row of the invoice's features; the greatest counts (R7)."""
    return sorted((r["document_version"], r["epoch"], r["acct_id"]) for r in world.history[INVOICE_FEATURES.name])


def test_invoice_that_moved_within_a_bucket_counts_in_its_new_account_before_the_old_one_hears_of_it(
    con: duckdb.DuckDBPyConnection,
) -> None:
    old, new = neighbours()
    world = World(con, "creation")
    world.features_epoch([], [document(old, "live", version=5, since=5), document(new, "live", version=6, since=6)])
    assert invoice_rows_of(world) == [(5, 1, old), (6, 1, new)]
    world.features_epoch([], [document(old, "left", version=6, since=6)])
    assert len(invoice_rows_of(world)) == 2, "to leave writes no row"


def test_invoice_that_is_back_counts_there_though_the_account_never_heard_that_it_was_away(
    con: duckdb.DuckDBPyConnection,
) -> None:
    home, away = neighbours()
    world = World(con, "creation")
    world.features_epoch([], [document(home, "live", version=1, since=1)])
    world.features_epoch([], [document(away, "live", version=2, since=2)])
    back = [document(home, "left", version=2, since=2), document(home, "live", version=3, since=3)]
    world.features_epoch([], [*back, document(away, "left", version=3, since=3)])
    assert invoice_rows_of(world)[-1] == (3, 3, home), "its values are those of its first stay, and are written again"
