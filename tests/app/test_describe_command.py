"""`trs lake describe`: what it says is what lies in the folder."""

import json
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connectors.fold import fold
from processors.fold import all_that_waits
from processors.lake_tables import LAKE_TABLES, SKU_LOG, SKUS_KEYED
from tests.app.commands import trs
from tests.connectors.test_compaction import CLOSED, Tables, sku

COMMITS = 14
IDS = {f"epoch:skus:{b}": 1 for b in range(8)}


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[Tables]:
    """sku_log with a row per commit, on a closed day."""
    made = Tables(tmp_path / "lake")
    worker = made.lake.fenced(SKU_LOG.name)
    worker.open(IDS, {}, seen={})
    for epoch in range(2, 2 + COMMITS):
        worker.append(sku(epoch % 8, epoch, CLOSED), dict.fromkeys(IDS, epoch), {"kind": "epoch"})
    yield made
    made.con.close()


def settings(tables: Tables) -> dict[str, str]:
    return {"TRS_HOME": str(tables.folder(".").parent.parent), "TRS_LAKE": tables.lake.store.location.uri}


def described(tables: Tables, name: str = SKU_LOG.name) -> dict[str, Any]:
    answer = trs("lake", "describe", name, "--json", **settings(tables))
    assert answer.code == 0, answer.err
    found: dict[str, Any] = json.loads(answer.out)["tables"][0]
    return found


def test_sizes_rows_and_versions_are_those_of_the_files(tables: Tables) -> None:
    found = described(tables)
    sizes = sorted(f.stat().st_size for f in tables.folder(SKU_LOG.name).glob("known_date=*/*.parquet"))
    facts = found["facts"]
    assert (facts["rows"], facts["files"], facts["size_bytes"]) == (COMMITS, COMMITS, sum(sizes))
    assert facts["sizes"]["least"] == sizes[0]
    assert facts["sizes"]["median"] == statistics.median_low(sizes)
    assert facts["sizes"]["greatest"] == sizes[-1]
    assert (facts["version"], facts["oldest_version"], facts["last_checkpoint"]) == (COMMITS + 1, 0, 9)


def test_fold_and_its_debt_are_told(tables: Tables) -> None:
    assert described(tables)["fold_debt"] == COMMITS
    assert described(tables, SKUS_KEYED.folded)["last_fold"] is None
    fold(tables.lake, tables.con, SKUS_KEYED, 8, all_that_waits())
    assert described(tables)["fold_debt"] == 0
    assert described(tables, SKUS_KEYED.folded)["last_fold"] is not None


def test_upkeep_is_told_and_does_not_count_as_a_commit(tables: Tables) -> None:
    before = described(tables)
    assert (before["last_compaction"], before["last_vacuum"]) == (None, None)
    assert trs("lake", "maintain", "--only", "compact,vacuum", **settings(tables)).code == 0
    after = described(tables)
    assert after["facts"]["files"] == 1
    assert after["facts"]["version"] > before["facts"]["version"]
    assert after["facts"]["last_commit_at"] == before["facts"]["last_commit_at"]
    assert None not in (after["last_compaction"], after["last_vacuum"])


def test_oldest_version_is_one_that_can_be_read_and_the_one_before_cannot(tables: Tables) -> None:
    """Files removed ten days ago are gone; the version after their removal is the oldest for certain."""
    assert trs("lake", "maintain", "--only", "compact", **settings(tables)).code == 0
    folder = tables.folder(SKU_LOG.name)
    past = time.time() - 10 * 86_400
    for file in folder.glob("**/*"):
        if file.is_file():
            text = file.read_text() if file.suffix == ".json" else ""
            if "deletionTimestamp" in text:
                lines = [json.loads(line) for line in text.splitlines()]
                for line in lines:
                    line.get("remove", {}).update(deletionTimestamp=int(past * 1000)) if "remove" in line else None
                file.write_text("\n".join(map(json.dumps, lines)))
            os.utime(file, (past, past))
    assert trs("lake", "maintain", "--only", "vacuum", **settings(tables)).code == 0
    oldest = described(tables)["facts"]["oldest_version"]

    def rows(version: int) -> int:
        handle = tables.lake.store.open(SKU_LOG.name, version)
        relation = tables.lake.relation_of(SKU_LOG.name, handle)
        return int(tables.con.sql(f"SELECT count(epoch) FROM {relation}").fetchall()[0][0])

    assert rows(oldest) == COMMITS
    with pytest.raises(Exception, match=r"No files|log segment"):
        rows(oldest - 1)


def test_all_tables_are_listed_with_the_time_of_the_answer(tables: Tables) -> None:
    answer = trs("lake", "describe", **settings(tables))
    assert answer.code == 0, answer.err
    assert [line.split()[0] for line in answer.out.splitlines()[1:-1]] == list(LAKE_TABLES)
    assert answer.out.splitlines()[-1].startswith("as of 20")


def test_one_table_is_shown_with_its_columns_and_a_wrong_name_with_the_nearest(tables: Tables) -> None:
    answer = trs("lake", "describe", "sku_log", **settings(tables))
    for field in SKU_LOG.schema:
        assert field.name in answer.out
    wrong = trs("lake", "describe", "sku_lok", **settings(tables))
    assert (wrong.code, "did you mean sku_log?" in wrong.err) == (2, True)
