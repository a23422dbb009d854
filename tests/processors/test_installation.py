"""What a lake agreed on: the number of partitions, and the SQL of each version of a feature set."""

from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from connectors.delta_lake import DeltaLake
from connectors.lake import LakeLocation
from processors.errors import SettingsError
from processors.feature_stages import AccountStage
from processors.features.declarations import ACCOUNT_FEATURES, FEATURE_SETS
from processors.features.feature_set import FeatureSet
from processors.installation import FEATURE_SET_KIND, agree, rows_print, sql_print
from tests.processors.engine_shell import ACCOUNT, INVOICE, LINE, SKU, Shell, Topics, event

SQL = ACCOUNT_FEATURES.sql


@pytest.fixture
def lake(tmp_path: Path) -> DeltaLake:
    return DeltaLake(LakeLocation(str(tmp_path / "lake")))


def start(lake: DeltaLake, *sets: FeatureSet, partitions: int = 1) -> None:
    """What a worker does before anything else."""
    agree(lake.control, lake.fenced("sku_log"), partitions=partitions, feature_sets=sets)


def changed(version: int) -> FeatureSet:
    """The same columns by other SQL."""
    sql = f"SELECT * REPLACE (CAST(2 * revenue AS DECIMAL(38,10)) AS revenue) FROM ({SQL})"
    return replace(ACCOUNT_FEATURES, sql=sql, version=version)


def test_the_first_start_notes_everything_and_the_next_ones_nothing(lake: DeltaLake) -> None:
    start(lake, *FEATURE_SETS, partitions=8)
    noted = lake.control.entries()
    assert [e.detail["name"] for e in noted if e.kind == FEATURE_SET_KIND] == [f.name for f in FEATURE_SETS]
    start(lake, *FEATURE_SETS, partitions=8)
    assert lake.control.entries() == noted


def test_another_number_of_partitions_is_refused(lake: DeltaLake) -> None:
    start(lake, partitions=8)
    with pytest.raises(SettingsError, match="TRS_PARTITIONS=16, but the lake was filled from topics of 8"):
        start(lake, partitions=16)


@pytest.mark.parametrize(("partitions", "found"), [(1, "more"), (2, None), (3, "fewer")])
def test_a_lake_that_never_noted_its_partitions_tells_them_by_its_buckets(
    lake: DeltaLake, partitions: int, found: str | None
) -> None:
    log = lake.fenced("sku_log")
    log.open({"epoch:skus:0": 1, "epoch:skus:1": 1}, {}, seen={})
    if found is None:
        start(lake, partitions=partitions)
    else:
        with pytest.raises(SettingsError, match=f"topics of {found} partitions"):
            start(lake, partitions=partitions)


def test_other_sql_under_the_same_version_is_refused_and_under_a_higher_one_taken(lake: DeltaLake) -> None:
    start(lake, ACCOUNT_FEATURES)
    with pytest.raises(SettingsError, match=r"account_features: its SQL is another.*raise `version`.*to 2"):
        start(lake, changed(1))
    start(lake, changed(2))
    start(lake, ACCOUNT_FEATURES)  # an old worker may start: it parks what the new one wrote
    with pytest.raises(SettingsError, match="to 3"):
        start(lake, replace(ACCOUNT_FEATURES, version=2))
    start(lake, replace(ACCOUNT_FEATURES, version=3))  # the way back


def test_other_columns_need_another_name(lake: DeltaLake) -> None:
    start(lake, ACCOUNT_FEATURES)
    fewer = replace(ACCOUNT_FEATURES, columns=ACCOUNT_FEATURES.columns[:-1], version=2)
    with pytest.raises(SettingsError, match="give the set another name"):
        start(lake, fewer)


def test_worker_that_is_refused_for_one_set_notes_nothing_of_the_others(lake: DeltaLake) -> None:
    """Their rows were never computed by its SQL, which may still be mended under that version."""
    other, account = FEATURE_SETS[0], ACCOUNT_FEATURES
    assert other.name != account.name
    start(lake, other, account)
    noted = lake.control.entries()
    with pytest.raises(SettingsError, match="account_features: its columns"):
        start(lake, replace(other, version=2), replace(account, columns=account.columns[:-1], version=2))
    assert lake.control.entries() == noted


@pytest.mark.parametrize(
    ("sql", "same"),
    [
        (f"-- another remark, isn't it\n{SQL}", True),
        (SQL.replace("\n", "\n    "), True),
        (SQL.replace("SELECT", "select"), True),
        (SQL + "\n-- the end", True),
        (SQL.replace("SELECT", "SELECT 'a -- b' AS x,"), False),
    ],
)
def test_comments_blanks_and_case_are_no_change_of_meaning(sql: str, same: bool) -> None:
    assert (sql_print(replace(ACCOUNT_FEATURES, sql=sql)) == sql_print(ACCOUNT_FEATURES)) is same


def test_literals_count_as_they_are() -> None:
    prints = {sql_print(replace(ACCOUNT_FEATURES, sql=f"SELECT {text}")) for text in ("'A'", "'a'", "'a  '", "'a --'")}
    assert len(prints) == 4


def test_promises_are_part_of_what_a_set_computes_and_its_words_are_not() -> None:
    assert sql_print(replace(ACCOUNT_FEATURES, window_days=30)) != sql_print(ACCOUNT_FEATURES)
    assert rows_print(replace(ACCOUNT_FEATURES, doc="in other words")) == rows_print(ACCOUNT_FEATURES)


def test_a_changed_set_is_computed_again_the_history_keeps_what_was_known_and_a_rollback_too(
    lake: DeltaLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three deployments on one lake: version 1, other SQL as 2, the old SQL as 3; a worker of 2 in between parks."""
    topics = Topics()
    topics.add("skus", event("skus", "r", 1, SKU))
    topics.add("accounts", event("accounts", "r", 2, ACCOUNT))
    topics.add("invoices", event("invoices", "c", 3, INVOICE))
    topics.add("invoice_line_items", event("invoice_line_items", "c", 4, LINE))
    versions = (ACCOUNT_FEATURES, changed(2), replace(ACCOUNT_FEATURES, version=3))
    log = lake.fenced("account_features_changes")

    for feature_set in versions:
        start(lake, feature_set)
        _deploy(monkeypatch, feature_set)
        shell = Shell(lake, topics, tmp_path / f"spill-{feature_set.version}")
        shell.settle()
        shell.engine.stop()
        assert log.stored(("version:0",)) == {"version:0": feature_set.version}

    start(lake, changed(2))
    _deploy(monkeypatch, changed(2))
    late = Shell(lake, topics, tmp_path / "spill-late")
    assert late.engine.parked == {0}
    late.engine.stop()

    with duckdb.connect() as con:
        lake.prepare(con)
        changes = lake.relation("account_features_changes")
        rows = con.sql(f"SELECT feature_version, revenue, deleted FROM {changes} ORDER BY known_from").fetchall()
    assert rows == [(1, 10, False), (2, 20, False), (3, 10, False)]


def _deploy(monkeypatch: pytest.MonkeyPatch, feature_set: FeatureSet) -> None:
    """The sets of a worker that is started now."""
    sets = tuple(feature_set if f.name == feature_set.name else f for f in FEATURE_SETS if f.grain != "article")
    monkeypatch.setattr(AccountStage.__init__, "__kwdefaults__", {"feature_sets": sets})
