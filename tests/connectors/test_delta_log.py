"""The log of a table as we read it: what delta-rs says, and no call that keeps other threads from running."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import duckdb
import pytest
from deltalake import DeltaTable

from app.settings import Settings
from app.wiring import lake_location
from connectors.delta_lake import DeltaLake
from connectors.delta_log import is_table, last_commits
from connectors.lake import LakeLocation
from devstack.fault_proxy import FaultProxy
from processors.lake_tables import EPOCHS

TABLE = EPOCHS.name


@pytest.fixture(params=["folder", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> LakeLocation:
    """Where a lake may be made; the folder's name has to be written as %20 in an address."""
    if request.param == "folder":
        return LakeLocation(str(tmp_path / "a lake"))
    settings: Settings = request.getfixturevalue("stack_settings")
    return lake_location(settings)


@pytest.fixture
def proxy(stack_settings: Settings) -> Iterator[FaultProxy]:
    """In front of the S3 server, in this very process: it answers only while others let Python run."""
    assert stack_settings.aws_endpoint is not None
    proxy = FaultProxy(upstream_port=urlsplit(stack_settings.aws_endpoint).port or 80, seed=1)
    proxy.start()
    yield proxy
    proxy.stop()


def test_last_commits_are_what_delta_rs_says_of_them(location: LakeLocation) -> None:
    lake = DeltaLake(location)
    table = lake.fenced(TABLE)
    table.open({"a": 1}, {"kind": "opening"}, seen={})
    for number in range(2, 14):
        table.append(None, {"a": number}, {"kind": "epoch"})
    handle = lake.store.open(TABLE)
    assert last_commits(handle, 5) == handle.history(5)
    assert last_commits(handle, 500) == handle.history()


def test_last_commits_end_where_the_log_was_cleaned_up(tmp_path: Path) -> None:
    lake = DeltaLake(LakeLocation(str(tmp_path)))
    table = lake.fenced(TABLE)
    table.open({"a": 1}, {}, seen={})
    for number in range(2, 14):
        table.append(None, {"a": number})
    for version in range(10):  # up to the checkpoint
        (tmp_path / TABLE / "_delta_log" / f"{version:020}.json").unlink()
    assert [c["version"] for c in last_commits(DeltaTable(tmp_path / TABLE), 500)] == [13, 12, 11, 10]
    assert lake.fenced(TABLE).stored(("a",)) == {"a": 13}


def test_table_is_there_once_it_was_made(location: LakeLocation) -> None:
    assert not is_table(location.table(TABLE), location.storage_options)
    DeltaLake(location)
    assert is_table(location.table(TABLE), location.storage_options)
    assert not is_table(location.table("other"), location.storage_options)


def test_lake_on_a_store_lets_other_threads_run_while_it_waits(stack_settings: Settings, proxy: FaultProxy) -> None:
    """Heartbeats are such a thread. A call that kept Python's lock would wait here for an answer that never comes."""
    settings = stack_settings.model_copy(update={"aws_endpoint": proxy.url})
    impatient = {"timeout": "5s", "max_retries": "0"}
    lake = DeltaLake(LakeLocation(settings.lake_uri, {**lake_location(settings).storage_options, **impatient}))
    assert lake.store.exists()
    table = lake.fenced(TABLE)
    table.open({"a": 1}, {}, seen={})
    table.append(EPOCHS.schema.empty_table(), {"a": 2})
    assert table.stored(("a", "b")) == {"a": 2}
    assert lake.store.find_commit(TABLE, lambda c: False) is None
    assert len(lake.recent_commits(TABLE, 5)) == 3  # the creation, too
    assert lake.follow(TABLE).new_files() == []
    with duckdb.connect() as con:
        lake.prepare(con)
        relation = lake.relation("control_log")
        assert con.sql(f"SELECT count(entry) FROM {relation}").fetchall() == [(1,)]
    assert proxy.requests > 50
