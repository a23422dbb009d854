"""`trs.lake`, the notebook's way to the lake."""

import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from app.frames import Kind
from processors.errors import UsageError
from processors.features.declarations import INVOICE_FEATURES
from tests.small_lake import SmallLake, at
from trs import lake


@pytest.fixture(autouse=True)
def small_lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = SmallLake(tmp_path / "lake")
    monkeypatch.setenv("TRS_LAKE", small.uri)
    small.feature(1, "2024-05-01", inv_total=Decimal(10))
    small.feature(1, "2024-05-03", inv_total=Decimal(12), epoch=2)
    small.epoch("accounts", 0, 2, "2024-05-04")


@pytest.mark.parametrize(
    "time",
    ["2024-05-02", datetime(2024, 5, 2, tzinfo=UTC), datetime(2024, 5, 2)],  # noqa: DTZ001 - naive is UTC
)
def test_as_of_takes_text_and_datetimes(time: str | datetime) -> None:
    table = lake.as_of(time)
    assert table.schema.names == list(INVOICE_FEATURES.column_names)
    assert table["inv_total"].to_pylist() == [Decimal(10)]


def test_as_of_past_the_watermark_warns() -> None:
    with pytest.warns(UserWarning, match="complete through 2024-05-04"):
        lake.as_of("now")


def test_compare_gives_columns_and_rows() -> None:
    comparison = lake.compare("2024-05-02", "2024-05-04")
    assert comparison.changed == 1
    assert comparison.rows["inv_total_after"].to_pylist() == [Decimal(12)]


def test_sql_answers_with_arrow() -> None:
    assert lake.sql("SELECT sum(inv_total) AS total FROM invoice_features")["total"].to_pylist() == [Decimal(12)]


def test_sql_of_something_else_raises_usage_error() -> None:
    with pytest.raises(UsageError):
        lake.sql("DELETE FROM invoice_features")


def test_sql_of_personal_data_answers_only_when_asked_for() -> None:
    with pytest.raises(UsageError, match="with_personal_data=True"):
        lake.sql("FROM dead_letters")
    assert lake.sql("FROM dead_letters", with_personal_data=True).num_rows == 0


def test_describe_counts_entities_and_versions_and_says_from_when_to_when() -> None:
    found = lake.describe()
    first = found.feature_sets.to_pylist()[0]
    assert (first["entities"], first["versions"], first["reconstructed"]) == (1, 2, 0)
    assert (first["oldest_known_from"], first["newest_known_from"]) == (at("2024-05-01"), at("2024-05-03"))
    assert found.watermark == at("2024-05-04")
    assert {c for c in found.columns["column"].to_pylist() if c in str(found)} == set(
        found.columns["column"].to_pylist()
    )


@pytest.mark.parametrize(("to", "kind"), [("polars", pl.DataFrame), ("pandas", pd.DataFrame), ("arrow", pa.Table)])
def test_answers_come_as_the_frame_that_is_asked_for(to: Kind, kind: type) -> None:
    for answer in (
        lake.as_of("2024-05-04", to=to),
        lake.sql("SELECT inv_total FROM invoice_features", to=to),
        lake.history_of(1, to=to),
        lake.delta("invoice_features_changes", to=to),
    ):
        assert isinstance(answer, kind)
        assert list(answer["inv_total"])[-1] in (Decimal(12), pa.scalar(Decimal(12), pa.decimal128(38, 10)))


def test_integers_in_pandas_are_exact_with_nulls_too() -> None:
    big = 2**60 + 1
    answer = lake.sql(f"SELECT * FROM (VALUES (CAST({big} AS BIGINT)), (NULL)) AS t(n)", to="pandas")
    assert answer["n"][0] == big


def test_package_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(UsageError, match=r"polars is not installed .*trs-stream\[notebooks\]"):
        lake.as_of("2024-05-04", to="polars")
