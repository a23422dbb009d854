"""A worker falls asleep in the middle of an epoch, right before or after any of its commits, and wakes as a zombie.

While it sleeps one of its buckets moves to another worker, which reads, commits and derives. The sleeper is then
refused at its very next commit, whatever table that is of, also for the buckets that it still seems to own; what it
had sent to the documents topic does no harm; and in the end the lake holds what the records say.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import localcontext
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from processors.errors import FencedError
from processors.features.declarations import ACCOUNT_FEATURES, FEATURE_SETS, INVOICE_FEATURES, FeatureSet
from processors.inbox import Chunk
from processors.keyed_table import current_sql
from processors.lake_tables import ACCOUNTS_PRIVATE, DEAD_LETTERS, EPOCHS, LAKE_TABLES, changes_name, feature_keyed
from processors.records import DEAD_SCHEMA
from processors.stage import Stage
from tests.processors import row_oracle
from tests.processors.cluster import Cluster, Worker, fill, serial
from tests.processors.memory_lake import Disk
from tests.processors.row_world import BUCKETS
from tests.processors.test_cluster_laws import features
from tests.processors.test_rows_laws import histories

ALL = frozenset(range(BUCKETS))
MOVED = frozenset({0})
MOMENTS = [
    (0, "before a commit to sku_log"),
    (1, "before a commit to invoice_log"),
    (1, "after a commit to invoice_log"),
    (1, "amid the invoice_documents"),
    *(
        pytest.param(*moment, marks=pytest.mark.long)  # B has the same tables; documents have the moment above
        for moment in (
            *((place, f"before a commit to {t}") for place in (0, 1) for t in (DEAD_LETTERS.name, EPOCHS.name)),
            (1, "invoice_documents are acknowledged"),
        )
    ),
    *((2, f"before a commit to {table}") for table in (DEAD_LETTERS.name, ACCOUNTS_PRIVATE.name, "account_log")),
    *((2, f"before a commit to {changes_name(f)}") for f in FEATURE_SETS),
    (2, f"before a commit to {EPOCHS.name}"),
]


class Sleeper(Worker):
    """A worker to which something happens at one step, once."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        super().__init__(cluster, number)
        self.asleep_at: str | None = None
        self.meanwhile: Callable[[], object] = lambda: None

    def step(self, label: str) -> None:
        if label == self.asleep_at:
            self.asleep_at = None
            self.meanwhile()

    def own(self, buckets: frozenset[int]) -> None:
        for stage in self.stages:
            stage.assign(buckets)

    def work(self, *, whole: bool) -> None:
        for stage in self.stages:
            self.cluster.epoch(self, stage, whole=whole)()


@dataclass
class World:
    """A cluster's logs, driven by hand."""

    cluster: Cluster
    records: list[row_oracle.Record]

    def features(self, feature_set: FeatureSet) -> dict[int, tuple[object, ...]]:
        keyed = feature_keyed(feature_set)
        columns = tuple(n for n in LAKE_TABLES[keyed.log].schema.names if n != "known_date")
        log, folded = self.cluster.disk.relation(keyed.log), self.cluster.disk.relation(keyed.folded)
        with duckdb.connect() as con:
            con.execute("SET TimeZone = 'UTC'")
            rows = con.sql(f"FROM {current_sql(keyed, columns=columns, log=log, folded=folded)}").to_arrow_table()
        return features(rows.to_pylist(), feature_set)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    chance = random.Random(20)
    logs, records = fill(histories(chance), [], chance)
    with serial(), localcontext(prec=60):
        yield World(Cluster(Disk(tmp_path), logs, seed=20, price_at="creation"), records)


def dead_letter(stage: Stage) -> Chunk:
    """A refused record, so that each epoch commits to the dead letters too."""
    row = dict.fromkeys(DEAD_SCHEMA.names) | {"topic": stage.topics[0], "partition": 1, "row_offset": -1}
    return Chunk(stage.topics[0], None, 1, {}, dead=pa.Table.from_pylist([row], DEAD_SCHEMA))


@pytest.mark.parametrize(("place", "moment"), MOMENTS)
def test_zombie_is_refused_at_its_next_commit_and_does_no_damage(world: World, place: int, moment: str) -> None:
    cluster = world.cluster
    sleeper, other, heir = (Sleeper(cluster, number) for number in (1, 2, 3))
    sleeper.own(ALL)
    sleeper.work(whole=False)
    commits: dict[str, int] = {}

    def takes_over() -> None:
        other.own(MOVED)
        other.work(whole=True)
        commits.update({name: len(found) for name, found in cluster.disk.tables.items()})

    sleeper.asleep_at, sleeper.meanwhile = moment, takes_over
    stage = sleeper.stages[place]
    waits = [
        c
        for topic in stage.topics
        for bucket in sorted(ALL)
        if (c := cluster.chunk(stage, topic, bucket, whole=True)) is not None
    ]
    with pytest.raises(FencedError):
        stage.run_epoch([*waits, dead_letter(stage)])
    assert sleeper.asleep_at is None, "the moment never came"
    for again in sleeper.stages:
        with pytest.raises(FencedError):
            again.run_epoch([])
    assert commits == {name: len(found) for name, found in cluster.disk.tables.items()}, "a zombie has committed"

    heir.own(ALL - MOVED)
    for _ in range(2):
        for number in range(3):
            for worker in (other, heir):
                cluster.epoch(worker, worker.stages[number], whole=True)()
    wanted = {
        INVOICE_FEATURES: row_oracle.invoice_features(world.records, "creation"),
        ACCOUNT_FEATURES: row_oracle.account_features(world.records, "creation"),
    }
    assert {f: world.features(f) for f in FEATURE_SETS} == wanted
    for worker in (sleeper, other, heir):
        worker.state.close()
