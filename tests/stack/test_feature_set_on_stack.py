"""A feature set by article on the real stack: two files in a folder, on a lake that has its rows already."""

from pathlib import Path

import pytest

from app.settings import Settings
from tests.feature_set_example import NAME, write_example
from tests.stack_helpers import feed, query, trs, write_extracts

CATCH_UP_S = 400
pytestmark = pytest.mark.timeout(1200)


def answer(settings: Settings, out: Path, *arguments: str) -> str:
    """The file that a command writes."""
    trs(settings, *arguments, "--feature-set", NAME, "--out", str(out))
    return out.read_text(encoding="utf-8")


def test_two_files_make_a_set_that_is_streamed_checked_and_kept_on_a_lake_that_has_rows(
    local_settings: Settings, tmp_path: Path
) -> None:
    before = local_settings.model_copy(update={"price_at": "current", "epoch_interval_s": 1.0})
    after = before.model_copy(update={"feature_sets": write_example(tmp_path / "sets")})
    feed(before, write_extracts(tmp_path / "first", invoices=200, seed=1), run=1)
    trs(before, "worker", "--until-caught-up", timeout_s=CATCH_UP_S)
    assert query(before, "SELECT DISTINCT stage FROM epochs ORDER BY stage")["stage"].to_pylist() == [
        "accounts",
        "invoices",
        "skus",
    ]
    trs(after, "worker", "--until-caught-up", timeout_s=CATCH_UP_S)
    first = answer(after, tmp_path / "first.csv", "etl", "--source", f"csv:{tmp_path / 'first'}")
    (known,) = query(before, "SELECT max(known_through) AS t FROM epochs")["t"].to_pylist()

    feed(before, write_extracts(tmp_path / "changed", invoices=200, seed=2), run=2, tables=("skus", "invoices"))
    trs(after, "worker", "--until-caught-up", timeout_s=CATCH_UP_S)
    now = answer(after, tmp_path / "now.csv", "features", "as-of", "now")
    assert now == answer(after, tmp_path / "again.csv", "etl", "--source", "lake")
    assert now != first
    assert answer(after, tmp_path / "then.csv", "features", "as-of", known.isoformat()) == first
    trs(after, "lake", "fold")
    trs(after, "lake", "verify")
