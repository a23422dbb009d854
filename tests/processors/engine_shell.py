"""An engine of one worker driven without Kafka: topics as lists, the shell around it, and what the lake holds then."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from connectors.delta_lake import DeltaLake
from connectors.lake import LakeLocation
from processors.engine import EngineConfig, StreamEngine
from processors.records import RawBatch
from processors.tables import CHARGED_LINES_TOPIC, DERIVED_TOPICS, DOCUMENTS_TOPIC
from tests.waiting import wait_until

PREFIX, PARTITION, SETTLE_S = "test", 0, 60
STAMP_MS = 1_700_000_000_000
_TOPICS = ("skus", "dead_letters", "invoices", "invoice_line_items", "accounts", *DERIVED_TOPICS)
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

    partitions = 1

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


Open = Callable[..., Shell]
"""Opens an engine with these topics on the test's lake; named arguments are those of Shell."""


def rows(location: LakeLocation, table: str) -> list[dict[str, Any]]:
    """All rows of a table."""
    with duckdb.connect() as con:
        lake = DeltaLake(location)
        lake.prepare(con)
        found: list[dict[str, Any]] = con.sql(f"FROM {lake.relation(table)}").to_arrow_table().to_pylist()
        return found


def feature(location: LakeLocation) -> dict[str, Any]:
    """The latest row of invoice 1."""
    return max(rows(location, "invoice_features_changes"), key=lambda r: (r["document_version"], r["epoch"]))
