"""Compaction, vacuum and the clean-up of logs beside an engine that reads the files by what is new in them."""

from pathlib import Path

import duckdb

from connectors.compaction import compact, data_files
from connectors.delta_lake import DeltaLake
from connectors.lake import LakeLocation
from processors.compaction import FileGroup
from processors.lake_tables import LAKE_TABLES
from tests.processors.engine_shell import INVOICE, LINE, SETTLE_S, SKU, Open, Topics, event, rows
from tests.waiting import wait_until

LOGS = ("sku_log", "invoice_log", "account_log", "epochs")


def test_compaction_of_the_logs_makes_no_row_derived_again_and_none_missed(
    shell: Open, topics: Topics, location: LakeLocation
) -> None:
    """The price tail follows the files of sku_log: old prices come again in new files, beside a new one."""
    open_shell = shell(topics)
    open_shell.settle()
    for number in range(3):
        topics.add("skus", event("skus", "u", 100 + number, SKU | {"item_id": f"other {number}"}))
        open_shell.settle()
    before = [rows(location, name) for name in (*LOGS, "invoice_features_changes")]
    compact_today(location)
    topics.add("invoices", event("invoices", "c", 200, INVOICE | {"invoice_id": 2, "date_issued": 18011}))
    topics.add("skus", event("skus", "c", 201, SKU | {"item_id": "b", "item_retail_price": "7"}))
    open_shell.settle()
    topics.add("invoice_line_items", event("invoice_line_items", "c", 202, {**LINE, "invoice_id": 2, "item_id": "b"}))
    open_shell.settle()
    after = [rows(location, name) for name in (*LOGS, "invoice_features_changes")]
    assert [f["inv_id"] for f in after[-1]].count(1) == len(before[-1])
    assert all(row in now for then, now in zip(before, after, strict=True) for row in then)
    wait_until(lambda: totals(location)[2] == 28, timeout_s=SETTLE_S, what="the new price is used")
    assert totals(location) == {1: 10, 2: 28}
    open_shell.engine.stop()
    compact_today(location)
    forget_the_past(location)
    again = shell(topics)
    again.settle()
    assert totals(location) == {1: 10, 2: 28}
    assert len(rows(location, "invoice_features_changes")) == len(after[-1])
    topics.add("invoice_line_items", event("invoice_line_items", "u", 300, {**LINE, "quantity": 5}))
    wait_until(lambda: again.settled() and totals(location)[1] == 12, timeout_s=SETTLE_S, what="the line is corrected")


def totals(location: LakeLocation) -> dict[int, int]:
    found = sorted(rows(location, "invoice_features_changes"), key=lambda r: (r["document_version"], r["epoch"]))
    return {row["inv_id"]: int(row["inv_total"]) for row in found}


def forget_the_past(location: LakeLocation) -> None:
    """Vacuum and the clean-up of logs, as if all was older than any retention."""
    lake = DeltaLake(location)
    for name in LAKE_TABLES:
        handle = lake.store.open(name)
        handle.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False, full=True)
        lake.store.open(name).create_checkpoint()
        for commit in sorted(Path(location.table(name), "_delta_log").glob("*.json"))[:-1]:
            commit.unlink()


def compact_today(location: LakeLocation) -> None:
    """All files of each log become one."""
    lake = DeltaLake(location)
    with duckdb.connect() as con:
        lake.prepare(con)
        for name in LOGS:
            files = data_files(lake.store.open(name))
            assert len({f.day for f in files}) == 1, "the day turned amid the test"
            assert compact(lake, con, LAKE_TABLES[name], FileGroup(files[0].day, tuple(files), parts=1)).committed
