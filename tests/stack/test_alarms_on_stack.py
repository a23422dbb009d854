"""Conditions of alarms, made to happen to a real worker; seen by its probes, in its metrics, on its page in a browser.

A proxy in front of the store makes it slow, or lets it be away.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families
from selenium import webdriver
from selenium.webdriver.common.by import By

from app.settings import Settings
from app.wiring import kafka_config, lake_location
from connectors.kafka import Producer, ensure_topics
from connectors.mysql import DatabaseUrl, connect, ddl, execute
from connectors.table_folder import TableFolder
from devstack.fault_proxy import Fault, FaultProxy, Weather
from processors.errors import DifferencesError, FencedError, QualityError, RetryableError
from processors.tables import TABLES, all_topics, topic_of
from tests.app.commands import Answer, trs
from tests.stack_helpers import environment as process_environment
from tests.stack_helpers import get, pages_of, start_worker
from tests.waiting import wait_until

_SLOW = Weather((Fault.SLOW,), rate=1.0, wait_s=0.2)
_AWAY = Weather((Fault.SLOW,), rate=1.0, wait_s=5.0)
"""No answer for longer than who watches the store waits, though a commit gets its answer in the end."""
_FAILS = """
[[check]]
name = "invoices.never"
kind = "range"
table = "invoices"
column = "account_id"
most = 6
says = "there is no seventh account"
"""


@pytest.fixture
def proxy(stack_settings: Settings) -> Iterator[FaultProxy]:
    """In front of the store."""
    port = urlsplit(str(stack_settings.aws_endpoint)).port
    assert port is not None
    proxy = FaultProxy(upstream_port=port, seed=1)
    proxy.start()
    yield proxy
    proxy.stop()


@pytest.fixture
def settings(stack_settings: Settings, proxy: FaultProxy) -> Settings:
    """Small limits, the store behind the proxy, no upkeep but by hand; the source has no rows."""
    limits = {"epoch_max_events": 100, "idle_epoch_s": 1.0, "lag_grows_s": 4.0, "lag_records": 100, "lake_look_s": 1.0}
    own = stack_settings.model_copy(
        update={"aws_endpoint": proxy.url, "partitions": 1, "upkeep_budget_percent": 0, **limits}
    )
    ensure_topics(kafka_config(own), all_topics(own.topic_prefix), own.partitions)
    assert own.database is not None
    with connect(DatabaseUrl.parse(own.database.get_secret_value())) as connection:
        for table in TABLES:
            execute(connection, ddl(table))
    return own


def command(settings: Settings, *arguments: str, **environment: str) -> Answer:
    """The command in this process, with these settings."""
    own = {name: value for name, value in process_environment(settings).items() if name.startswith("TRS_")}
    return trs(*arguments, **(own | environment))


@contextmanager
def lost_file(settings: Settings, table: str) -> Iterator[None]:
    """A data file of the table is away, and comes back at the end."""
    folder = TableFolder(lake_location(settings), table)
    path = next(path for path in folder.sizes() if path.startswith("known_date="))
    content = folder.read(path)
    assert content is not None
    folder.delete([path])
    yield
    folder.write(path, content)


@dataclass
class Seen:
    """What a worker shows of itself."""

    root: str
    browser: webdriver.Chrome

    def value(self, name: str, **labels: str) -> float | None:
        """One number of /metrics."""
        families = text_string_to_metric_families(get(f"{self.root}/metrics")[1])
        return next((s.value for f in families for s in f.samples if s.name == name and s.labels == labels), None)

    def process(self) -> str:
        """What tells it from others, its successors among them."""
        return next(line for line in get(f"{self.root}/metrics")[1].splitlines() if line.startswith("trs_worker_info{"))

    def ready(self) -> bool:
        return get(f"{self.root}/ready")[0] == 200

    def page(self, text: str) -> None:
        """Returns once the page says so, without a reload."""
        main = self.browser.find_element(By.TAG_NAME, "main")
        wait_until(lambda: text in main.text, timeout_s=20, what=f"the page says {text!r}")

    def trouble(self, condition: str, sentence: str, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Returns once the condition is seen everywhere, as one that no restart mends."""

        def told(path: str, text: str) -> None:
            def holds() -> bool:
                meanwhile()
                return text in get(f"{self.root}{path}")[1]

            wait_until(holds, timeout_s=60, what=f"{path} says {text}")

        told("/ready", condition)
        told("/metrics", f'trs_trouble{{condition="{condition}"}} 1.0')
        told("/metrics", "trs_ready 0.0")
        told("/status.json", f'"{condition}"')
        self.page(sentence)
        assert get(f"{self.root}/health")[0] == 200


