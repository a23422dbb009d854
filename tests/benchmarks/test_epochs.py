"""The benchmark of epochs makes the events that it says, and they cost what it says, in a small lake."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from benchmarks.epochs import Corrections, Day, measure
from benchmarks.filled_lake import Feed, fill
from benchmarks.freshness import LINES, MIX, RECENT
from connectors.delta_lake import DeltaLake
from connectors.lake import LakeLocation

INVOICES, HOT, CHANGES = 2_000, 400, 100


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> DeltaLake:
    lake = DeltaLake(LakeLocation(str(tmp_path_factory.mktemp("bench") / "lake")))
    fill(lake, INVOICES, hot=HOT)
    return lake


@pytest.fixture
def feed(lake: DeltaLake, tmp_path: Path) -> Iterator[Feed]:
    feed = Feed(lake, tmp_path)
    yield feed
    feed.invoices.con.close()


def test_filled_lake_is_folded_whole(lake: DeltaLake) -> None:
    folded = {}
    for name in ("invoice_log_folded", "account_log_folded"):
        files = pa.table(lake.store.open(name).get_add_actions(flatten=True))
        folded[name] = pc.sum(files["num_records"]).as_py()
    assert folded["invoice_log_folded"] > 4 * INVOICES  # with their lines
    assert folded["account_log_folded"] > INVOICES  # their documents


def test_events_of_a_day_have_the_shares_of_the_mix_and_concern_recent_invoices(feed: Feed) -> None:
    tables = Day(feed, CHANGES).epoch(0)

    issued, corrected, paid = (round(CHANGES * MIX[kind]) for kind in ("issued", "corrected", "paid"))
    assert tables["invoices"].num_rows == issued + paid
    lines = tables["invoice_line_items"]
    assert lines.num_rows == LINES * issued + corrected
    assert lines.group_by(["invoice_id", "item_id"]).aggregate([]).num_rows >= LINES * issued + corrected * 0.5
    assert pc.min(lines["invoice_id"]).as_py() >= INVOICES * (1 - RECENT) - 1


def test_corrections_concern_the_last_invoices_of_the_accounts_that_are_asked_for(feed: Feed) -> None:
    rows = Corrections(feed, 10, "account_id = 0").epoch(0)["invoice_line_items"]

    wanted = feed.invoices.con.sql(
        "SELECT invoice_id FROM invoice_state SEMI JOIN line_state USING (invoice_id) WHERE account_id = 0"
        " ORDER BY invoice_id DESC LIMIT 10"
    ).fetchall()
    assert sorted(rows["invoice_id"].to_pylist()) == sorted(i for (i,) in wanted)


def test_epochs_are_measured_with_the_rows_that_they_derive(lake: DeltaLake) -> None:
    found = measure(uri=lake.store.location.uri, changes=10, epochs=2, where="account_id = 0")

    assert found["invoices"] == INVOICES
    assert found["derived"] >= 10  # each correction changes its invoice's row at least
    assert found["epoch_s"] > 0 and found["parquet_bytes"] > 0
