"""`trs status` on a lake written by hand, with Kafka away."""

import json
import socket
from pathlib import Path

import pytest
from confluent_kafka import Producer

from app.settings import Settings
from app.wiring import kafka_config
from connectors.kafka import ensure_topics
from processors.tables import all_topics
from tests.app.commands import trs
from tests.small_lake import SmallLake


@pytest.fixture
def nowhere() -> str:
    """An address on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_status_of_an_empty_lake_says_that_nothing_is_committed(tmp_path: Path, nowhere: str) -> None:
    answer = trs("status", TRS_LAKE=str(tmp_path), TRS_KAFKA=nowhere)
    assert "nothing is committed yet" in answer.out


def test_status_without_kafka_says_so_and_shows_the_rest(tmp_path: Path, nowhere: str) -> None:
    lake = SmallLake(tmp_path / "lake")
    lake.epoch("skus", 0, 1, "2024-05-01", {"aurora.trs.skus": 3})
    lake.epoch("skus", 0, 2, "2024-05-03", {"aurora.trs.skus": 7})
    lake.epoch("accounts", 1, 9, "2024-05-02", {"aurora.trs.accounts": 5, "aurora.trs.invoice_documents": 6})
    lake.append(
        "dead_letters", *({"topic": "t", "partition": 0, "reason": r} for r in ("bad_json", "no_key", "no_key"))
    )
    lake.append("sku_log", {"item_id": "a"}, {"item_id": "b", "deleted": True})

    told = trs("status", "--json", TRS_LAKE=lake.uri, TRS_KAFKA=nowhere)

    assert told.code == 4
    assert nowhere in told.err
    answer = json.loads(told.out)
    assert nowhere in answer["kafka_problem"]
    assert answer["watermark"] == "2024-05-02T00:00:00Z"
    assert [(s["stage"], s["last_epoch"]) for s in answer["stages"]] == [("skus", 2), ("accounts", 9)]
    assert [(p["topic"], p["partition"], p["next_offset"], p["lag"]) for p in answer["partitions"]] == [
        ("aurora.trs.accounts", 1, 5, None),
        ("aurora.trs.invoice_documents", 1, 6, None),
        ("aurora.trs.skus", 0, 7, None),
    ]
    assert (answer["lag"], answer["dead_letters"]) == (None, {"no_key": 2, "bad_json": 1})
    assert (answer["tables"]["sku_log"], answer["views"]["skus"], answer["tables"]["invoice_log"]) == (2, 1, None)


def test_status_fits_into_80_columns(tmp_path: Path, nowhere: str) -> None:
    lake = SmallLake(tmp_path / "lake")
    lake.epoch("invoices", 0, 1_000_000, "2024-05-01T10:00:00.123456")
    out = trs("status", TRS_LAKE=lake.uri, TRS_KAFKA=nowhere, COLUMNS="80").out
    assert "2024-05-01T10:00:00Z" in out
    assert "…" not in out


def test_status_knows_the_lag_of_every_topic_the_dead_letters_included(
    stack_settings: Settings, tmp_path: Path
) -> None:
    config, prefix = kafka_config(stack_settings), stack_settings.topic_prefix
    ensure_topics(config, all_topics(prefix), 2)
    producer = Producer({"bootstrap.servers": stack_settings.kafka})
    for _ in range(3):
        producer.produce(f"{prefix}.dead_letters", b"{}", partition=1)
    producer.flush()
    lake = SmallLake(tmp_path / "lake")
    lake.epoch("skus", 1, 1, "2024-05-01", {f"{prefix}.dead_letters": 2})

    told = trs("status", "--json", TRS_LAKE=lake.uri, TRS_KAFKA=stack_settings.kafka, TRS_TOPIC_PREFIX=prefix)

    answer = json.loads(told.out)
    assert {(p["topic"], p["partition"]): p["lag"] for p in answer["partitions"]}[f"{prefix}.dead_letters", 1] == 1
    assert answer["lag"] == 1