class Rows:
    """Sends invoices, ever new ones."""

    def __init__(self, settings: Settings) -> None:
        self._topic = topic_of(settings.topic_prefix, "invoices")
        self._producer = Producer(kafka_config(settings))
        self._sent = 0

    def send(self, count: int, *, source: str = "aurora", dropped: str = "") -> None:
        """So many rows at once; `source`: the server that they are said to come from, `dropped`: a column it lacks."""
        numbers = range(self._sent, self._sent + count)
        self._sent += count
        keys = [json.dumps({"invoice_id": number}).encode() for number in numbers]
        self._producer.send(self._topic, keys, [self._event(number, source, dropped) for number in numbers])
        self._producer.flush()

    def close(self) -> None:
        self._producer.close()

    @staticmethod
    def _event(number: int, source: str, dropped: str) -> bytes:
        row = {"invoice_id": number, "account_id": 7, "date_issued": 18010, "payment_dates": None}
        row.pop(dropped, None)
        place = {"name": source, "table": "invoices", "file": "binlog.000001", "pos": number, "row": 0, "ts_ms": 1}
        return json.dumps({"before": None, "after": row, "op": "c", "ts_ms": 1, "source": place}).encode()


def see_what_commands_find(seen: Seen, settings: Settings, folder: Path) -> None:
    """A check fails, rows differ from the source, upkeep fails: found by the commands, told by the worker."""
    checks = folder / "checks.toml"
    checks.write_text(_FAILS)
    judged = command(settings, "lake", "check", "invoices.never", TRS_QUALITY_CHECKS=str(checks))
    assert judged.code == QualityError.exit_code, judged.err
    wait_until(lambda: seen.value("trs_quality_checks_failed") == 1, timeout_s=30, what="the failed check counts")
    seen.page("invoices.never failed")

    compared = command(settings, "reconcile", "--tables", "invoices", "--settle", "0")
    assert compared.code == DifferencesError.exit_code, compared.err
    wait_until(
        lambda: seen.value("trs_reconciliation_differing_rows", table="invoices") == 3,
        timeout_s=30,
        what="rows that the source does not have count",
    )
    seen.page("3 rows of invoices differ")

    with lost_file(settings, "invoice_log"):
        tended = command(settings, "lake", "maintain", "--only", "fold", TRS_FOLD_MIN_ROWS="1")
    assert tended.code == RetryableError.exit_code, tended.err
    wait_until(lambda: seen.value("trs_upkeep_failed") == 1, timeout_s=30, what="the failed fold counts")
    seen.page("fold of invoice_log_folded failed")


def test_each_condition_is_seen_in_probes_metrics_and_page_while_it_lasts(
    settings: Settings, proxy: FaultProxy, browser: webdriver.Chrome, tmp_path: Path
) -> None:
    log, rows = tmp_path / "worker.log", Rows(settings)
    worker = start_worker(settings, log)
    others = []
    try:
        seen = Seen(pages_of(settings, worker, log), browser)
        assert "not_assigned" in get(f"{seen.root}/ready")[1]
        assert seen.value("trs_ready") == 0
        browser.get(f"{seen.root}/")
        wait_until(seen.ready, timeout_s=60, what="the worker is ready")

        rows.send(3)
        wait_until(
            lambda: (seen.value("trs_fold_debt_rows", table="invoice_log_folded") or 0) >= 3,
            timeout_s=30,
            what="the rows are said to wait for a fold",
        )
        seen.page("rows wait")
        assert seen.value("trs_alarms") == 0
        rows.send(2, source="elsewhere")
        wait_until(lambda: seen.value("trs_alarms") == 1, timeout_s=30, what="a source that is not declared alarms")
        assert seen.value("trs_dead_letters_total", stage="invoices", reason="unknown_source") == 2
        assert seen.ready(), "all else goes on"
        seen.page("2 records wait in the dead letters")
        seen.page("refused: unknown_source")
        rows.send(1, dropped="date_issued")
        wait_until(lambda: seen.value("trs_alarms") == 2, timeout_s=30, what="a column that is gone alarms")
        assert seen.value("trs_dead_letters_total", stage="invoices", reason="missing_column") == 1
        seen.page("1 record waits in the dead letters")

        see_what_commands_find(seen, settings, tmp_path)

        proxy.set(_SLOW)
        seen.trouble("lag_grows", "the lag grows", meanwhile=lambda: rows.send(20))
        proxy.clear()

        proxy.set(_AWAY)
        seen.trouble("store_away", "has not answered for")
        wait_until(
            lambda: (seen.value("trs_freshness_seconds", stage="invoices") or 0) > 5,
            timeout_s=30,
            what="the metrics say that the lake is not fresh",
        )
        proxy.clear()
        wait_until(seen.ready, timeout_s=120, what="the worker goes on by itself")
        wait_until(
            lambda: (seen.value("trs_freshness_seconds", stage="invoices") or 9) < 5, timeout_s=60, what="it is fresh"
        )

        first = seen.process()
        own = settings.model_copy(update={"group": f"{settings.group}-2", "home": tmp_path / "home-2"})
        others.append(start_worker(own, tmp_path / "other.log"))
        other = Seen(pages_of(own, others[0], tmp_path / "other.log"), browser)
        assert other.process() != first
        assert worker.wait(60) == FencedError.exit_code
        assert "another worker committed" in log.read_text()
        with pytest.raises(URLError):
            get(f"{seen.root}/metrics")
        seen.page("The worker does not answer")
    finally:
        rows.close()
        for process in (worker, *others):
            process.kill()
            process.wait()
