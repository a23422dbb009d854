"""`lake.training_set`: labels of every kind in, the same rows with features out; what cannot be asked is refused."""

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from processors.errors import UsageError
from processors.features.declarations import INVOICE_FEATURES
from tests.small_lake import SmallLake, at
from trs import lake

KNOWN = datetime(2024, 5, 3, 10, tzinfo=UTC)


@pytest.fixture(autouse=True)
def small_lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallLake:
    """Invoice 1 changes at KNOWN, invoice 2 goes at KNOWN; complete through 2024-05-20."""
    small = SmallLake(tmp_path / "lake")
    monkeypatch.setenv("TRS_LAKE", small.uri)
    small.feature(1, "2024-05-01", inv_total=Decimal(10), acct_age=5)
    small.feature(2, "2024-05-01", inv_total=Decimal(7))
    small.feature(1, "2024-05-03T10:00", inv_total=Decimal(12), acct_age=None, epoch=2, valid="2024-05-02")
    small.feature(2, "2024-05-03T10:00", deleted=True, epoch=2)
    small.epoch("accounts", 0, 2, "2024-05-20")
    return small


def labels(*points: tuple[int, datetime], **columns: list[object]) -> pa.Table:
    times = pa.array([t for _, t in points], pa.timestamp("us", "UTC"))
    return pa.table({"inv_id": pa.array([i for i, _ in points], pa.int64()), "time": times, **columns})


def totals(answer: pa.Table) -> list[Decimal | None]:
    found: list[Decimal | None] = answer["inv_total"].to_pylist()
    return found


def test_row_counts_from_the_very_moment_at_which_it_was_known_and_not_before() -> None:
    before = datetime(2024, 5, 3, 9, 59, 59, 999_999, tzinfo=UTC)
    assert totals(lake.training_set(labels((1, before), (1, KNOWN)))) == [Decimal(10), Decimal(12)]


def test_nothing_that_was_known_later_than_the_label_is_in_its_row() -> None:
    answer = lake.training_set(labels(*[(1, at(f"2024-05-{d:02}")) for d in range(1, 20)]))
    assert all(row["known_from"] <= row["time"] for row in answer.to_pylist())


def test_deleted_and_unknown_entities_have_no_features_and_say_so() -> None:
    answer = lake.training_set(labels((2, at("2024-05-02")), (2, KNOWN), (99, KNOWN), (1, at("2024-04-01"))))
    assert answer["has_features"].to_pylist() == [True, False, False, False]
    assert totals(answer) == [Decimal(7), None, None, None]
    assert answer["known_from"].to_pylist()[1:] == [None, None, None]


def test_labels_stay_as_they_are_in_their_order_with_their_duplicates() -> None:
    given = labels((2, at("2024-05-02")), (1, KNOWN), (1, KNOWN), note=["b", "a", None])
    answer = lake.training_set(given)
    assert answer.select(given.column_names).equals(given)
    values = [c for c in INVOICE_FEATURES.column_names if c != "inv_id"]
    assert answer.column_names == [*given.column_names, *values, "known_from", "valid_from", "has_features"]
    assert totals(answer) == [Decimal(7), Decimal(12), Decimal(12)]


def test_no_labels_give_no_rows_with_all_columns() -> None:
    answer = lake.training_set(labels())
    assert answer.num_rows == 0
    assert answer.column_names[-1] == "has_features"


def test_axis_valid_asks_the_sources_clock() -> None:
    answer = lake.training_set(labels((1, at("2024-05-02"))), axis="valid")
    assert totals(answer) == [Decimal(12)]
    assert answer["known_from"].to_pylist() == [KNOWN]


def test_pandas_labels_keep_their_index_and_types() -> None:
    given = pd.DataFrame(
        {
            "invoice": [1, 2],
            "decided": pd.to_datetime(["2024-05-04", "2024-05-02"]),
            "late": pd.Categorical(["n", "y"]),
        },
        index=["x", "y"],
    )
    answer = lake.training_set(given, entity="invoice", time="decided")
    assert isinstance(answer, pd.DataFrame)
    pd.testing.assert_frame_equal(answer[["invoice", "decided", "late"]], given)
    assert answer["inv_total"].to_dict() == {"x": Decimal(12), "y": Decimal(7)}
    assert answer["acct_age"].dtype == pd.Int32Dtype()


def test_pandas_labels_may_hold_what_arrow_cannot_and_repeat_their_index() -> None:
    given = pd.DataFrame({"inv_id": [1, 2], "time": [KNOWN, KNOWN], "note": [1, "two"]}, index=[0, 0])
    answer = lake.training_set(given)
    assert answer["note"].tolist() == [1, "two"]
    assert answer["inv_total"].iloc[0] == Decimal(12)
    with pytest.raises(UsageError, match=r"labels: .*note"):
        lake.training_set(given, to="arrow")


