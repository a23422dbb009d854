"""The population stability index: its laws, and a case reckoned by hand."""

import math
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.errors import UsageError
from processors.features.drift import drift, psi

values = st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(math.nan)), min_size=1, max_size=60).map(np.array)


@given(values)
def test_sample_against_itself_is_0(sample: np.ndarray) -> None:
    assert psi(sample, sample) == 0


@given(values, values)
def test_index_is_finite_and_never_negative(before: np.ndarray, after: np.ndarray) -> None:
    assert 0 <= psi(before, after) < math.inf


@given(values, values)
def test_only_the_order_of_values_counts(before: np.ndarray, after: np.ndarray) -> None:
    before, after = np.round(before), np.round(after)
    assert psi(before, after) == pytest.approx(psi(before * 3 + 7, after * 3 + 7))


def test_case_by_hand() -> None:
    before = np.array([0.0] * 80 + [1.0] * 20)
    after = np.array([0.0] * 60 + [1.0] * 40)
    shares = [(80.5 / 101, 60.5 / 101), (20.5 / 101, 40.5 / 101)]
    assert psi(before, after) == pytest.approx(sum((a - b) * math.log(a / b) for b, a in shares))


def test_nulls_are_a_bin_of_their_own() -> None:
    full, half = np.arange(100.0), np.where(np.arange(100) % 2, np.nan, np.arange(100.0))
    assert psi(full, half) > 0.25
    assert psi(half, half) == 0


def test_shift_of_a_normal_sample_is_seen_and_noise_is_not() -> None:
    chance = np.random.default_rng(1)
    before, same, moved = chance.normal(0, 1, 5000), chance.normal(0, 1, 5000), chance.normal(0.8, 1, 5000)
    assert psi(before, same) < 0.02 < 0.25 < psi(before, moved)


def test_empty_sample_has_no_index() -> None:
    assert math.isnan(psi(np.array([]), np.array([1.0])))


def test_table_has_a_row_per_column() -> None:
    before = pa.table(
        {"inv_id": [1, 2, 3], "a": pa.array([Decimal(1), Decimal(3), None]), "b": [1, 2, 3], "t": list("xyz")}
    )
    after = pa.table({"inv_id": [9], "a": pa.array([Decimal(5)]), "b": [1], "t": ["x"]})
    rows = drift(before, after).to_pylist()
    assert {r["column"] for r in rows} == {"a", "b"}, "neither text nor identifiers"
    rows.sort(key=lambda r: r["column"])
    assert (rows[0]["mean_before"], rows[0]["mean_after"]) == (2.0, 5.0)
    assert (rows[0]["null_share_before"], rows[0]["null_share_after"]) == (pytest.approx(1 / 3), 0.0)


def test_column_that_is_no_number_is_refused() -> None:
    table = pa.table({"t": ["x"], "a": [1]})
    with pytest.raises(UsageError, match="`t` is not a number"):
        drift(table, table, columns=["t"])
    with pytest.raises(UsageError, match="bins=1"):
        drift(table, table, bins=1)


def test_by_chance_alone_the_index_is_as_the_module_says() -> None:
    chance, n, m, bins = np.random.default_rng(2), 400, 200, 10
    found = [psi(chance.normal(size=n), chance.normal(size=m), bins=bins) for _ in range(300)]
    assert np.mean(found) == pytest.approx((bins - 1) * (1 / n + 1 / m), rel=0.15)
