"""The engine of one worker on a lake in a folder: records in, rows and documents out, in their order."""

import time
from typing import Any

import pyarrow as pa
import pytest

from connectors.lake import LakeLocation
from processors.lake_tables import INVOICE_LOG
from processors.tables import DOCUMENTS_TOPIC
from tests.processors.engine_shell import (
    ACCOUNT,
    INVOICE,
    LINE,
    PARTITION,
    PREFIX,
    SETTLE_S,
    Open,
    Topics,
    event,
    feature,
    rows,
)
from tests.waiting import wait_until


def test_engine_with_all_rows_writes_features_and_says_that_it_is_settled(
    shell: Open, topics: Topics, location: LakeLocation
) -> None:
    shell(topics).settle()
    found = feature(location)
    assert (found["inv_id"], found["acct_id"], str(found["inv_total"]), found["inv_items"]) == (
        1,
        7,
        "10.0000000000",
        4,
    )
    assert (found["acct_age"], found["num_inv_120d"], found["is_late"], found["deleted"]) == (10, 0, 0, False)


def documents(topics: Topics) -> list[dict[str, Any]]:
    values = [value for _, value in topics.records.get(f"{PREFIX}.{DOCUMENTS_TOPIC}", [])]
    return [row for value in values for row in pa.ipc.open_stream(value).read_all().to_pylist()]


def test_documents_wait_while_the_broker_holds_much_more(shell: Open, topics: Topics, location: LakeLocation) -> None:
    one = shell(topics)
    one.engine.expect({(f"{PREFIX}.invoice_line_items", PARTITION): 50_000})
    one.offer_all(without="invoice_line_items")
    wait_until(lambda: bool(rows(location, "invoice_log")), timeout_s=SETTLE_S, what="the invoice is committed")
    assert documents(topics) == []
    one.settle()
    assert [d["inv_items"] for d in documents(topics)] == [4]


def test_a_short_rest_of_a_long_fetch_makes_no_epoch_of_its_own(
    shell: Open, topics: Topics, location: LakeLocation
) -> None:
    one = shell(topics, interval_s=60)
    one.engine.set_draining()
    one.settle()
    topics.add("invoices", event("invoices", "c", 5, INVOICE | {"invoice_id": 2}))
    topics.add("invoice_line_items", event("invoice_line_items", "c", 6, LINE | {"invoice_id": 2}))
    one.engine.expect({(f"{PREFIX}.invoice_line_items", PARTITION): 50_000})
    one.offer_all(without="invoice_line_items")
    time.sleep(0.5)
    assert {row["invoice_id"] for row in rows(location, "invoice_log")} == {1}
    one.settle()
    assert len({row["epoch"] for row in rows(location, "invoice_log") if row["invoice_id"] == 2}) == 1


def test_features_wait_for_all_documents_of_the_epoch_that_was_sent(
    shell: Open, topics: Topics, location: LakeLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("processors.block_codec.BLOCK_BYTES", 1)  # a record per document
    topics.add("invoices", event("invoices", "c", 5, INVOICE | {"invoice_id": 2, "date_issued": 18011}))
    one = shell(topics)
    one.offer_all()
    wait_until(lambda: len(documents(topics)) == 2, timeout_s=SETTLE_S, what="both documents are sent")
    one.offer_all(without=DOCUMENTS_TOPIC, until=1)
    time.sleep(0.5)
    assert rows(location, "invoice_features_changes") == []
    one.settle()
    assert [r["epoch"] for r in rows(location, "invoice_features_changes")] == [feature(location)["epoch"]] * 2


def test_features_do_not_wait_for_an_interval_of_their_own(shell: Open, topics: Topics, location: LakeLocation) -> None:
    later = {topic: topics.records.pop(topic) for topic in (f"{PREFIX}.invoices", f"{PREFIX}.invoice_line_items")}
    one = shell(topics, interval_s=10)
    one.offer_all()
    wait_until(lambda: bool(rows(location, "account_log")), timeout_s=SETTLE_S, what="the features' interval began")
    topics.records |= later
    one.offer_all()
    wait_until(lambda: bool(documents(topics)), timeout_s=SETTLE_S, what="documents are sent")
    one.offer_all()
    wait_until(lambda: bool(rows(location, "invoice_features_changes")), timeout_s=6, what="features follow at once")


def test_price_that_arrives_late_reprices_the_line(shell: Open, topics: Topics, location: LakeLocation) -> None:
    late = topics.records.pop(f"{PREFIX}.skus")
    open_shell = shell(topics)
    open_shell.settle()
    assert feature(location)["inv_total"] == 0
    topics.records[f"{PREFIX}.skus"] = late
    open_shell.settle()
    wait_until(
        lambda: open_shell.settled() and feature(location)["inv_total"] == 10,
        timeout_s=SETTLE_S,
        what="the invoice is repriced",
    )


def test_a_price_that_nobody_used_yet_is_not_settled(shell: Open, topics: Topics, location: LakeLocation) -> None:
    late = topics.records.pop(f"{PREFIX}.skus")
    open_shell = shell(topics)
    open_shell.settle()
    topics.records[f"{PREFIX}.skus"] = late
    open_shell.settle()
    assert feature(location)["inv_total"] == 10


def test_truncate_deletes_every_row_of_its_table(shell: Open, topics: Topics, location: LakeLocation) -> None:
    open_shell = shell(topics)
    open_shell.settle()
    topics.add("invoices", event("invoices", "t", 50, None))
    topics.add("invoices", event("invoices", "u", 20, INVOICE))  # below the truncate: refused
    open_shell.settle()
    wait_until(
        lambda: open_shell.settled() and feature(location)["deleted"], timeout_s=SETTLE_S, what="the feature is gone"
    )
    (state,) = [
        r for r in sorted(rows(location, INVOICE_LOG.name), key=lambda r: -int(r["epoch"])) if r["kind"] == "invoice"
    ][:1]
    assert state["deleted"]


def test_truncate_of_accounts_deletes_their_personal_rows_once(
    shell: Open, topics: Topics, location: LakeLocation
) -> None:
    first = shell(topics)
    first.settle()
    topics.add("accounts", event("accounts", "t", 50, None))
    first.settle()
    topics.add("accounts", event("accounts", "u", 60, ACCOUNT | {"account_id": 8}))
    wait_until(
        lambda: first.settled() and any(r["deleted"] for r in rows(location, "accounts_private_changes")),
        timeout_s=SETTLE_S,
        what="the personal row is gone",
    )
    first.engine.stop()
    shell(topics).settle()
    found = sorted((r["account_id"], r["deleted"]) for r in rows(location, "accounts_private_changes"))
    assert found == [(7, False), (7, True), (8, False)]


def test_deletion_that_is_told_twice_gives_one_tombstone(shell: Open, topics: Topics, location: LakeLocation) -> None:
    open_shell = shell(topics)
    open_shell.settle()
    for position in (50, 60):
        topics.add("invoices", event("invoices", "d", position, INVOICE))
        open_shell.settle()
    logged = [r["row_order"] for r in rows(location, INVOICE_LOG.name) if r["kind"] == "invoice" and r["deleted"]]
    assert len(set(logged)) == 2
    assert sum(r["deleted"] for r in rows(location, "invoice_features_changes")) == 1
