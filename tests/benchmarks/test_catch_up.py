"""The comparison of the catch-up with its peers: figures side by side, features equal in every column."""

from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from app.settings import Settings
from benchmarks.catch_up import Run, compare_features, report_rows
from benchmarks.peers.stock_faust import SCHEMA
from processors.features.declarations import INVOICE_FEATURES
from tests.small_lake import SmallLake

FEATURES = (7, 1, Decimal("12.5000000000"), 3, None, 0, Decimal("12.5000000000"), 1)


def lake_and_peer(folder: Path, *peer: tuple[object, ...]) -> tuple[Settings, Path]:
    """A lake with one invoice's features, and a peer's table with these rows: features, then the commit's number."""
    lake = SmallLake(folder / "lake")
    lake.feature(7, "2024-05-01T10:00", **dict(zip(INVOICE_FEATURES.column_names[2:], FEATURES[2:], strict=True)))
    rows = [dict(zip(SCHEMA.names, row, strict=True)) for row in peer]
    write_deltalake(str(folder / "peer"), pa.Table.from_pylist(rows, SCHEMA))
    return Settings(lake=lake.uri), folder / "peer"


def test_the_newest_commit_of_the_peer_is_compared(tmp_path: Path) -> None:
    settings, peer = lake_and_peer(tmp_path, (*FEATURES[:3], 9, *FEATURES[4:], 0), (*FEATURES, 1))
    assert compare_features(settings, peer) == 1


@pytest.mark.parametrize("column", range(len(FEATURES)))
def test_a_difference_in_any_column_ends_the_benchmark(tmp_path: Path, column: int) -> None:
    values: list[object] = list(FEATURES)
    values[column] = Decimal("12.5000000001") if isinstance(values[column], Decimal) else 4
    settings, peer = lake_and_peer(tmp_path, (*values, 0))
    with pytest.raises(SystemExit, match="2 rows differ, ours has 1"):
        compare_features(settings, peer)


def test_a_row_too_many_ends_the_benchmark(tmp_path: Path) -> None:
    settings, peer = lake_and_peer(tmp_path, (*FEATURES, 0), (8, *FEATURES[1:], 0))
    with pytest.raises(SystemExit, match="1 rows differ"):
        compare_features(settings, peer)


def figures(rate: float, **more: float) -> dict[str, float]:
    return {"events_per_s": rate, "seconds": 1000 / rate, "cpu_seconds": 1.0, "peak_rss_mb": 100.0, **more}


def of_ours(rate: float) -> dict[str, float]:
    return figures(rate, process_seconds=9.0, busy_cores=1.8, busy_cores_at_the_end=1.2, fresh_memory_s_per_gb=0.5)


def test_the_runs_with_the_median_rates_stand_side_by_side_with_the_median_of_all_ratios() -> None:
    runs = [
        Run(of_ours(rate), {"faust": figures(peer, equal_rows=50)})
        for rate, peer in ((100.0, 4.0), (200.0, 10.0), (900.0, 11.0))
    ]
    rows = {row.measure: row for row in report_rows(runs)}
    rate = rows["row events"]
    assert (rate.value, rate.peer_name, rate.peer, rate.ratio) == (200.0, "stock Faust", 10.0, 25.0)
    seconds = rows["first event to last commit"]
    assert (seconds.value, seconds.peer, seconds.ratio) == (5.0, 100.0, 25.0)
    assert rows["features equal to stock Faust's"].value == 50


def test_the_cold_run_of_a_peer_stands_beside_its_warm_one() -> None:
    spark = figures(50.0, cold_events_per_s=25.0, equal_rows=5)
    rows = report_rows([Run(of_ours(100.0), {"spark": spark})])
    rates = [(row.peer_name, row.value, row.peer, row.ratio) for row in rows if row.measure == "row events"]
    assert rates == [("Spark", 100.0, 50.0, 2.0), ("Spark, cold", 100.0, 25.0, 4.0)]


def test_without_peers_ours_stands_alone() -> None:
    rows = report_rows([Run(of_ours(100.0), {})])
    assert all(row.peer is None and row.ratio is None for row in rows)
    assert [row.value for row in rows if row.measure == "row events"] == [100.0]
