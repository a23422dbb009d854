"""What a feature set with `window_days` promises: a change costs what follows it, and the rows are those of the whole.

Documents come, move to other days, change their totals, leave and are deleted, in epochs; the state is then what the
set's SQL says of all live documents at once. Days lie around the edges of the windows of one another.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors import account_rows, feature_rows
from processors.features.declarations import FEATURE_SETS, FeatureSet
from processors.features.derive import derive_sql
from tests.processors.row_oracle import Record
from tests.processors.row_world import World, bucket_of

WINDOWED = [f for f in FEATURE_SETS if f.window_days is not None]
FIRST = date(2020, 1, 1)
ACCOUNTS = 2


@pytest.fixture(scope="module")
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    yield con
    con.close()


def histories(window: int) -> st.SearchStrategy[list[list[dict[str, Any]]]]:
    """Epochs of documents, each with a version of its own."""
    days = st.builds(lambda n, near: n * window + near, st.integers(0, 3), st.integers(-2, 2))
    document = st.fixed_dictionaries(
        {
            "account_id": st.integers(1, ACCOUNTS),
            "invoice_id": st.integers(1, 12),
            "document_state": st.sampled_from(["live", "live", "live", "live", "left", "deleted"]),
            "date_issued": days.map(lambda d: FIRST + timedelta(d)),
            "payment_dates": st.none() | st.just(FIRST),
            "inv_total": st.integers(-5, 5).map(Decimal),
            "inv_items": st.integers(0, 3),
        }
    )
    return st.lists(st.lists(document, max_size=8), min_size=1, max_size=6)


def documents_of(epoch: int, drawn: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The documents as the decoder gives them; a bare one has no day, as one of an invoice that never had a header."""
    common = {"account_since": 0, "invoice_bucket": 0, "unpriced_lines": 0, "lines": []}
    common |= {"source_ts": datetime(2024, 1, 1, tzinfo=UTC)}
    return [
        common
        | d
        | {"document_version": epoch, "row_offset": n, "bucket": bucket_of("accounts", (d["account_id"],))}
        | ({} if d["document_state"] == "live" else {"date_issued": None, "payment_dates": None})
        for n, d in enumerate(drawn)
    ]


def assert_state_is_that_of_the_whole(world: World, feature_set: FeatureSet) -> None:
    """The committed features are what the SQL says of all live documents."""
    world.con.execute(f"CREATE OR REPLACE TEMP VIEW accounts AS FROM {account_rows.ACCOUNTS} WHERE NOT deleted")
    world.con.execute(f"""
        CREATE OR REPLACE TEMP VIEW documents AS FROM {account_rows.DOCUMENTS} WHERE document_state = 'live'
    """)
    names = ", ".join(feature_set.column_names)
    state = world.rows(f"SELECT {names} FROM {feature_rows.state_name(feature_set)} ORDER BY ALL")

    assert state == world.rows(f"SELECT {names} FROM {derive_sql(feature_set)} ORDER BY ALL")


@pytest.mark.parametrize("feature_set", WINDOWED, ids=lambda f: f.name)
@settings(max_examples=40)
@given(data=st.data())
def test_state_after_any_epochs_is_derived_from_all_documents_at_once(
    con: duckdb.DuckDBPyConnection, feature_set: FeatureSet, data: st.DataObject
) -> None:
    assert feature_set.window_days is not None
    world = World(con, "creation")
    joined = (("company_name", "F"), ("joining_date", FIRST))
    known = [Record("accounts", (1,), 1, 0, is_delete=False, is_create=True, values=joined)]
    when = data.draw(st.integers(0, 3), label="the account comes in epoch")
    for epoch, drawn in enumerate(data.draw(histories(feature_set.window_days), label="documents"), 1):
        world.features_epoch(known if epoch == when else [], documents_of(epoch, drawn))
    assert_state_is_that_of_the_whole(world, feature_set)


@pytest.mark.parametrize("feature_set", WINDOWED, ids=lambda f: f.name)
@pytest.mark.parametrize("beyond", [0, 1])
def test_invoices_around_the_far_edge_of_the_window_of_a_change_count_as_they_do_in_the_whole(
    con: duckdb.DuckDBPyConnection, feature_set: FeatureSet, beyond: int
) -> None:
    assert feature_set.window_days is not None
    edge, day = FIRST, FIRST + timedelta(feature_set.window_days + beyond)
    common = {"account_id": 1, "document_state": "live", "payment_dates": None, "inv_items": 1}
    old = [common | {"invoice_id": n, "date_issued": edge, "inv_total": Decimal(n)} for n in (1, 2, 3)]
    new = [common | {"invoice_id": 4, "date_issued": day, "inv_total": Decimal(4)}]
    world = World(con, "creation")
    world.features_epoch([], documents_of(1, old))
    world.features_epoch([], documents_of(2, new))

    assert_state_is_that_of_the_whole(world, feature_set)
