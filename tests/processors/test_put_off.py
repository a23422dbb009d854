"""Documents in a backlog: they wait for the rest of their invoices, and a crash meanwhile loses none."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from connectors.delta_lake import DeltaLake
from connectors.lake import LakeLocation
from processors import stages
from processors.decode import Decoder
from processors.document_codec import DOCUMENT_BLOCKS
from processors.errors import UnavailableError
from processors.inbox import Chunk
from processors.records import RawBatch
from processors.stage import StageContext
from processors.stages import InvoiceStage
from processors.state import open_state
from processors.tables import INVOICE_LINE_ITEMS, INVOICES, Table
from tests.processors.block_records import rows_sent

BUCKET = 0
Sent = list[dict[str, object]]
Row = dict[str, object]


class Sink:
    """Keeps the documents that are sent."""

    partitions = 1

    def __init__(self) -> None:
        self.sent: Sent = []
        self.generation = ""
        self.flushes = 0
        self.refuses = 0
        """The flush that is not acknowledged."""

    def send(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        self.sent += rows_sent(DOCUMENT_BLOCKS, values, generation=self.generation)

    def flush(self) -> dict[int, int]:
        """They are kept at once."""
        self.flushes += 1
        if self.flushes == self.refuses:
            raise UnavailableError("no acknowledgement")
        return {}


class Source:
    """Chunks of row events with contiguous offsets."""

    def __init__(self) -> None:
        self._next = {INVOICES.name: 0, INVOICE_LINE_ITEMS.name: 0}

    def chunk(self, table: Table, *rows: Row, op: str = "c") -> Chunk:
        start = self._next[table.name]
        places = range(start, start + len(rows))
        values = [
            json.dumps(
                {
                    "after": row,
                    "op": op,
                    "source": {"name": "aurora", "table": table.name, "file": "b.000001", "pos": 9 + place, "ts_ms": 1},
                }
            ).encode()
            for place, row in zip(places, rows, strict=True)
        ]
        self._next[table.name] = places.stop
        decoder = Decoder(source_names=("aurora",))
        decoded = decoder.decode(
            table, [RawBatch.of("t", BUCKET, [(b"k", value) for value in values], start_offset=start)]
        )
        decoder.close()
        assert decoded.dead.num_rows == 0
        return Chunk(f"test.{table.name}", decoded.events, len(rows), {BUCKET: places.stop})


def invoice(number: int, *, account: int = 7) -> Row:
    return {"invoice_id": number, "account_id": account, "date_issued": 18010, "payment_dates": None}


def line(number: int, item: str) -> Row:
    return {"invoice_id": number, "item_id": item, "quantity": 2}


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def start(tmp_path: Path, sink: Sink) -> Callable[[], InvoiceStage]:
    """Starts a stage on the test's lake; it replaces the one before, as after a crash."""

    def opened() -> InvoiceStage:
        lake = DeltaLake(LakeLocation(str(tmp_path / "lake")))
        con = open_state(spill=tmp_path / "spill", memory_mb=200, threads=1)
        con.execute("SET TimeZone = 'UTC'")
        lake.prepare(con)
        sink.generation = lake.generation
        topics = [f"test.{t.name}" for t in (INVOICES, INVOICE_LINE_ITEMS)]
        stage = InvoiceStage(
            StageContext(lake=lake, topic_ids={t: t for t in topics}, writer="test"),
            con,
            topics,
            sink=sink,
            price_at="creation",
            stopping=lambda: False,
        )
        stage.assign(frozenset({BUCKET}))
        return stage

    return opened


def documents(sent: Sent) -> list[tuple[object, object, object, object]]:
    return sorted((d["account_id"], d["invoice_id"], d["document_state"], d["inv_items"]) for d in sent)


