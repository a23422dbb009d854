"""The engine of one worker on a lake in a folder: records in, rows and documents out; crash and recovery."""

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from connectors.compaction import compact, data_files
from connectors.delta_lake import DeltaLake
from connectors.lake import LakeLocation
from processors.compaction import FileGroup
from processors.engine import CLOSE_S, EngineConfig, StreamEngine
from processors.errors import RetryableError, UnavailableError
from processors.keyed_table import KeyedTable
from processors.lake_tables import INVOICE_LOG, INVOICES_KEYED, LAKE_TABLES
from processors.ports import KeyedFiles
from processors.records import RawBatch
from processors.stages import SEND_RETRY_S
from processors.tables import CHARGED_LINES_TOPIC, DERIVED_TOPICS, DOCUMENTS_TOPIC
from tests.waiting import wait_until

PREFIX, PARTITION, SETTLE_S = "test", 0, 60
LOGS = ("sku_log", "invoice_log", "account_log", "epochs")
STAMP_MS = 1_700_000_000_000
Row = Mapping[str, object]
SKU = {"item_id": "a", "item_name": "A", "item_description": "A", "item_cost_price": "1", "item_retail_price": "2.50"}
ACCOUNT = {"account_id": 7, "company_name": "F", "company_address": "R", "contact_person": "P", "contact_phone": "5"}
ACCOUNT |= {"gender": None, "joining_date": 18000}
INVOICE = {"invoice_id": 1, "account_id": 7, "date_issued": 18010, "payment_dates": None}
LINE = {"invoice_id": 1, "item_id": "a", "quantity": 4}


def event(table: str, op: str, pos: int, row: Row | None) -> bytes:
    """A row event of the source `aurora`."""
    source = {
        "name": "aurora",
        "table": table,
        "file": "binlog.000001",
        "pos": pos,
        "row": 0,
        "ts_ms": 1_700_000_000_000,
    }
    before, after = (row, None) if op == "d" else (None, row)
    return json.dumps({"before": before, "after": after, "op": op, "ts_ms": 1, "source": source}).encode()


