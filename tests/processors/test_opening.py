"""Openings of a stage while a former owner is still awake (R8)."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from connectors.delta_lake import DeltaLake
from connectors.lake import LakeLocation
from processors.errors import FencedError
from processors.feature_stages import AccountStage
from processors.inbox import Chunk
from processors.lake_tables import SKU_LOG
from processors.stage import StageContext
from processors.stages import SkuStage
from processors.state import open_state

TOPIC = "test.skus"


class RacingLake(DeltaLake):
    """A lake in which something happens between the look at a table and its opening."""

    def __init__(self, location: LakeLocation, table: str) -> None:
        super().__init__(location)
        self.table = table
        self.meanwhile: list[Any] = []

    def fenced(self, name: str) -> Any:
        log = super().fenced(name)
        if name == self.table:
            opened = log.open

            def late(ids: Mapping[str, int], metadata: Mapping[str, Any], *, seen: Mapping[str, int]) -> None:
                if self.meanwhile:
                    self.meanwhile.pop()()
                opened(ids, metadata, seen=seen)

            log.open = late  # type: ignore[method-assign]  # the moment of the race
        return log


def sku_stage(folder: Path, lake: DeltaLake | None = None, topic_id: str = "1") -> SkuStage:
    lake = lake or DeltaLake(LakeLocation(str(folder / "lake")))
    con = open_state(spill=folder / "spill", memory_mb=200, threads=1)
    con.execute("SET TimeZone = 'UTC'")
    lake.prepare(con)
    return SkuStage(StageContext(lake=lake, topic_ids={TOPIC: topic_id}, writer="test"), con, [TOPIC])


def account_stage(folder: Path, clock: datetime) -> AccountStage:
    lake = DeltaLake(LakeLocation(str(folder / "lake")))
    con = open_state(spill=folder / "spill", memory_mb=200, threads=1)
    lake.prepare(con)
    topics = ["test.accounts", "test.invoice_documents"]
    context = StageContext(lake=lake, topic_ids=dict.fromkeys(topics, "1"), writer="test", now=lambda: clock)
    return AccountStage(context, con, topics)


def moved(bucket: int, position: int) -> list[Chunk]:
    return [Chunk(TOPIC, None, 0, {bucket: position})]


@pytest.mark.parametrize("table", [SKU_LOG.name, "epochs"])
def test_epoch_that_a_former_owner_commits_during_the_opening_is_not_set_back(tmp_path: Path, table: str) -> None:
    former = sku_stage(tmp_path)
    former.assign(frozenset({0}))
    former.run_epoch(moved(0, 5))

    lake = RacingLake(LakeLocation(str(tmp_path / "lake")), table)
    newcomer = sku_stage(tmp_path, lake)
    outcome: list[str] = []

    def one_more() -> None:
        try:
            former.run_epoch(moved(0, 9))
            outcome.append("committed")
        except FencedError:
            outcome.append("fenced")

    lake.meanwhile.append(one_more)
    found = newcomer.assign(frozenset({0}))

    position = found[TOPIC, 0]
    assert position is not None
    assert (outcome, position.next_offset) in [(["committed"], 9), (["fenced"], 5)]
    assert (outcome == ["committed"]) == (table == SKU_LOG.name)
    assert outcome == ["fenced"] or newcomer.epochs[0] > former.epochs[0]
    newcomer.run_epoch(moved(0, 12))
    with pytest.raises(FencedError):
        former.run_epoch(moved(0, 10))


def test_worker_that_slept_through_another_ownership_drops_its_state(tmp_path: Path) -> None:
    sleeper, other = sku_stage(tmp_path), sku_stage(tmp_path)
    sleeper.assign(frozenset({0, 1}))
    sleeper.run_epoch(moved(0, 5))
    other.assign(frozenset({0}))
    other.run_epoch(moved(0, 9))

    with pytest.raises(FencedError, match="bucket 0 had another owner"):
        sleeper.assign(frozenset({0}))


def test_buckets_that_stay_keep_their_state_through_an_opening(tmp_path: Path) -> None:
    stage, other = sku_stage(tmp_path), sku_stage(tmp_path)
    stage.assign(frozenset({0, 1}))
    stage.run_epoch(moved(0, 5))
    stage.assign(frozenset({0}))
    other.assign(frozenset({1}))
    stage.run_epoch(moved(0, 7))
    other.run_epoch(moved(1, 3))
    found = stage.assign(frozenset({0, 2}))
    position = found[TOPIC, 0]
    assert position is not None
    assert position.next_offset == 7


def test_time_of_knowledge_rises_through_owners_whose_clocks_are_behind(tmp_path: Path) -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    for clock in (noon, noon - timedelta(minutes=10), noon - timedelta(hours=1), noon + timedelta(seconds=1)):
        stage = account_stage(tmp_path, clock)
        stage.assign(frozenset({0}))
        stage.run_epoch([])
    epochs = stage.con.sql(f"SELECT known_through FROM {stage.context.lake.relation('epochs')} ORDER BY epoch")
    told = [row[0] for row in epochs.fetchall()]
    assert all(earlier < later for earlier, later in pairwise(told))
    assert told[0] >= noon
    assert told[-1] > noon + timedelta(seconds=1)


def test_topic_that_was_made_anew_is_noticed_though_the_log_of_the_table_was_cleaned_up(tmp_path: Path) -> None:
    former = sku_stage(tmp_path)
    former.assign(frozenset({0}))
    former.run_epoch(moved(0, 5))
    lake = DeltaLake(LakeLocation(str(tmp_path / "lake")))
    later = {"delta.logRetentionDuration": "interval 2 days"}  # a commit of upkeep's
    lake.store.open(SKU_LOG.name).alter.set_table_properties(later)
    lake.store.open(SKU_LOG.name).create_checkpoint()
    for commit in sorted((tmp_path / "lake" / SKU_LOG.name / "_delta_log").glob("*.json"))[:-1]:
        commit.unlink()
    newcomer = sku_stage(tmp_path, topic_id="2")
    found = newcomer.assign(frozenset({0}))[TOPIC, 0]
    assert found is not None
    assert (found.next_offset, found.topic_id) == (5, "1")
