"""Fenced tables and the control log on real Delta tables, in a folder and on S3: who may commit, and in which order."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from app.settings import Settings
from app.wiring import lake_location
from connectors.control_log import ControlLog
from connectors.delta_lake import DeltaLake
from connectors.lake import FencedTable, LakeLocation, LakeStore
from processors.errors import FencedError, MovedError, StateUnknownError
from processors.lake_tables import EPOCHS

TABLE = EPOCHS.name


@pytest.fixture
def lake(tmp_path: Path) -> DeltaLake:
    """An empty lake in a folder."""
    return DeltaLake(LakeLocation(str(tmp_path / "lake")))


@pytest.fixture(params=["folder", "s3"])
def any_lake(request: pytest.FixtureRequest) -> DeltaLake:
    """An empty lake, for what depends on how the store commits."""
    if request.param == "folder":
        local: DeltaLake = request.getfixturevalue("lake")
        return local
    settings: Settings = request.getfixturevalue("stack_settings")
    return DeltaLake(lake_location(settings))


def one_row(bucket: int, epoch: int) -> pa.Table:
    blank = dict.fromkeys(EPOCHS.schema.names)
    return pa.Table.from_pylist([{**blank, "stage": "invoices", "bucket": bucket, "epoch": epoch}], EPOCHS.schema)


def opened(store: LakeStore, ids: dict[str, int]) -> FencedTable:
    table = store.fenced(TABLE)
    table.open(ids, {}, seen=table.stored(tuple(ids)))
    return table


def committed_rows(store: LakeStore) -> list[tuple[int, int]]:
    rows = pa.table(store.open(TABLE).to_pyarrow_dataset().to_table(columns=["bucket", "epoch"])).to_pylist()
    return sorted((r["bucket"], r["epoch"]) for r in rows)


def test_opening_commits_its_ids_and_no_rows(lake: DeltaLake) -> None:
    table = opened(lake.store, {"a": 3, "b": 1})
    assert table.stored(("a", "b", "absent")) == {"a": 3, "b": 1}
    assert lake.store.open(TABLE).version() == 1
    assert committed_rows(lake.store) == []


def test_append_without_an_opening_is_refused(lake: DeltaLake) -> None:
    with pytest.raises(StateUnknownError, match="was not opened"):
        lake.store.fenced(TABLE).append(one_row(0, 1), {"a": 1})


def test_append_moves_its_ids_and_repeats_all_others(lake: DeltaLake) -> None:
    table = opened(lake.store, {"a": 1, "b": 1})
    table.append(one_row(0, 2), {"a": 2})
    table.append(None, {"b": 2})
    assert table.stored(("a", "b")) == {"a": 2, "b": 2}
    assert committed_rows(lake.store) == [(0, 2)]


def test_append_of_other_owners_in_turn_is_no_conflict(lake: DeltaLake) -> None:
    one, two = opened(lake.store, {"a": 1}), opened(lake.store, {"b": 1})
    for epoch in (2, 3):
        one.append(one_row(0, epoch), {"a": epoch})
        two.append(one_row(1, epoch), {"b": epoch})
    assert committed_rows(lake.store) == [(0, 2), (0, 3), (1, 2), (1, 3)]


def test_zombie_whose_bucket_moved_is_refused_for_good(lake: DeltaLake) -> None:
    zombie = opened(lake.store, {"a": 1})
    zombie.append(one_row(0, 2), {"a": 2})
    owner = opened(lake.store, {"a": 3})
    for epoch in (3, 4):
        with pytest.raises(FencedError):
            zombie.append(one_row(0, epoch), {"a": epoch})
    owner.append(one_row(0, 4), {"a": 4})
    with pytest.raises(FencedError):
        zombie.append(one_row(0, 5), {"a": 5})
    assert committed_rows(lake.store) == [(0, 2), (0, 4)]
    assert {outcome: count for (_, outcome), count in lake.store.conflicts.items()} == {"fenced": 3}


def test_zombie_is_refused_even_for_the_bucket_that_stayed_its_own(any_lake: DeltaLake) -> None:
    zombie = opened(any_lake.store, {"moved": 1, "stays": 1})
    owner = opened(any_lake.store, {"moved": 2})
    with pytest.raises(FencedError):
        zombie.append(one_row(1, 2), {"stays": 2})
    with pytest.raises(FencedError):
        zombie.append(one_row(0, 2), {"moved": 2})
    owner.append(one_row(0, 3), {"moved": 3})
    assert owner.stored(("moved", "stays")) == {"moved": 3, "stays": 1}
    assert committed_rows(any_lake.store) == [(0, 3)]


def test_openings_of_one_bucket_at_the_same_moment_let_one_through(any_lake: DeltaLake) -> None:
    start = threading.Barrier(4)
    tables = [any_lake.store.fenced(TABLE) for _ in range(4)]

    def contend(table: FencedTable) -> bool:
        start.wait()
        try:
            table.open({"a": 1}, {}, seen={})
            table.append(one_row(0, 2), {"a": 2})
        except (FencedError, MovedError):
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(contend, tables))
    assert won.count(True) == 1
    assert committed_rows(any_lake.store) == [(0, 2)]


def test_opening_that_would_set_back_what_a_former_owner_just_committed_is_refused(any_lake: DeltaLake) -> None:
    former = opened(any_lake.store, {"epoch": 1, "offset": 10})
    newcomer = any_lake.store.fenced(TABLE)
    seen = newcomer.stored(("epoch", "offset"))
    former.append(one_row(0, 2), {"epoch": 2, "offset": 20})
    with pytest.raises(MovedError):
        newcomer.open(seen | {"epoch": 2}, {}, seen=seen)
    with pytest.raises(StateUnknownError):
        newcomer.append(None, {"epoch": 3})
    seen = newcomer.stored(("epoch", "offset"))
    newcomer.open(seen | {"epoch": 3}, {}, seen=seen)
    assert newcomer.stored(("epoch", "offset")) == {"epoch": 3, "offset": 20}
    with pytest.raises(FencedError):
        former.append(None, {"epoch": 3})


def test_writers_whose_retries_run_out_on_a_busy_table_try_again_and_are_not_fenced(
    lake: DeltaLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.lake.COMMIT_RETRIES", 1)  # of delta-rs; 30 would hardly ever run out
    waits: list[float] = []
    monkeypatch.setattr("connectors.lake.time.sleep", waits.append)
    tables = [opened(lake.store, {str(bucket): 1}) for bucket in range(6)]
    start = threading.Barrier(len(tables))

    def work(bucket: int) -> None:
        start.wait()
        for epoch in range(2, 12):
            tables[bucket].append(one_row(bucket, epoch), {str(bucket): epoch})

    with ThreadPoolExecutor(len(tables)) as pool:
        list(pool.map(work, range(len(tables))))
    assert waits, "the table was never busy"
    assert committed_rows(lake.store) == [(bucket, epoch) for bucket in range(6) for epoch in range(2, 12)]


def broken_writer(*, arrives: bool) -> Callable[..., None]:
    """`write_deltalake` whose first answer is lost, after or before the commit."""
    calls: list[int] = []

    def write(*args: Any, **kwargs: Any) -> None:
        calls.append(1)
        if len(calls) > 1:
            write_deltalake(*args, **kwargs)
            return
        if arrives:
            handle = args[0]
            fresh = DeltaTable(handle.table_uri, version=handle.version(), storage_options=handle._storage_options)
            write_deltalake(fresh, *args[1:], **kwargs)
        raise OSError("operation timed out")

    return write


def test_commit_whose_answer_was_lost_is_found_and_the_writer_goes_on(
    any_lake: DeltaLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = opened(any_lake.store, {"a": 1})
    monkeypatch.setattr("connectors.lake.write_deltalake", broken_writer(arrives=True))
    first = table.append(one_row(0, 2), {"a": 2})
    found = any_lake.store.find_commit(TABLE, lambda c: c.get("commit_id") == first)
    assert found is not None
    table.append(one_row(0, 3), {"a": 3})
    assert committed_rows(any_lake.store) == [(0, 2), (0, 3)]
    assert table.stored(("a",)) == {"a": 3}


def test_commit_that_did_not_arrive_leaves_the_state_unknown(lake: DeltaLake, monkeypatch: pytest.MonkeyPatch) -> None:
    table = opened(lake.store, {"a": 1})
    monkeypatch.setattr("connectors.lake.write_deltalake", broken_writer(arrives=False))
    with pytest.raises(StateUnknownError, match=TABLE):
        table.append(one_row(0, 2), {"a": 2})
    assert committed_rows(lake.store) == []
    assert table.stored(("a",)) == {"a": 1}


def test_found_commit_does_not_hide_an_owner_that_came_after_it(
    lake: DeltaLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = opened(lake.store, {"a": 1})
    monkeypatch.setattr("connectors.lake.write_deltalake", broken_writer(arrives=True))
    table.append(one_row(0, 2), {"a": 2})
    opened(lake.store, {"a": 3})
    with pytest.raises(FencedError):
        table.append(one_row(0, 3), {"a": 3})
    assert committed_rows(lake.store) == [(0, 2)]


def test_control_log_with_concurrent_writers_numbers_entries_without_gaps(any_lake: DeltaLake) -> None:
    logs = [ControlLog(any_lake.store) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda n: logs[n % 4].open_run("csv", {"n": n}), range(8)))
    assert sorted(runs) == list(range(1, 9))
    entries = any_lake.control.entries()
    assert [e.entry for e in entries] == list(range(1, 10))  # the generation came first
    assert [e.kind for e in entries] == ["generation"] + ["run_opened"] * 8
    assert {e.run: e.detail["n"] for e in entries if e.run} == {run: n for n, run in enumerate(runs)}


def test_open_runs_are_those_that_were_not_closed(lake: DeltaLake) -> None:
    control = lake.control
    first, second = control.open_run("csv", {}), control.open_run("mysql", {"position": 5})
    control.close_run(first, {"rows": 3})
    control.close_run(first, {"rows": 3})
    assert [(r.run, r.source_name, r.detail) for r in control.open_runs()] == [(second, "mysql", {"position": 5})]
    assert [e.kind for e in control.entries()].count("run_closed") == 1
    assert control.open_run("csv", {}) == 3


def test_truncate_of_the_same_order_is_recorded_once(lake: DeltaLake) -> None:
    order = 10**36 + 7
    for _ in range(2):
        lake.control.truncate("invoices", order, 1000)
    lake.control.truncate("accounts", order, 1000)
    lake.control.truncate("invoices", order + 1, 2000)
    found = [(e.table_name, e.row_order, e.detail) for e in lake.control.entries() if e.kind == "truncate"]
    assert found == [
        ("invoices", order, {"source_ts_ms": 1000}),
        ("accounts", order, {"source_ts_ms": 1000}),
        ("invoices", order + 1, {"source_ts_ms": 2000}),
    ]


def test_lake_opened_twice_keeps_its_generation(lake: DeltaLake) -> None:
    assert DeltaLake(lake.store.location).generation == lake.generation


def change_properties(lake: DeltaLake, days: int) -> None:
    lake.store.open(TABLE).alter.set_table_properties({"delta.logRetentionDuration": f"interval {days} days"})


def test_change_of_the_tables_properties_ends_no_writer_and_opens_no_fence(any_lake: DeltaLake) -> None:
    table, other = opened(any_lake.store, {"a": 1, "b": 1}), opened(any_lake.store, {"c": 1})
    change_properties(any_lake, 8)
    table.append(one_row(0, 2), {"a": 2})
    table.append(one_row(1, 2), {"b": 2})
    assert committed_rows(any_lake.store) == [(0, 2), (1, 2)]
    opened(any_lake.store, {"c": 2})
    change_properties(any_lake, 9)
    with pytest.raises(FencedError, match="another worker committed one of our ids"):
        other.append(one_row(2, 2), {"c": 2})
    assert committed_rows(any_lake.store) == [(0, 2), (1, 2)]


def test_change_of_the_tables_properties_after_the_new_owners_commit_hides_it_not(lake: DeltaLake) -> None:
    table = opened(lake.store, {"a": 1})
    opened(lake.store, {"a": 2})
    change_properties(lake, 8)
    change_properties(lake, 9)
    with pytest.raises(FencedError):
        table.append(one_row(0, 2), {"a": 2})
    assert committed_rows(lake.store) == []


def test_opening_amid_a_change_of_the_tables_properties_begins_again(
    lake: DeltaLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, usual = lake.store.fenced(TABLE), FencedTable._commit

    def late(self: FencedTable, *arguments: Any) -> str:
        change_properties(lake, 8)
        return usual(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(MovedError, match="properties changed"):
        patch.setattr(FencedTable, "_commit", late)
        table.open({"a": 1}, {}, seen={})
    table.open({"a": 1}, {}, seen=table.stored(("a",)))
    assert table.stored(("a",)) == {"a": 1}


def test_writer_that_rested_long_opens_its_table_anew_and_is_still_refused_after_a_new_owner(
    lake: DeltaLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.lake.REOPEN_AFTER_S", 0.0)
    table = opened(lake.store, {"a": 1, "b": 1})
    for epoch in (2, 3):
        table.append(one_row(0, epoch), {"a": epoch})
    opened(lake.store, {"b": 2})
    with pytest.raises(FencedError):
        table.append(one_row(0, 4), {"a": 4})
    assert committed_rows(lake.store) == [(0, 2), (0, 3)]
