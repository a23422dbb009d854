"""The catch-up with its peer on real parts, small."""

import subprocess
import uuid
from pathlib import Path

import pytest

from app.settings import load_settings
from app.wiring import kafka_config
from benchmarks.catch_up import fill_topics, report_rows, run_once, run_peer
from connectors.kafka import Producer
from processors.tables import SKUS, topic_of


@pytest.fixture(autouse=True)
def on_stack(stack: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in stack.items():
        monkeypatch.setenv(name, value)


def test_ours_and_stock_faust_come_to_the_same_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRS_EPOCH_INTERVAL_S", "0.5")
    run = run_once(300, ["faust"])
    assert run.peers["faust"]["equal_rows"] == 300
    assert run.peers["faust"]["events"] == run.ours["events"]
    assert all(row.value > 0 for row in report_rows([run]))


def test_a_peer_that_cannot_take_an_event_ends_the_benchmark(tmp_path: Path) -> None:
    settings = load_settings(topic_prefix=f"bench{uuid.uuid4().hex[:8]}.trs")
    fill_topics(settings, 50)
    producer = Producer(kafka_config(settings))
    producer.send(topic_of(settings.topic_prefix, SKUS.name), [b"{}"], [b'{"after":{}}'])
    producer.flush()
    producer.close()
    with pytest.raises(subprocess.CalledProcessError):
        run_peer("faust", settings, tmp_path / "out")
