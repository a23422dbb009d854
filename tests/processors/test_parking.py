"""Two versions of the program on one lake: the older one parks what the newer one wrote (R10)."""

from dataclasses import replace
from pathlib import Path

import pytest

from app.probes import parked_troubles
from connectors.delta_lake import DeltaLake
from connectors.lake import LakeLocation
from processors.errors import FencedError
from processors.feature_stages import AccountStage
from processors.features.declarations import FEATURE_SETS, FeatureSet
from processors.stage import StageContext
from processors.state import open_state

TOPICS = ("test.accounts", "test.invoice_documents")
NEWER = tuple(replace(f, version=f.version + 1) for f in FEATURE_SETS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def account_stage(folder: Path, feature_sets: tuple[FeatureSet, ...]) -> AccountStage:
    lake = DeltaLake(LakeLocation(str(folder / "lake")))
    con = open_state(spill=folder / "spill", memory_mb=200, threads=1)
    con.execute("SET TimeZone = 'UTC'")
    lake.prepare(con)
    context = StageContext(lake=lake, topic_ids={t: t for t in TOPICS}, writer="test")
    return AccountStage(context, con, TOPICS, feature_sets=feature_sets)


def test_older_worker_parks_buckets_of_a_newer_version_and_works_on_the_others(folder: Path) -> None:
    newer, older = account_stage(folder, NEWER), account_stage(folder, FEATURE_SETS)
    newer.assign(frozenset({0}))
    found = older.assign(frozenset({0, 1}))

    assert older.parked == {0}
    assert set(found) == {(t, 1) for t in TOPICS}
    assert parked_troubles({"accounts": older.activity}) == []
    older.run_epoch([])
    newer.run_epoch([])  # was not fenced: a parked bucket is not opened

    assert older.assign(frozenset({1})).keys() == found.keys()
    assert older.parked == frozenset()


def test_older_worker_with_nothing_but_parked_buckets_opens_none(folder: Path) -> None:
    newer, older = account_stage(folder, NEWER), account_stage(folder, FEATURE_SETS)
    newer.assign(frozenset({0, 1}))
    assert older.assign(frozenset({0, 1})) == {}
    assert (older.buckets, older.parked) == (frozenset(), {0, 1})
    assert len(parked_troubles({"accounts": older.activity})) == 1
    newer.run_epoch([])
    older.assign(frozenset())
    assert parked_troubles({"accounts": older.activity}) == []


def test_newer_worker_takes_over_what_an_older_one_wrote(folder: Path) -> None:
    older, newer = account_stage(folder, FEATURE_SETS), account_stage(folder, NEWER)
    older.assign(frozenset({0}))
    newer.assign(frozenset({0}))
    assert newer.parked == frozenset()
    newer.run_epoch([])
    with pytest.raises(FencedError):
        older.run_epoch([])