def test_in_a_backlog_an_invoice_and_its_lines_give_one_document(start: Callable[[], InvoiceStage], sink: Sink) -> None:
    stage, source = start(), Source()
    stage.run_epoch([source.chunk(INVOICES, invoice(1), invoice(2))], more_soon=True)
    stage.run_epoch([source.chunk(INVOICE_LINE_ITEMS, line(1, "a"))], more_soon=True)
    assert sink.sent == []
    stage.poll_news()
    assert stage.news, "an epoch follows though nothing more arrives"
    stage.run_epoch([source.chunk(INVOICE_LINE_ITEMS, line(1, "b"))])
    assert documents(sink.sent) == [(7, 1, "live", 4), (7, 2, "live", 0)]
    stage.run_epoch([])
    stage.poll_news()
    assert len(sink.sent) == 2
    assert not (stage.news or stage.unsettled)


def test_a_crash_while_documents_wait_loses_none(start: Callable[[], InvoiceStage], sink: Sink) -> None:
    stage, source = start(), Source()
    stage.run_epoch([source.chunk(INVOICES, invoice(1))])
    sink.sent.clear()
    stage.run_epoch([source.chunk(INVOICE_LINE_ITEMS, line(1, "a"))], more_soon=True)
    stage.run_epoch([source.chunk(INVOICES, invoice(2))], more_soon=True)
    assert sink.sent == []
    start()
    assert documents(sink.sent) == [(7, 1, "live", 2), (7, 2, "live", 0)]


def test_documents_that_wait_outlive_an_assignment(start: Callable[[], InvoiceStage], sink: Sink) -> None:
    stage, source = start(), Source()
    stage.run_epoch([source.chunk(INVOICES, invoice(1))], more_soon=True)
    stage.assign(frozenset({BUCKET, BUCKET + 1}))
    assert documents(sink.sent) == [(7, 1, "live", 0)]


def test_an_invoice_that_left_and_came_back_while_documents_waited_is_live_in_its_account(
    start: Callable[[], InvoiceStage], sink: Sink
) -> None:
    stage, source = start(), Source()
    stage.run_epoch([source.chunk(INVOICES, invoice(1))])
    sink.sent.clear()
    stage.run_epoch([source.chunk(INVOICES, invoice(1, account=8), op="u")], more_soon=True)
    stage.run_epoch([source.chunk(INVOICES, invoice(1), op="u")])
    assert documents(sink.sent) == [(7, 1, "live", 0), (8, 1, "left", 0)]


def test_documents_wait_no_longer_than_their_time(
    start: Callable[[], InvoiceStage], sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "PUT_OFF_S", 0.0)
    stage, source = start(), Source()
    stage.run_epoch([source.chunk(INVOICES, invoice(1))], more_soon=True)
    assert sink.sent == []
    stage.run_epoch([source.chunk(INVOICES, invoice(2))], more_soon=True)
    assert len(sink.sent) == 2


def test_part_of_the_documents_that_is_not_acknowledged_is_sent_again_and_no_other(
    start: Callable[[], InvoiceStage], sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("processors.invoice_documents.PART_ROWS", 10)
    monkeypatch.setattr(stages, "SEND_RETRY_S", 0.0)
    stage, source = start(), Source()
    sink.refuses = 2
    notes = stage.run_epoch([source.chunk(INVOICES, *(invoice(number) for number in range(40)))])
    assert notes.derived == 40
    assert {d["invoice_id"] for d in sink.sent} == set(range(40))
    assert sink.flushes == 4 + 1
    times = Counter(d["invoice_id"] for d in sink.sent)
    again = [number for number, count in times.items() if count == 2]
    assert 0 < len(again) < 40
    assert len(sink.sent) == 40 + len(again)
    assert stage.sent_through == stage.epochs


def test_epoch_without_a_change_derives_nothing(
    start: Callable[[], InvoiceStage], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, source = start(), Source()
    stage.run_epoch([source.chunk(INVOICES, invoice(1))])
    monkeypatch.setattr(stage.documents, "derive", None)
    stage.run_epoch([])
    assert not stage.unsettled
    with pytest.raises(TypeError):
        stage.run_epoch([source.chunk(INVOICES, invoice(2))])
