"""Folds on Delta: current rows are the same before, amid and after a fold; memory is that of a bucket."""

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from connectors import fold as folding
from connectors.delta_lake import DeltaLake
from connectors.fold import Folded, fold
from connectors.lake import FencedTable, LakeLocation
from processors.features.declarations import FEATURE_SETS, INVOICE_FEATURES
from processors.fold import FoldPolicy, all_that_waits
from processors.keyed_table import KeyedTable, current_sql
from processors.lake_tables import (
    ACCOUNTS_KEYED,
    INVOICES_KEYED,
    LAKE_TABLES,
    SKUS_KEYED,
    changes_name,
    feature_keyed,
)
from processors.state import duckdb_type

BUCKETS = 3
FEATURES_KEYED = feature_keyed(INVOICE_FEATURES)
STAGES = {SKUS_KEYED.log: "skus", INVOICES_KEYED.log: "invoices"}
Row = dict[str, Any]


class KilledError(BaseException):
    """The process dies here."""


class Log:
    """A log with random rows, the fold beside it, and what its current rows must be."""

    def __init__(self, folder: Path, keyed: KeyedTable, seed: int) -> None:
        self.lake = DeltaLake(LakeLocation(str(folder)))
        self.keyed = keyed
        self.latest: dict[tuple[object, ...], Row] = {}
        self._chance = random.Random(seed)
        self._epoch = 1
        self._table = self.lake.fenced(keyed.log)
        self._table.open(self._ids(), {}, seen={})
        self._outputs = self._open_outputs()
        self.con = duckdb.connect()
        self.lake.prepare(self.con)

    def _open_outputs(self) -> list[FencedTable]:
        if self.keyed is not ACCOUNTS_KEYED:
            return []
        outputs = [self.lake.fenced(changes_name(f)) for f in FEATURE_SETS]
        for output in outputs:
            output.open(self._cursors("cursor", 0), {}, seen={})
        return outputs

    def _cursors(self, name: str, epoch: int) -> dict[str, int]:
        return {f"{name}:{b}": epoch for b in range(BUCKETS)}

    def _ids(self, behind: int = 0) -> dict[str, int]:
        ids = self._cursors(f"epoch:{STAGES.get(self.keyed.log, 'accounts')}", self._epoch)
        return ids | (self._cursors("documents", self._epoch - behind) if self.keyed is INVOICES_KEYED else {})

    def grow(self, keys: int = 12, *, behind: int = 0, days_ago: int = 0) -> None:
        """One epoch: new states of some keys. `behind`: epochs by which what is derived lags."""
        self._epoch += 1
        day = datetime.now(UTC).date() - timedelta(days=days_ago)
        rows = [self._row(key) | {"known_date": day} for key in self._chance.sample(range(20), keys)]
        for row in rows:
            key = tuple(row[k] for k in self.keyed.key)
            old = self.latest.get(key)
            if old is None or self._rank(row) > self._rank(old):
                self.latest[key] = row
        self._table.append(pa.Table.from_pylist(rows, schema=LAKE_TABLES[self.keyed.log].schema), self._ids(behind))
        for output in self._outputs:
            output.append(None, self._cursors("cursor", self._epoch - behind))

    def _row(self, number: int) -> Row:
        row: Row = dict.fromkeys(LAKE_TABLES[self.keyed.log].schema.names)
        row |= {"epoch": self._epoch, "deleted": self._chance.random() < 0.2}
        row |= dict.fromkeys(self.keyed.key, number)
        row |= {k: str(number) for k in ("kind", "item_id") if k in self.keyed.key}
        row[self.keyed.home_bucket] = number % BUCKETS
        if self.keyed.log_bucket != self.keyed.home_bucket:
            # An invoice moves between the buckets of accounts; its rows may be committed in any order.
            row |= {self.keyed.log_bucket: self._chance.randrange(BUCKETS)}
            row |= {"document_version": self._chance.randrange(10**9)}
        return row

    def _rank(self, row: Row) -> tuple[int, ...]:
        return tuple(row[column] for column in self.keyed.rank)

    def current(self) -> list[Row]:
        """As views and recovery read them."""
        columns = tuple(LAKE_TABLES[self.keyed.log].schema.names)
        log, folded = self.lake.relation(self.keyed.log), self.lake.relation(self.keyed.folded)
        query = current_sql(self.keyed, columns=columns, log=log, folded=folded)
        found: list[Row] = self.con.sql(f"FROM {query}").to_arrow_table().to_pylist()
        return found

    def fold(self, policy: FoldPolicy | None = None) -> Folded | None:
        return fold(self.lake, self.con, self.keyed, BUCKETS, policy or all_that_waits())

    def rows(self, name: str, where: str = "TRUE") -> int:
        ((count,),) = self.con.sql(f"SELECT count(*) FROM {self.lake.relation(name)} WHERE {where}").fetchall()
        return int(count)

    def check(self) -> None:
        """Current rows are the greatest of each key, once."""
        assert sorted(map(repr, self.current())) == sorted(map(repr, self.latest.values()))


