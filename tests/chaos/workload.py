"""The source keeps changing, and each change is sent as row events, as CDC would (`trs simulate --emit`)."""

import threading
import time

from app.settings import Settings
from app.wiring import kafka_config
from batch_bootstrap.changes import TrsChanges
from batch_bootstrap.emit import Touched, emit_rows
from connectors.kafka import Producer
from connectors.mysql import connect
from connectors.mysql_source import MySqlSource
from processors.errors import UnavailableError
from processors.tables import TABLES

_EMIT_EVERY_S = 0.2


class LastingSkus(TrsChanges):
    """Changes that leave every SKU in place: of a removed one the source forgets the price, the lake does not."""

    def remove_sku(self) -> list[Touched]:
        return []


class Workload:
    """Random changes in a thread, `rate` per second. Rows that the broker did not acknowledge are sent again."""

    def __init__(self, settings: Settings, *, seed: int, rate: float, changes: type[TrsChanges] = TrsChanges) -> None:
        assert settings.database is not None
        self._settings = settings
        self._source = MySqlSource(settings.database.get_secret_value(), TABLES, chunk_rows=1)
        self._source.preflight()
        self._connection = connect(self._source.url, autocommit=False)
        self._trs = changes(self._connection, self._source, seed)
        self._rate = rate
        self._stop = threading.Event()
        self._pending: list[Touched] = []
        self._producer: Producer | None = None
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="workload", daemon=True)
        self.changes = 0
        self.emitted = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns once everything that changed is sent and acknowledged. Raises what went wrong."""
        self._stop.set()
        self._thread.join()
        self._connection.close()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            begin = sent_at = time.monotonic()
            while not self._stop.is_set():
                if time.monotonic() - sent_at >= _EMIT_EVERY_S:
                    self._send()
                    sent_at = time.monotonic()
                if self._stop.wait(max(0.0, begin + self.changes / self._rate - time.monotonic())):
                    break
                self._pending += self._trs.next_change()
                self.changes += 1
            while self._pending:
                self._send()
        except Exception as error:  # noqa: BLE001 - handed over whole to `stop`
            self._failure = error
        finally:
            if self._producer is not None:
                self._producer.close()

    def _send(self) -> None:
        if not self._pending:
            return
        try:
            if self._producer is None:
                self._producer = Producer(kafka_config(self._settings))
            self.emitted += emit_rows(
                self._pending,
                self._source,
                self._connection,
                self._producer,
                topic_prefix=self._settings.topic_prefix,
                source_name=self._settings.source_names[-1],
            )
            self._pending.clear()
        except UnavailableError:
            if self._producer is not None:
                self._producer.close()
            self._producer = None
            time.sleep(_EMIT_EVERY_S)