def test_polars_labels_give_polars_and_to_overrides() -> None:
    given = pl.DataFrame({"inv_id": [1], "time": [date(2024, 5, 2)]})
    answer = lake.training_set(given)
    assert isinstance(answer, pl.DataFrame)
    assert answer["inv_total"].to_list() == [Decimal(10)]
    assert isinstance(lake.training_set(given, to="arrow"), pa.Table)
    assert isinstance(lake.training_set(given, to="pandas"), pd.DataFrame)


def test_labels_may_be_a_stream() -> None:
    given = labels((1, KNOWN), (2, KNOWN))
    answer = lake.training_set(given.to_reader())
    assert answer.select(given.column_names).equals(given)
    assert totals(answer) == [Decimal(12), None]


def test_prefix_keeps_a_label_that_has_a_features_name() -> None:
    given = labels((1, KNOWN), is_late=[1])
    with pytest.raises(UsageError, match=r"`is_late` already.*prefix="):
        lake.training_set(given)
    answer = lake.training_set(given, prefix="f_")
    assert answer["is_late"].to_pylist() == [1]
    assert totals(answer.rename_columns([c.removeprefix("f_") for c in answer.column_names])) == [Decimal(12)]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (pa.array([date(2024, 5, 3), date(2024, 5, 4)]), [10, 12]),
        (pa.array([1714726800, 1714730400], pa.timestamp("s")), [10, 12]),
        (pa.array([1714726800000, 1714730400000], pa.timestamp("ms", "America/New_York")), [10, 12]),
        (pa.array([1714730399999999999, 1714730400000000000], pa.timestamp("ns")), [10, 12]),
    ],
    ids=["dates", "seconds without zone", "another zone", "a nanosecond before"],
)
def test_times_of_every_type_are_moments_in_utc(times: pa.Array, expected: list[int]) -> None:
    given = pa.table({"inv_id": pa.array([1, 1], pa.int32()), "time": times})
    assert totals(lake.training_set(given)) == expected


@pytest.mark.parametrize(
    ("columns", "arguments", "said"),
    [
        ({"inv_id": [1, None], "time": [KNOWN, KNOWN]}, {}, "1 rows have no `inv_id`, the first is row 1"),
        ({"inv_id": [1, 2], "time": [None, KNOWN]}, {}, "1 rows have no `time`, the first is row 0"),
        ({"inv_id": [1], "at": [KNOWN]}, {}, "no column `time`.*inv_id, at"),
        ({"inv_id": ["1"], "time": [KNOWN]}, {}, "`inv_id` is string, the key is int64"),
        ({"inv_id": [1.5], "time": [KNOWN]}, {}, "`inv_id` does not fit"),
        ({"inv_id": [1], "time": ["2024-05-01"]}, {}, "`time` is string, not a time"),
        ({"inv_id": [1], "time": [KNOWN]}, {"entity": ["inv_id", "x"]}, "has the key inv_id"),
        ({"inv_id": [1], "time": [KNOWN]}, {"to": "spark"}, "arrow, polars or pandas"),
    ],
)
def test_labels_that_ask_nothing_are_refused(columns: dict[str, Any], arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        lake.training_set(pa.table(columns), **arguments)


@pytest.mark.parametrize(
    "frame", [[1, 2], pl.LazyFrame(), pd.Series([1]), pa.array([1])], ids=lambda f: type(f).__name__
)
def test_what_is_not_a_frame_is_refused(frame: object) -> None:
    with pytest.raises(UsageError, match="is not a frame"):
        lake.training_set(frame)


def test_labels_past_the_watermark_are_counted_in_a_warning() -> None:
    with pytest.warns(UserWarning, match="complete through 2024-05-20.*; 2 of 3 labels lie past it"):
        lake.training_set(labels((1, KNOWN), (1, at("2024-06-01")), (1, at("2024-06-02"))))


def test_labels_of_which_none_has_features_get_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"none of the labels .* begins at 2024-05-01T00:00:00Z \(known\)"):
        lake.training_set(labels((1, at("2024-04-01")), (99, KNOWN)))


@pytest.mark.filterwarnings("ignore:none of the labels has features")
def test_account_features_are_asked_by_account() -> None:
    given = pa.table({"acct_id": [1], "time": [KNOWN]})
    assert lake.training_set(given, "account_features")["has_features"].to_pylist() == [False]


def test_answer_says_as_of_when_it_is() -> None:
    about = lake.as_of("2024-05-02").schema.metadata
    assert about[b"complete_through"] == b"2024-05-20T00:00:00Z"
    assert datetime.fromisoformat(about[b"read_at"].decode()) <= datetime.now(UTC)
    frame = lake.sql("SELECT 1 AS one FROM invoice_features_history", to="pandas")
    assert frame.attrs["complete_through"] == "2024-05-20T00:00:00Z"
