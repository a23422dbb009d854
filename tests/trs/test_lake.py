"""`trs.lake`, the notebook's way to the lake."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from processors.errors import UsageError
from processors.features.declarations import INVOICE_FEATURES
from tests.small_lake import SmallLake
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
