"""`lake.delta`: a table at its Delta versions; what the log or the files do not give any more is refused."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from deltalake import DeltaTable

from processors.errors import UnavailableError, UsageError
from tests.small_lake import SmallLake
from trs import lake

TABLE = "invoice_features_changes"
COMMITS = 12
FIRST = datetime(2024, 5, 1, tzinfo=UTC)


def committed_at(version: int) -> datetime:
    """Two commits a minute are of the same moment, as commits of two writers may be."""
    return FIRST + timedelta(minutes=version // 2)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """COMMITS rows, one per version; the log says that they were committed in the past."""
    small = SmallLake(tmp_path / "lake")
    monkeypatch.setenv("TRS_LAKE", small.uri)
    for version in range(COMMITS):
        small.feature(version, "2024-05-01", epoch=version)
        log = tmp_path / "lake" / TABLE / "_delta_log" / f"{version:020}.json"
        actions = [json.loads(line) for line in log.read_text().splitlines()]
        for action in actions:
            if "commitInfo" in action:
                action["commitInfo"]["timestamp"] = int(committed_at(version).timestamp() * 1000)
        log.write_text("\n".join(json.dumps(a) for a in actions) + "\n")
    return tmp_path / "lake" / TABLE


def test_version_by_number_has_the_rows_of_its_time(folder: Path) -> None:
    assert [lake.delta(TABLE, version=v).num_rows for v in range(COMMITS)] == list(range(1, COMMITS + 1))
    assert lake.delta(TABLE).num_rows == COMMITS


@pytest.mark.parametrize("offset_ms", [-1, 0, 1])
def test_version_by_time_is_the_last_committed_at_or_before_it(folder: Path, offset_ms: int) -> None:
    for minute in range(1, COMMITS // 2 + 2):
        time = FIRST + timedelta(minutes=minute, milliseconds=offset_ms)
        expected = max(v for v in range(COMMITS) if committed_at(v) <= time)
        assert lake.delta(TABLE, timestamp=time).num_rows == expected + 1
        assert lake.delta(TABLE, timestamp=time.isoformat()).num_rows == expected + 1


def test_time_before_the_first_version_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"begins with version 0 of 2024-05-01 00:00:00.000\+00:00.*as_of"):
        lake.delta(TABLE, timestamp=FIRST - timedelta(milliseconds=1))


def test_versions_and_times_that_the_log_forgot_are_refused(folder: Path) -> None:
    DeltaTable(folder, version=8).create_checkpoint()
    for version in range(6):  # as a clean-up of the log does
        (folder / "_delta_log" / f"{version:020}.json").unlink()
    for version in (2, 7):
        with pytest.raises(UsageError, match=f"version {version} of {TABLE} is not in the table's log any more"):
            lake.delta(TABLE, version=version)
    with pytest.raises(UsageError, match="begins with version 6 of"):
        lake.delta(TABLE, timestamp=committed_at(5))
    assert lake.delta(TABLE, version=8).num_rows == 9
    assert lake.delta(TABLE, timestamp=committed_at(10)).num_rows == 12
    assert lake.delta_versions(TABLE)["version"].to_pylist() == [11, 10, 9, 8, 7, 6]


def test_version_whose_files_are_gone_says_so(folder: Path) -> None:
    DeltaTable(folder).optimize.compact()
    DeltaTable(folder).vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    with pytest.raises(UnavailableError, match=f"version 3 of {TABLE}.*vacuum.*as_of"):
        lake.delta(TABLE, version=3)
    assert lake.delta(TABLE).num_rows == COMMITS


def test_versions_are_listed_newest_first_with_their_times(folder: Path) -> None:
    listed = lake.delta_versions(TABLE, limit=3).to_pylist()
    assert [(r["version"], r["committed_at"]) for r in listed] == [(v, committed_at(v)) for v in (11, 10, 9)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"table": TABLE, "version": COMMITS}, "no version 12 .*the newest is 11"),
        ({"table": TABLE, "version": -1}, "no version -1"),
        ({"table": TABLE, "version": 1, "timestamp": "now"}, "leave out one"),
        ({"table": "invoice_features"}, "is a view"),
        ({"table": "invoice_features_change"}, "did you mean invoice_features_changes"),
        ({"table": "dead_letters"}, "with_personal_data=True"),
        ({"table": TABLE, "timestamp": "yesterday"}, "is not a time"),
    ],
)
def test_wrong_question_is_refused(folder: Path, arguments: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        lake.delta(**arguments)


def test_table_that_is_not_there_is_said(folder: Path) -> None:
    with pytest.raises(UnavailableError, match="no table sku_log"):
        lake.delta("sku_log", version=0)
