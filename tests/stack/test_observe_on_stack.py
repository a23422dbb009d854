"""A worker in real trouble, seen in its metrics, by its probes, and on its page in a real browser."""

import json
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer
from selenium import webdriver
from selenium.webdriver.common.by import By

from app.settings import Settings
from app.wiring import kafka_config
from connectors.kafka_topics import TopicEnds
from devstack import ports, processes
from devstack.kafka import Kafka
from devstack.stack import start_part
from tests.stack_helpers import get, pages_of, start_worker
from tests.waiting import wait_until


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Kafka]:
    """A broker of the test's own, which may be killed."""
    folder = tmp_path / "devstack"
    folder.mkdir()
    part = Kafka(folder, ports.assign(folder / "ports.json", needed=Kafka.port_names, in_use=()))
    try:
        start_part(part)
        yield part
    finally:
        processes.stop(part.record, timeout_s=part.stop_timeout_s)


@pytest.fixture
def settings(broker: Kafka, tmp_path: Path) -> Settings:
    own = {"kafka": f"127.0.0.1:{broker.port}", "home": tmp_path / "home", "lake": str(tmp_path / "lake")}
    return Settings(**own, web_port=0, partitions=2, epoch_interval_s=0.2, broker_lost_s=4.0)  # type: ignore[arg-type]


def test_dead_letter_lost_broker_and_silent_worker_are_seen_in_metrics_probes_and_page(
    settings: Settings, broker: Kafka, browser: webdriver.Chrome, tmp_path: Path
) -> None:
    log = tmp_path / "worker.log"
    worker = start_worker(settings, log)

    def shown(text: str) -> bool:
        return text in browser.find_element(By.TAG_NAME, "main").text

    try:
        root = pages_of(settings, worker, log)
        wait_until(lambda: get(f"{root}/ready")[0] == 200, timeout_s=60, what="the worker is ready")
        browser.get(f"{root}/")
        wait_until(lambda: shown("None: every record was applied."), timeout_s=20, what="the page shows a calm worker")
        assert browser.find_element(By.ID, "phase").text == "ready"
        width = browser.execute_script("return document.documentElement.scrollWidth")  # type: ignore[no-untyped-call]
        assert width <= 360, "a phone shows all of it without scrolling sideways"

        producer = Producer({"bootstrap.servers": settings.kafka})
        producer.produce("aurora.trs.accounts", b"Mrs Smith, no JSON", key=b"k", partition=0)
        assert producer.flush(20) == 0
        refused = 'trs_dead_letters_total{reason="not_json",stage="accounts"} 1.0'
        wait_until(lambda: refused in get(f"{root}/metrics")[1], timeout_s=30, what="the metrics count the dead letter")
        wait_until(lambda: shown("refused: not_json"), timeout_s=20, what="the page shows it")
        assert "Smith" not in browser.page_source + get(f"{root}/status.json")[1]

        ends = TopicEnds(kafka_config(settings), "aurora.trs.accounts")
        assert sum(ends.read().values()) == 1
        processes.stop(broker.record, timeout_s=broker.stop_timeout_s)
        wait_until(lambda: "broker_lost" in get(f"{root}/ready")[1], timeout_s=60, what="/ready tells the lost broker")
        assert get(f"{root}/ready")[0] == 503
        assert get(f"{root}/health")[0] == 200, "a restart brings no broker back"
        assert 'trs_trouble{condition="broker_lost"} 1.0' in get(f"{root}/metrics")[1]
        wait_until(lambda: shown("Kafka has not answered for"), timeout_s=20, what="the page says so without a reload")

        start_part(broker)
        wait_until(lambda: get(f"{root}/ready")[0] == 200, timeout_s=60, what="the worker is ready again by itself")
        assert sum(ends.read().values()) == 1, "a client of before the restart"

        worker.kill()
        worker.wait()
        wait_until(lambda: shown("The worker does not answer"), timeout_s=30, what="the page notices its end")
        with pytest.raises(urllib.error.URLError):  # so no sample of `trs_ready` is left
            get(f"{root}/metrics")
        sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        asked = {m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"}
        assert {url for url in asked if not url.startswith(("chrome", "data:"))} <= {
            f"{root}/",
            f"{root}/status.json",
            f"{root}/favicon.ico",
        }
    finally:
        worker.kill()
        worker.wait()
