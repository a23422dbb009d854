"""Point-in-time questions of a set whose key is text and a date: article and month."""

from collections.abc import Iterator
from datetime import UTC, date, datetime

import duckdb
import pyarrow as pa
import pytest

from processors.errors import UsageError
from processors.features.as_of import as_of_sql
from processors.features.feature_set import FeatureColumn, FeatureSet
from processors.features.labels import label_points
from processors.features.training import training_sql
from processors.features.versions import entity_condition, entity_history_sql
from processors.lake_tables import feature_changes, reconstructed_features

DEMAND = FeatureSet(
    name="demand",
    doc="Sold per article and month.",
    version=1,
    grain="article",
    entity_key=("item_id", "month"),
    owner_column="item_id",
    columns=(
        FeatureColumn("item_id", "VARCHAR", "The article."),
        FeatureColumn("month", "DATE", "Its first day."),
        FeatureColumn("sold", "BIGINT", "How many."),
    ),
    sql="",
    month_column="month",
)
MAY, JUNE = date(2024, 5, 1), date(2024, 6, 1)
NAMES = {"changes": "changes", "reconstructed": "past"}


def day(number: int) -> datetime:
    return datetime(2024, 7, number, tzinfo=UTC)


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    """It's sold 1, later 2, in May, and 5 in June."""
    changes, past = feature_changes(DEMAND).schema, reconstructed_features(DEMAND).schema
    rows = [("it's", MAY, 1, 1), ("it's", MAY, 2, 3), ("it's", JUNE, 5, 2)]
    blank = dict.fromkeys(changes.names) | {"document_version": 0, "deleted": False}
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        made = [
            {**blank, "item_id": i, "month": m, "sold": n, "epoch": d, "known_from": day(d), "valid_from": day(d)}
            | {"known_date": day(d).date()}
            for i, m, n, d in rows
        ]
        con.register("changes", pa.Table.from_pylist(made, schema=changes))
        con.register("past", past.empty_table())
        yield con


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
@pytest.mark.parametrize("month_kind", [pa.date32(), pa.timestamp("us")])
@pytest.mark.parametrize("axis", ["known", "valid"])
def test_training_set_by_article_and_month(
    con: duckdb.DuckDBPyConnection, axis: str, kind: pa.DataType, month_kind: pa.DataType
) -> None:
    points = [("it's", MAY, 1), ("it's", MAY, 3), ("it's", JUNE, 1), ("it's", JUNE, 9), ("other", MAY, 9)]
    labels = pa.table(
        {
            "item_id": pa.array([p[0] for p in points]).cast(kind),
            "month": pa.array([p[1] for p in points]).cast(month_kind),
            "time": pa.array([day(p[2]) for p in points]),
        }
    )
    con.register("points", label_points(labels, DEMAND, entity=None, time="time"))
    query = training_sql(DEMAND, points="points", last=day(9), axis=axis, **NAMES)  # type: ignore[arg-type]
    assert con.sql(query).to_arrow_table()["sold"].to_pylist() == [1, 2, None, 5, None]


def test_as_of_and_history_by_article_and_month(con: duckdb.DuckDBPyConnection) -> None:
    rows = as_of_sql(DEMAND, time=day(3), **NAMES)
    assert con.sql(f"FROM {rows} ORDER BY month").fetchall() == [("it's", MAY, 2), ("it's", JUNE, 5)]
    entity = entity_condition(DEMAND, ("it's", "2024-05-01"))
    history = con.sql(entity_history_sql(DEMAND, entity=entity, **NAMES)).to_arrow_table()
    assert history["sold"].to_pylist() == [1, 2]
    assert history["changed"].to_pylist() == [None, ["sold"]]


def test_number_for_a_key_of_text_is_refused() -> None:
    labels = pa.table({"item_id": [7], "month": [MAY], "time": [day(1)]})
    with pytest.raises(UsageError, match="`item_id` is int64, the key is string"):
        label_points(labels, DEMAND, entity=None, time="time")


def test_key_that_is_no_date_is_refused() -> None:
    with pytest.raises(UsageError, match="`May` is not a value of month, which is a date"):
        entity_condition(DEMAND, ("it's", "May"))
