"""The examples in the docstrings of `trs.lake`, over a lake that answers as they say."""

import doctest
import warnings
from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from tests.small_lake import SmallLake
from trs import lake

EXAMPLES = [t for t in doctest.DocTestFinder().find(lake, "lake") if t.examples]


def fill(folder: Path) -> SmallLake:
    """Invoice 1 changes in May, 2 and 3 are issued in May; complete through 2024-06-30."""
    small = SmallLake(folder)
    total = {"inv_items": 1, "acct_age": 30, "num_inv_120d": 0, "cum_tot_inv_acct": Decimal(10), "is_late": 0}
    small.feature(1, "2024-05-01", inv_total=Decimal(10), epoch=1, **total)
    small.feature(1, "2024-05-20T09:30", inv_total=Decimal("12.5"), epoch=2, document_version=2, **total)
    small.feature(2, "2024-05-20T09:30", inv_total=Decimal(3), epoch=2, **total)
    small.feature(3, "2024-05-28T17:00", inv_total=Decimal(8), epoch=3, **total)
    for stage in ("skus", "invoices", "accounts"):
        small.epoch(stage, 0, 3, "2024-06-30")
    return small


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.name)
def test_example_answers_as_it_says(example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRS_LAKE", fill(tmp_path / "lake").uri)
    example.globs = {"lake": lake, "pa": pa, "date": date, "Decimal": Decimal}
    said: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    assert result.failed == 0, "".join(said)


def test_every_function_has_an_example() -> None:
    functions = {name for name in lake.__all__ if name[0].islower()}
    assert functions == {e.name.removeprefix("lake.") for e in EXAMPLES}
