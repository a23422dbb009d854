"""An engine after another one: what it loads, where it goes on, and that nothing is lost or told twice by a crash."""

import logging
import threading
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from connectors.delta_lake import DeltaLake
from connectors.lake import LakeLocation
from processors.errors import UnavailableError
from processors.keyed_table import KeyedTable
from processors.lake_tables import INVOICE_LOG, INVOICES_KEYED
from processors.ports import KeyedFiles
from tests.processors.engine_shell import (
    INVOICE,
    PARTITION,
    PREFIX,
    SETTLE_S,
    Open,
    Topics,
    event,
    feature,
    open_engine,
    rows,
)
from tests.waiting import wait_until


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