class Sink:
    """Where the engine sends the records of one topic; they come back through it."""

    def __init__(self, records: dict[str, list[tuple[bytes, bytes]]], topic: str) -> None:
        self._records, self._topic = records, topic

    def send(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        self._records.setdefault(self._topic, []).extend(zip(keys, values, strict=True))

    def flush(self) -> dict[int, int]:
        return {PARTITION: len(self._records.get(self._topic, []))}


class Topics:
    """Records per topic in one partition, and the sinks of those that the engine fills."""

    def __init__(self) -> None:
        self.records: dict[str, list[tuple[bytes, bytes]]] = {}
        self.sinks = {name: Sink(self.records, f"{PREFIX}.{name}") for name in DERIVED_TOPICS}

    def add(self, table: str, *values: bytes) -> None:
        self.records.setdefault(f"{PREFIX}.{table}", []).extend((b"{}", v) for v in values)


def open_engine(
    lake: DeltaLake, topics: Topics, spill: Path, topic_ids: Mapping[str, str], interval_s: float | None
) -> StreamEngine:
    config = EngineConfig(
        topic_prefix=PREFIX,
        partitions=1,
        source_names=("aurora",),
        interval_s=interval_s or 0.05,
        threads=1,
        spill=spill,
    )
    ids = {f"{PREFIX}.{n}": n for n in _TOPICS} | dict(topic_ids)
    return StreamEngine(
        config,
        lake=lake,
        sink=topics.sinks[DOCUMENTS_TOPIC],
        lines_sink=topics.sinks.get(CHARGED_LINES_TOPIC),
        topic_ids=ids,
        writer="test",
    )


class Shell:
    """Drives an engine as the worker's shell does: seeks where the lake stands, offers what the topics hold."""

    def __init__(
        self,
        lake: DeltaLake,
        topics: Topics,
        spill: Path,
        topic_ids: Mapping[str, str] | None = None,
        interval_s: float | None = None,
    ) -> None:
        self._begin(open_engine(lake, topics, spill, topic_ids or {}, interval_s), topics, draining=interval_s is None)

    @classmethod
    def of(cls, engine: StreamEngine, topics: Topics) -> "Shell":
        """Drives this engine."""
        shell = cls.__new__(cls)
        shell._begin(engine, topics, draining=True)
        return shell

    def _begin(self, engine: StreamEngine, topics: Topics, *, draining: bool) -> None:
        self.topics, self.engine = topics, engine
        self.engine.start()
        if draining:
            self.engine.set_draining()
        self.stored = self.engine.assign(frozenset({PARTITION}))
        self.positions = {place[0]: 0 if p is None else p.next_offset for place, p in self.stored.items()}

    def offer_all(self, *, without: str = "", until: int | None = None) -> None:
        """What the topics hold, except one of them, which is offered until an offset at most."""
        for topic, records in self._read():
            start, end = self.positions[topic], len(records)
            if topic == f"{PREFIX}.{without}":
                end = min(end, until or 0)
            if start < end:
                batch = RawBatch.of(topic, PARTITION, records[start:end], start_offset=start, timestamp_ms=STAMP_MS)
                self.engine.offer(batch)
                self.positions[topic] = end

    def _read(self) -> list[tuple[str, list[tuple[bytes, bytes]]]]:
        """The topics that the engine reads."""
        return [(topic, records) for topic, records in self.topics.records.items() if topic in self.positions]

    def settled(self) -> bool:
        self.offer_all()
        if self.engine.failure.done():
            self.engine.failure.result()
        seen = self.engine.progress()
        ends = {(t, PARTITION): len(r) for t, r in self._read()}
        reached = all(seen.positions.get(p, 0) >= end for p, end in ends.items())
        return reached and seen.documents_settled and seen.features_settled

    def settle(self) -> None:
        wait_until(self.settled, timeout_s=SETTLE_S, what="everything is committed and derived")


_TOPICS = ("skus", "dead_letters", "invoices", "invoice_line_items", "accounts", *DERIVED_TOPICS)
Open = Callable[..., Shell]


@pytest.fixture
def location(tmp_path: Path) -> LakeLocation:
    return LakeLocation(str(tmp_path / "lake"))


@pytest.fixture
def shell(location: LakeLocation, tmp_path: Path) -> Iterator[Open]:
    """Opens engines on the test's lake; stops them afterwards."""
    opened: list[Shell] = []

    def start(topics: Topics, lake: DeltaLake | None = None, **options: Any) -> Shell:
        opened.append(Shell(lake or DeltaLake(location), topics, tmp_path / f"spill-{len(opened)}", **options))
        return opened[-1]

    yield start
    for one in opened:
        one.engine.stop()


@pytest.fixture
def topics() -> Topics:
    """A SKU, an account, an invoice and its line."""
    made = Topics()
    made.add("skus", event("skus", "r", 1, SKU))
    made.add("accounts", event("accounts", "r", 2, ACCOUNT))
    made.add("invoices", event("invoices", "c", 3, INVOICE))
    made.add("invoice_line_items", event("invoice_line_items", "c", 4, LINE))
    return made


def rows(location: LakeLocation, table: str) -> list[dict[str, Any]]:
    with duckdb.connect() as con:
        lake = DeltaLake(location)
        lake.prepare(con)
        found: list[dict[str, Any]] = con.sql(f"FROM {lake.relation(table)}").to_arrow_table().to_pylist()
        return found


def feature(location: LakeLocation) -> dict[str, Any]:
    """The latest row of invoice 1."""
    return max(rows(location, "invoice_features_changes"), key=lambda r: (r["document_version"], r["epoch"]))


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
    return [json.loads(value) for _, value in topics.records.get(f"{PREFIX}.{DOCUMENTS_TOPIC}", [])]


def test_documents_wait_while_the_broker_holds_much_more(shell: Open, topics: Topics, location: LakeLocation) -> None:
    one = shell(topics)
    one.engine.expect({(f"{PREFIX}.invoice_line_items", PARTITION): 50_000})
    one.offer_all(without="invoice_line_items")
    wait_until(lambda: bool(rows(location, "invoice_log")), timeout_s=SETTLE_S, what="the invoice is committed")
    assert documents(topics) == []
    one.settle()
    assert [d["inv_items"] for d in documents(topics)] == [4]


def test_features_wait_for_all_documents_of_the_epoch_that_was_sent(
    shell: Open, topics: Topics, location: LakeLocation
) -> None:
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


def test_deletion_that_is_told_twice_gives_one_tombstone(shell: Open, topics: Topics, location: LakeLocation) -> None:
    open_shell = shell(topics)
    open_shell.settle()
    for position in (50, 60):
        topics.add("invoices", event("invoices", "d", position, INVOICE))
        open_shell.settle()
    logged = [r["row_order"] for r in rows(location, INVOICE_LOG.name) if r["kind"] == "invoice" and r["deleted"]]
    assert len(set(logged)) == 2
    assert sum(r["deleted"] for r in rows(location, "invoice_features_changes")) == 1


def test_second_engine_recovers_and_writes_no_feature_rows(shell: Open, topics: Topics, location: LakeLocation) -> None:
    first = shell(topics)
    first.settle()
    first.engine.stop()
    before = {t: rows(location, t) for t in ("invoice_features_changes", "account_features_changes")}
    second = shell(topics)
    assert second.positions[f"{PREFIX}.invoices"] == 1
    second.settle()
    assert {t: rows(location, t) for t in before} == before
    topics.add("invoices", event("invoices", "u", 60, INVOICE | {"payment_dates": 18100}))
    second.settle()
    assert feature(location)["is_late"] == 1
    assert feature(location)["inv_total"] == 10


class WaitingLake(DeltaLake):
    """A lake whose invoices are opened once the test lets them."""

    def __init__(self, location: LakeLocation) -> None:
        super().__init__(location)
        self.opened = threading.Event()

    def keyed(self, table: KeyedTable, homes: Collection[int] | None = None) -> KeyedFiles:
        assert table is not INVOICES_KEYED or self.opened.wait(SETTLE_S)
        return super().keyed(table, homes)


def test_engine_says_which_stage_loads_and_at_the_end_how_many_rows(
    shell: Open, topics: Topics, location: LakeLocation, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = shell(topics)
    assert first.engine.loading is None
    first.settle()
    first.engine.stop()
    lake = WaitingLake(location)
    second = open_engine(lake, topics, tmp_path / "spill", {}, None)
    caplog.set_level(logging.INFO, "processors.engine")
    caplog.clear()
    with ThreadPoolExecutor(1) as pool:
        assigned = pool.submit(second.assign, frozenset({PARTITION}))

        def loads_invoices() -> bool:
            loading = second.loading
            return loading is not None and (loading.stage, loading.buckets, loading.step) == (
                "invoices",
                1,
                "opening tables",
            )

        wait_until(loads_invoices, timeout_s=SETTLE_S, what="the engine says that it loads invoices")
        lake.opened.set()
        assigned.result(SETTLE_S)
    assert second.loading is None
    told = [r.getMessage() for r in caplog.records if "open in" in r.getMessage()]
    assert [(line.split(":")[0], line.rsplit(", ", 1)[1]) for line in told] == [
        ("stage skus", "1 rows loaded"),
        ("stage invoices", "2 rows loaded"),
        ("stage accounts", "4 rows loaded"),  # the account, the document, a row of each feature set
    ]
    second.stop()


class CrashingLake(DeltaLake):
    """A lake whose log of invoices cannot be reached at its first rows."""

    def fenced(self, name: str) -> Any:
        table = super().fenced(name)
        if name == INVOICE_LOG.name:
            append = table.append

            def refuse(rows: pa.Table | None, ids: Mapping[str, int], metadata: Mapping[str, Any] | None = None) -> str:
                if rows is not None and rows.num_rows:
                    raise UnavailableError("the store went away")
                return append(rows, ids, metadata)

            table.append = refuse  # type: ignore[method-assign]  # the fault is injected where the store would fail
        return table


def test_bad_record_lands_once_in_dead_letters_though_the_log_commit_failed(
    shell: Open, topics: Topics, location: LakeLocation
) -> None:
    topics.add(
        "invoices", b"no json at all", event("invoices", "c", 5, INVOICE | {"invoice_id": 2, "date_issued": 18011})
    )
    crashed = shell(topics, CrashingLake(location))
    crashed.offer_all()
    wait_until(crashed.engine.failure.done, timeout_s=SETTLE_S, what="the engine fails")
    with pytest.raises(UnavailableError):
        crashed.engine.failure.result()
    assert [r["record_value"] for r in rows(location, "dead_letters")] == [b"no json at all"]
    crashed.engine.stop()

    shell(topics).settle()
    assert [r["record_value"] for r in rows(location, "dead_letters")] == [b"no json at all"]
    assert {r["inv_id"] for r in rows(location, "invoice_features_changes")} == {1, 2}


def test_marks_of_dead_letters_do_not_outlive_their_topic_though_no_log_commit_names_it(
    shell: Open, topics: Topics, location: LakeLocation
) -> None:
    topics.add("invoices", b"bad", event("invoices", "c", 5, INVOICE | {"invoice_id": 2, "date_issued": 18011}))
    crashed = shell(topics, CrashingLake(location))
    crashed.offer_all()
    wait_until(crashed.engine.failure.done, timeout_s=SETTLE_S, what="the engine fails")
    crashed.engine.stop()
    name = f"{PREFIX}.invoices"
    topics.records[name] = [(b"{}", b"also bad")]

    shell(topics, topic_ids={name: "made anew"}).settle()

    assert sorted(r["record_value"] for r in rows(location, "dead_letters")) == [b"also bad", b"bad"]


class BusyState:
    """What the state is while an opening, in the shell's thread, is in a call to DuckDB."""

    def close(self) -> None:
        raise duckdb.Error("connection is busy with another call")


def test_engine_that_is_stopped_amid_an_opening_ends_in_order(
    shell: Open, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = shell(topics).engine
    with monkeypatch.context() as busy:
        busy.setattr(engine, "_state", BusyState())
        engine.stop()


def test_engine_whose_last_epoch_fails_tells_it_and_ends_its_threads_all_the_same(
    topics: Topics, location: LakeLocation, tmp_path: Path
) -> None:
    one = Shell(DeltaLake(location), topics, tmp_path / "spill")
    one.settle()
    shutil.rmtree(Path(location.uri) / "sku_log" / "_delta_log")
    with pytest.raises(RetryableError, match="sku_log"):
        one.engine.stop()
    assert not any(thread.is_alive() for thread in one.engine._threads)


class SilentSink(Sink):
    """A broker that takes documents and never acknowledges them."""

    flushes = 0

    def flush(self) -> dict[int, int]:
        self.flushes += 1
        raise UnavailableError("no acknowledgement")


@pytest.mark.parametrize("draining", [True, False])
def test_engine_that_is_stopped_while_no_document_is_acknowledged_ends_and_the_next_one_sends_them(
    shell: Open, topics: Topics, location: LakeLocation, draining: bool
) -> None:
    heard = topics.sinks[DOCUMENTS_TOPIC]
    silent = topics.sinks[DOCUMENTS_TOPIC] = SilentSink({}, f"{PREFIX}.{DOCUMENTS_TOPIC}")
    one = shell(topics, interval_s=None if draining else 0.05)
    one.offer_all()
    wait_until(lambda: silent.flushes > 0, timeout_s=SETTLE_S, what="documents are sent")
    began_s = time.monotonic()
    one.engine.stop()
    assert time.monotonic() - began_s < CLOSE_S + 2 * SEND_RETRY_S
    topics.sinks[DOCUMENTS_TOPIC] = heard
    shell(topics).settle()
    assert feature(location)["inv_items"] == 4


def test_a_price_that_nobody_used_yet_is_not_settled(shell: Open, topics: Topics, location: LakeLocation) -> None:
    late = topics.records.pop(f"{PREFIX}.skus")
    open_shell = shell(topics)
    open_shell.settle()
    topics.records[f"{PREFIX}.skus"] = late
    open_shell.settle()
    assert feature(location)["inv_total"] == 10


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


def test_gap_that_was_accepted_is_read_on_from_where_the_shell_begins(
    shell: Open, topics: Topics, location: LakeLocation
) -> None:
    first = shell(topics)
    first.settle()
    first.engine.stop()
    topics.add("invoices", b"expired", event("invoices", "c", 5, INVOICE | {"invoice_id": 2, "date_issued": 18011}))
    second = shell(topics)
    assert second.positions[f"{PREFIX}.invoices"] == 1
    second.positions[f"{PREFIX}.invoices"] = 2
    second.settle()
    assert {r["inv_id"] for r in rows(location, "invoice_features_changes")} == {1, 2}
    assert rows(location, "dead_letters") == []


def test_positions_in_a_topic_that_was_made_anew_are_forgotten(
    shell: Open, topics: Topics, location: LakeLocation
) -> None:
    topics.add("invoices", b"bad", event("invoices", "c", 5, INVOICE | {"invoice_id": 2, "date_issued": 18011}))
    first = shell(topics)
    first.settle()
    first.engine.stop()
    name = f"{PREFIX}.invoices"
    topics.records[name] = [(b"{}", b"also bad")]
    second = shell(topics, topic_ids={name: "made anew"})
    assert second.positions[name] == 3
    second.positions[name] = 0
    second.settle()
    assert sorted(r["record_value"] for r in rows(location, "dead_letters")) == [b"also bad", b"bad"]
    second.engine.stop()
    assert shell(topics, topic_ids={name: "made anew"}).positions[name] == 1


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
