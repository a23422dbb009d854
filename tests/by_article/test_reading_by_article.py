"""Every command that reads feature sets reads one by article, over a lake that the engine filled."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.delta_lake import DeltaLake
from connectors.lake import LakeLocation
from tests.app.commands import Answer, trs
from tests.feature_set_example import NAME, WITHOUT_MONTHS
from tests.processors.engine_shell import INVOICE, LINE, SKU, Shell, Topics, event

LATER = INVOICE | {"invoice_id": 2, "date_issued": 18_070}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two invoices of April and June 2019, both of article a; then the second moves to July."""
    folder = tmp_path_factory.mktemp("lake")
    topics = Topics()
    topics.add("skus", event("skus", "r", 1, SKU))
    topics.add("invoices", event("invoices", "c", 2, INVOICE), event("invoices", "c", 3, LATER))
    topics.add(
        "invoice_line_items",
        event("invoice_line_items", "c", 4, LINE),
        event("invoice_line_items", "c", 5, LINE | {"invoice_id": 2}),
    )
    one = Shell(DeltaLake(LakeLocation(str(folder / "lake"))), topics, folder / "spill")
    one.settle()
    topics.add("invoices", event("invoices", "u", 9, LATER | {"date_issued": 18_090}))
    one.settle()
    one.engine.stop()
    yield str(folder / "lake")


def read(lake: str, *arguments: str) -> Answer:
    answer = trs(*arguments, TRS_LAKE=lake, TRS_PARTITIONS="1", TRS_TOPIC_PREFIX="test")
    assert answer.code == 0, answer.err
    return answer


def rows(lake: str, *arguments: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(read(lake, *arguments).out)
    return found


def test_as_of_now_shows_articles_by_month(lake: str) -> None:
    for name in (NAME, WITHOUT_MONTHS):
        found = rows(lake, "features", "as-of", "now", "--feature-set", name, "--format", "json")
        assert [(r["item_id"], r["month"], r["units"]) for r in found] == [
            ("a", "2019-04-01", 4),
            ("a", "2019-07-01", 4),
        ]


def test_compare_tells_the_month_that_went_and_the_one_that_came(lake: str) -> None:
    history = rows(
        lake,
        "sql",
        f"SELECT max(known_from) AS t FROM {NAME}_history WHERE month = '2019-06-01' AND NOT deleted",
        "--format",
        "json",
    )
    told = read(lake, "features", "compare", history[0]["t"], "now", "--feature-set", NAME, "--json")
    summary = json.loads(told.out)
    assert (summary["added"], summary["removed"], summary["changed"]) == (1, 1, 0)


def test_backfill_reconstructs_articles_at_month_ends(lake: str) -> None:
    read(lake, "bootstrap", "backfill", "--from", "2019-04", "--to", "2019-07")
    query = f"SELECT month, valid_from FROM {NAME}_reconstructed ORDER BY month"
    found = rows(lake, "sql", query, "--format", "json")
    assert [(r["month"], r["valid_from"][:10]) for r in found] == [
        ("2019-04-01", "2019-05-01"),
        ("2019-07-01", "2019-08-01"),
    ]


def test_etl_over_the_lake_writes_what_the_stream_has(lake: str, tmp_path: Path) -> None:
    read(lake, "etl", "--source", "lake", "--feature-set", NAME, "--out", str(tmp_path / "batch.csv"))
    read(lake, "features", "as-of", "now", "--feature-set", NAME, "--out", str(tmp_path / "stream.csv"))
    assert (tmp_path / "batch.csv").read_text() == (tmp_path / "stream.csv").read_text()
