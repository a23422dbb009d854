"""The catch-up with its peers on real parts, small; Spark is left out where it is not installed."""

import subprocess
import uuid
from pathlib import Path

import pytest

from app.settings import load_settings
from app.wiring import kafka_config
from batch_bootstrap.events import Stamp, connect, row_events
from benchmarks.catch_up import compare_features, fill_topics, report_rows, run_once, run_peer, run_worker
from benchmarks.peers.spark import PYTHON
from connectors.kafka import Producer
from processors.order import BATCH_SOURCE_NAME
from processors.tables import INVOICE_LINE_ITEMS, INVOICES, SKUS, topic_of

PEERS = [
    "faust",
    pytest.param(
        "spark",
        marks=pytest.mark.skipif(not PYTHON.exists(), reason="there is no .venv-spark: `make setup-spark` makes it"),
    ),
]


@pytest.fixture(autouse=True)
def on_stack(stack: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in stack.items():
        monkeypatch.setenv(name, value)


@pytest.mark.long
def test_ours_and_stock_faust_come_to_the_same_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRS_EPOCH_INTERVAL_S", "0.5")
    run = run_once(300, ["faust"])
    assert run.peers["faust"]["equal_rows"] == 300
    assert run.peers["faust"]["events"] == run.ours["events"]
    assert all(row.value > 0 for row in report_rows([run]))


@pytest.mark.long
@pytest.mark.parametrize("peer", PEERS)
def test_the_peer_comes_to_the_same_features_when_rows_change(
    peer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRS_EPOCH_INTERVAL_S", "0.5")
    settings = load_settings(topic_prefix=f"bench{uuid.uuid4().hex[:8]}.trs", lake=str(tmp_path / "lake"))
    events = fill_topics(settings, 300)
    producer = Producer(kafka_config(settings))
    moved = "SELECT {} AS invoice_id, 1 AS account_id, DATE '2020-02-03' AS date_issued, NULL::DATE AS payment_dates"
    line = "SELECT 7::BIGINT AS invoice_id, '1-00001-001' AS item_id, {}::INTEGER AS quantity"
    changes = [(INVOICES, moved.format(7)), (INVOICES, moved.format(8))]
    changes += [(INVOICE_LINE_ITEMS, line.format(quantity)) for quantity in (3, 5)]
    with connect() as con:
        for place, (table, row) in enumerate(changes):
            stamp = Stamp(BATCH_SOURCE_NAME, "trs", "run.0000000002", place, 1_700_000_001_000)
            keys, values = row_events(con, table, con.sql(row).to_arrow_table(), stamp, op="u")
            producer.send(topic_of(settings.topic_prefix, table.name), keys, values)
    producer.flush()
    producer.close()
    run_worker(settings, events + len(changes), tmp_path)
    run_peer(peer, settings, tmp_path / "out")
    assert compare_features(settings, tmp_path / "out") == 300


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_that_cannot_take_an_event_ends_the_benchmark(
    peer: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = load_settings(topic_prefix=f"bench{uuid.uuid4().hex[:8]}.trs")
    fill_topics(settings, 50)
    producer = Producer(kafka_config(settings))
    producer.send(topic_of(settings.topic_prefix, SKUS.name), [b"{}"], [b'{"after":{}}'])
    producer.flush()
    producer.close()
    with pytest.raises(subprocess.CalledProcessError):
        run_peer(peer, settings, tmp_path / "out")
    assert {"faust": "KeyError", "spark": "cannot take the event bench"}[peer] in capfd.readouterr().err
