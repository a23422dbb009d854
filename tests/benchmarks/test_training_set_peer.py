"""The benchmark of training sets: its history has late rows and deletions, and both contenders give the same."""

from pathlib import Path

import pyarrow.compute as pc
import pytest
from deltalake import QueryBuilder

from benchmarks.training_set import CHANGES, DeltaTable, answer, fill, labels, report_rows

LABELS, VERSIONS = 2_000, 10_000


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lake = tmp_path_factory.mktemp("bench") / "lake"
    fill(lake, VERSIONS)
    return lake


def test_contenders_give_the_same(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRS_LAKE", str(lake))
    found = {name: answer(name, lake, LABELS, VERSIONS) for name in ("ours", "polars")}
    assert found["ours"]["sums"] == found["polars"]["sums"]
    assert 0.5 * LABELS < found["ours"]["sums"]["with_features"] < LABELS
    assert report_rows(found)[0].peer_name == "polars"


def test_history_has_versions_that_arrive_after_greater_ones_and_deletions(lake: Path) -> None:
    rows = (
        QueryBuilder()
        .register("h", DeltaTable(lake / CHANGES.name))
        .execute(
            """SELECT count(*) AS late FROM h JOIN h AS g
           ON h.inv_id = g.inv_id AND g.document_version > h.document_version AND g.known_from < h.known_from"""
        )
    )
    assert rows.read_all()["late"][0].as_py() > 0
    assert labels(LABELS, VERSIONS).num_rows == LABELS
    assert pc.all(pc.equal(labels(10, VERSIONS)["label"], labels(10, VERSIONS)["label"])).as_py()
