"""As of any time, training sets and intervals, over random histories against a naive oracle, row by row.

Histories have late rows (a lower version known after a greater one), rows of several buckets, ties of time, deletes and
entities that come back, and on the axis `valid` reconstructed rows before the first observed one, and after it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.features.as_of import Axis, as_of_sql
from processors.features.declarations import INVOICE_FEATURES
from processors.features.labels import label_points
from processors.features.training import training_sql
from processors.features.versions import history_rows_sql, until_sql
from processors.lake_tables import LAKE_TABLES, changes_name, reconstructed_name

BEGIN = datetime(2024, 5, 1, tzinfo=UTC)
STEPS = 6
"""Few moments, so that ties are common; they lie 12 hours apart, so that a day has two."""
AXES: list[Axis] = ["known", "valid"]
CHANGES = LAKE_TABLES[changes_name(INVOICE_FEATURES)]
RECONSTRUCTED = LAKE_TABLES[reconstructed_name(INVOICE_FEATURES)]


@dataclass(frozen=True)
class Version:
    """A row of the history. `rank`: (document version, epoch), None: a reconstructed row. `items` tells rows apart."""

    inv_id: int
    rank: tuple[int, int] | None
    known: int | None
    valid: int
    deleted: bool
    items: int


def moment(step: int) -> datetime:
    return BEGIN + timedelta(hours=12) * step


@st.composite
def histories(draw: st.DrawFn) -> list[Version]:
    times = st.integers(0, STEPS)
    ranks = st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=5)
    versions: list[Version] = []
    for inv_id in range(draw(st.integers(1, 3))):
        for rank in draw(ranks):
            versions.append(Version(inv_id, rank, draw(times), draw(times), draw(st.booleans()), len(versions)))
        for valid in draw(st.sets(times, max_size=2)):
            versions.append(Version(inv_id, None, None, valid, False, len(versions)))
    return draw(st.permutations(versions))


def counting(history: list[Version], inv_id: int, step: int, axis: Axis) -> Version | None:
    """The row that counts, by the definition; the oracle."""
    own = [v for v in history if v.inv_id == inv_id]
    observed = [v for v in own if v.rank is not None and (v.known if axis == "known" else v.valid) <= step]  # type: ignore[operator]
    if observed:
        best = max(observed, key=lambda v: v.rank or (0, 0))
        return None if best.deleted else best
    past = [v for v in own if v.rank is None and v.valid <= step] if axis == "valid" else []
    return max(past, key=lambda v: v.valid, default=None)


@pytest.fixture(scope="module")
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'Asia/Tokyo'")  # no answer may depend on it
        yield con


def show(con: duckdb.DuckDBPyConnection, history: list[Version]) -> None:
    changes, past = [], []
    for v in history:
        row = {"inv_id": v.inv_id, "acct_id": 7, "inv_items": v.items, "valid_from": moment(v.valid)}
        if v.rank is None:
            past.append({**dict.fromkeys(RECONSTRUCTED.schema.names), **row, "origin": "reconstructed"})
        else:
            assert v.known is not None
            about = {"document_version": v.rank[0], "epoch": v.rank[1], "bucket": v.rank[1] % 2, "deleted": v.deleted}
            known = moment(v.known)
            about |= {"known_from": known, "known_date": known.date()}
            changes.append({**dict.fromkeys(CHANGES.schema.names), **row, **about})
    con.register("changes", pa.Table.from_pylist(changes, schema=CHANGES.schema))
    con.register("past", pa.Table.from_pylist(past, schema=RECONSTRUCTED.schema))


def as_of_items(con: duckdb.DuckDBPyConnection, step: int, axis: Axis) -> dict[int, int]:
    rows = as_of_sql(INVOICE_FEATURES, changes="changes", reconstructed="past", time=moment(step), axis=axis)
    return dict(con.sql(f"SELECT inv_id, inv_items FROM {rows}").fetchall())


@settings(max_examples=80, deadline=None)
@given(histories(), st.lists(st.tuples(st.integers(0, 3), st.integers(-1, STEPS + 1)), max_size=8))
@pytest.mark.parametrize("axis", AXES)
def test_training_set_takes_for_each_label_what_counted_at_its_time(
    con: duckdb.DuckDBPyConnection, axis: Axis, history: list[Version], asked: list[tuple[int, int]]
) -> None:
    show(con, history)
    labels = pa.table(
        {
            "inv_id": pa.array([i for i, _ in asked], pa.int64()),
            "time": pa.array([moment(s) for _, s in asked], pa.timestamp("us", "UTC")),
        }
    )
    con.register("points", label_points(labels, INVOICE_FEATURES, entity=None, time="time"))
    last = max((moment(s) for _, s in asked), default=BEGIN)
    query = training_sql(
        INVOICE_FEATURES, points="points", changes="changes", reconstructed="past", last=last, axis=axis
    )
    answer = con.sql(query).to_arrow_table().to_pylist()
    expected = [counting(history, inv_id, step, axis) for inv_id, step in asked]
    assert [row["inv_items"] for row in answer] == [v and v.items for v in expected]
    assert [row["has_features"] for row in answer] == [v is not None for v in expected]
    known = [None if v is None or v.known is None else moment(v.known) for v in expected]
    assert [row["known_from"] for row in answer] == known


@settings(max_examples=25, deadline=None)
@given(histories())
@pytest.mark.parametrize("axis", AXES)
def test_as_of_and_intervals_give_what_counted_at_every_time(
    con: duckdb.DuckDBPyConnection, axis: Axis, history: list[Version]
) -> None:
    show(con, history)
    rows = history_rows_sql(INVOICE_FEATURES, changes="changes", reconstructed="past")
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE intervals AS SELECT *, {until_sql(INVOICE_FEATURES, axis)} AS until FROM {rows}"
    )
    for step in range(-1, STEPS + 2):
        found = [counting(history, inv_id, step, axis) for inv_id in range(3)]
        expected = {v.inv_id: v.items for v in found if v is not None}
        assert as_of_items(con, step, axis) == expected
        held = con.execute(
            f"SELECT inv_id, inv_items FROM intervals WHERE {axis}_from <= $1 AND (until IS NULL OR until > $1)"
            " AND NOT deleted",
            [moment(step)],
        ).fetchall()
        assert dict(held) == expected
        assert len(held) == len(expected)
