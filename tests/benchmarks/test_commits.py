"""The benchmark of commits writes what it says, through a worker's own writers."""

from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from benchmarks.commits import COLUMNS, checkpoint_bytes, commit, rate, writers
from connectors.lake import LakeLocation


def test_turns_of_writers_leave_a_row_each_and_a_checkpoint(tmp_path: Path) -> None:
    location = LakeLocation(str(tmp_path))
    opened = writers(location, 3)
    for epoch in range(1, 5):
        for bucket, table in enumerate(opened):
            commit(table, bucket, epoch)
    rows = pq.read_table(DeltaTable(location.table("invoice_log")).file_uris(), schema=COLUMNS, partitioning="hive")
    assert sorted(zip(rows["bucket"].to_pylist(), rows["epoch"].to_pylist(), strict=True)) == [
        (bucket, epoch) for bucket in range(3) for epoch in range(1, 5)
    ]
    assert [n for n in COLUMNS.names if pc.all(pc.is_null(rows[n])).as_py()] == ["later_creates"]
    assert checkpoint_bytes(location) > 100


def test_rate_counts_the_commits_of_all_writers(tmp_path: Path) -> None:
    found = rate(LakeLocation(str(tmp_path)), 2, 0.3)
    table = DeltaTable(tmp_path / "invoice_log")
    assert found["per_s"] * 0.3 <= len(table.file_uris())
    assert found["median_s"] <= found["p95_s"]