@pytest.fixture
def log(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    monkeypatch.setattr("processors.fold.SLICE_ROWS", 2)
    made = Log(tmp_path / "lake", getattr(request, "param", SKUS_KEYED), seed=11)
    yield made
    made.con.close()


ALL = pytest.mark.parametrize(
    "log", [SKUS_KEYED, INVOICES_KEYED, ACCOUNTS_KEYED, FEATURES_KEYED], indirect=True, ids=lambda k: k.log
)


def die(call: Callable[..., None], *, at: int, after: bool) -> Callable[..., None]:
    """The call, that ends the process the `at`-th time, before or after it did its work."""
    count = 0

    def mortal(*arguments: Any, **options: Any) -> None:
        nonlocal count
        count += 1
        if count == at and not after:
            raise KilledError
        call(*arguments, **options)
        if count == at:
            raise KilledError

    return mortal


@pytest.mark.parametrize(
    "log",
    [*(pytest.param(k, marks=pytest.mark.long) for k in (SKUS_KEYED, ACCOUNTS_KEYED)), INVOICES_KEYED, FEATURES_KEYED],
    indirect=True,
    ids=lambda k: k.log,
)
@pytest.mark.parametrize("after", [False, True], ids=["before its commit", "after it"])
def test_fold_killed_at_any_of_its_commits_leaves_current_rows_as_they_are(
    log: Log, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in (1, 2, 3, 4):
        log.grow(days_ago=10 if at == 1 else 0)
        log.check()
        with monkeypatch.context() as patch, pytest.raises(KilledError):
            patch.setattr(folding, "write_deltalake", die(folding.write_deltalake, at=min(at, BUCKETS), after=after))
            log.fold()
        log.check()
        log.grow(4)
        log.check()
    done = log.fold()
    assert done is not None
    assert (done.committed, done.buckets) == (True, BUCKETS)
    log.check()
    assert log.rows(log.keyed.folded, "NOT is_mark") == len(log.latest)
    assert log.fold() is None


@ALL
def test_rows_of_a_fold_are_in_the_order_of_their_entities_over_all_slices(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Row] = []

    def write(handle: DeltaTable, rows: pa.Table | pa.RecordBatchReader, **options: Any) -> None:
        table = rows if isinstance(rows, pa.Table) else rows.read_all()
        written.extend(table.to_pylist())
        write_deltalake(handle, table, **options)

    monkeypatch.setattr(folding, "write_deltalake", write)
    log.grow(15)
    log.fold()
    log.grow(15)
    written.clear()
    log.fold()
    assert {row["is_mark"] for row in written} == {True, False}
    for home in range(BUCKETS):
        rows = [r for r in written if not r["is_mark"] and r[log.keyed.home_bucket] == home]
        for kind in {r.get("kind") for r in rows}:
            entities = [r[log.keyed.entity] for r in rows if r.get("kind") == kind]
            assert entities == sorted(entities)


@pytest.mark.parametrize("log", [INVOICES_KEYED, ACCOUNTS_KEYED], indirect=True, ids=lambda k: k.log)
def test_fold_reaches_no_further_than_what_is_derived(log: Log) -> None:
    log.grow(days_ago=10)
    log.grow(days_ago=10, behind=1)
    epochs = "SELECT is_mark, max(epoch) FROM {} GROUP BY is_mark ORDER BY is_mark"
    for epoch in (2, 3):
        log.fold()
        log.check()
        found = log.con.sql(epochs.format(log.lake.relation(log.keyed.folded))).fetchall()
        assert found == [(False, epoch), (True, epoch)]
        assert log.fold() is None
        log.grow(behind=1)


def test_two_folds_at_once_one_commits_and_rows_stay(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    log.grow()
    usual, other = folding.write_deltalake, []

    def other_first(*arguments: Any, **options: Any) -> None:
        if not other:
            other.append(True)
            other.append(log.fold())
        usual(*arguments, **options)

    with monkeypatch.context() as patch, duckdb.connect() as con:
        log.lake.prepare(con)
        patch.setattr(folding, "write_deltalake", other_first)
        late = fold(log.lake, con, log.keyed, BUCKETS, all_that_waits())
    assert late is not None
    assert [late.committed, other[1].committed] == [False, True]
    log.check()


def test_worker_leaves_alone_a_table_of_which_little_is_new_and_buckets_that_have_nothing_new(log: Log) -> None:
    policy = FoldPolicy(min_rows=2, share_percent=50.0)
    log.grow(20)
    assert log.fold(policy) is not None
    log.grow(4)
    assert log.fold(policy) is None
    version = log.lake.store.open(log.keyed.folded).version()
    for _ in range(4):
        log.grow(4)
    done = log.fold(policy)
    assert done is not None
    assert log.lake.store.open(log.keyed.folded).version() == version + done.buckets
    log.check()


def test_fold_that_is_too_old_is_renewed_for_a_single_row(log: Log) -> None:
    log.grow(20)
    log.fold()
    log.grow(1)
    assert log.fold(FoldPolicy(max_age_s=3600.0)) is None
    done = log.fold(FoldPolicy(max_age_s=1e-9))
    assert done is not None
    assert (done.tail_rows, done.buckets) == (1, BUCKETS)
    log.check()


def test_fold_of_an_earlier_program_with_one_mark_per_bucket_is_read_and_taken_over(tmp_path: Path) -> None:
    log = Log(tmp_path / "lake", FEATURES_KEYED, seed=3)
    log.grow(20)
    log.fold()
    log.grow()
    table = DeltaTable(log.lake.store.location.table(log.keyed.folded))
    table.delete("is_mark AND mark_bucket <> entity_bucket")
    log.check()
    log.fold()
    log.check()
    assert log.rows(log.keyed.folded, "is_mark") == BUCKETS**2
    log.con.close()


# --- in processes of their own -----------------------------------------------------------------------------------


class LargeLog:
    """invoice_log with many lines, folded by processes of their own."""

    def __init__(self, folder: Path, buckets: int) -> None:
        self.uri = str(folder)
        self.lake = DeltaLake(LakeLocation(self.uri))
        self.buckets = buckets
        self._table = self.lake.fenced(INVOICES_KEYED.log)
        self._table.open(self._ids(1), {}, seen={})

    def _ids(self, epoch: int) -> dict[str, int]:
        return {f"{name}:{b}": epoch for name in ("epoch:invoices", "documents") for b in range(self.buckets)}

    def grow(self, per_bucket: int, *, epoch: int, every: int = 1) -> int:
        """New states of every so-many-th line; their bytes in memory."""
        schema = LAKE_TABLES[INVOICES_KEYED.log].schema
        values = {"bucket": f"i % {self.buckets}", "epoch": str(epoch), "kind": "'line'", "invoice_id": "i // 5"}
        values |= {"item_id": "'item-' || i", "quantity": "i % 7", "deleted": "FALSE", "row_order": "hash(i)"}
        values |= {"row_offset": "i", "created_order": "hash(i)", "created_offset": "i", "known_date": "current_date"}
        names = ", ".join(f"({values.get(f.name, 'NULL')})::{duckdb_type(f.type)} AS {f.name}" for f in schema)
        with duckdb.connect() as con:
            con.execute("SET TimeZone = 'UTC'")
            query = f"SELECT {names} FROM range(0, {self.buckets * per_bucket}, {every}) AS t(i) ORDER BY bucket"
            rows = con.sql(query).to_arrow_table().cast(schema)
        self._table.append(rows, self._ids(epoch))
        return int(rows.nbytes)

    def fold(self, die_in: int | None = None) -> subprocess.CompletedProcess[str]:
        arguments = [self.uri, str(self.buckets), "128", *([] if die_in is None else [str(die_in)])]
        command = [sys.executable, "-m", "tests.connectors.fold_process", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def contents(self) -> tuple[int, int]:
        """Number and checksum of the current rows."""
        columns = tuple(n for n in LAKE_TABLES[INVOICES_KEYED.log].schema.names if n != "known_date")
        log, folded = self.lake.relation(INVOICES_KEYED.log), self.lake.relation(INVOICES_KEYED.folded)
        query = current_sql(INVOICES_KEYED, columns=columns, log=log, folded=folded)
        with duckdb.connect() as con:
            self.lake.prepare(con)
            ((count, checksum),) = con.sql(f"SELECT count(*), sum(hash(t)) FROM {query} AS t").fetchall()
        return int(count), int(checksum)


def test_process_that_dies_amid_the_rows_of_a_bucket_leaves_rows_and_the_next_fold_goes_on(tmp_path: Path) -> None:
    log = LargeLog(tmp_path / "lake", 3)
    log.grow(40_000, epoch=2)
    first = log.fold()
    assert first.returncode == 0, first.stderr
    log.grow(40_000, epoch=3, every=2)
    before = log.contents()
    assert before[0] == 120_000
    died = log.fold(die_in=2)
    assert died.returncode == 9, died.stderr
    folds = log.lake.store.open(INVOICES_KEYED.folded).version()
    assert folds == 1 + 3 + 1, "it died in the second bucket"
    assert log.contents() == before
    assert json.loads(log.fold().stdout)["rows"] == 120_000
    assert log.contents() == before


@pytest.mark.long
def test_peak_memory_of_a_fold_follows_the_bucket_not_the_table(tmp_path: Path) -> None:
    peaks, sizes_mb = [], []
    for buckets in (16, 64):
        log = LargeLog(tmp_path / f"lake-{buckets}", buckets)
        sizes_mb.append(log.grow(25_000, epoch=2) / 1e6)
        assert json.loads(log.fold().stdout)["rows"] == buckets * 25_000
        log.grow(25_000, epoch=3, every=3)
        folded = json.loads(log.fold().stdout)
        assert folded["rows"] == buckets * 25_000
        peaks.append(folded["peak_mb"])
    # DuckDB's budget is not all used for the small table, so its peak is not quite that of the large one.
    assert peaks[1] - peaks[0] < 0.6 * (sizes_mb[1] - sizes_mb[0])


@ALL
def test_keyed_files_know_how_many_rows_are_folded_and_how_many_wait(log: Log) -> None:
    def sizes(homes: set[int] | None = None) -> tuple[int, int]:
        files = log.lake.keyed(log.keyed, homes)
        return files.folded_rows, files.log_rows

    assert sizes() == (0, 0)
    log.grow(12)
    assert sizes() == (0, 12)
    log.fold()
    marks = log.rows(log.keyed.folded, "is_mark")
    assert sizes() == (12 + marks, 0)
    log.grow(5)
    assert sizes()[1] == 5
    of_one = log.rows(log.keyed.folded, f"{log.keyed.home_bucket} = 1")
    assert sizes({1}) == (of_one, 5)
    files = log.lake.keyed(log.keyed, {1})
    ((read,),) = log.con.sql(f"SELECT count(*) FROM {files.folded}").fetchall()
    assert read == of_one
