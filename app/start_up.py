"""Before a worker can work: it waits for Kafka and for the lake's store, says so, and can be stopped meanwhile.

What waiting cannot mend (a refusal, an unknown host, a bucket that does not exist) ends the worker instead. While it
waits, pages of its own answer on the worker's address; Faust's take their place once there is an engine.
"""

import json
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

import structlog

from app.pages_file import PagesFile
from app.probes import Store
from app.settings import Settings
from app.status_json import worker_json
from app.web import health_answer, ready_answer
from app.worker_state import WorkerState
from processors.errors import UnavailableError

T = TypeVar("T")
log = structlog.get_logger("trs.worker")
_AGAIN_S = 3.0
_POLL_S = 0.2


class StoppedEarlyError(Exception):
    """A signal came before the worker began. Nothing was read and nothing is to be finished."""


class StartUp:
    """Its context takes SIGTERM and SIGINT, and has pages as soon as something is waited for.

    Leaving it raises StoppedEarlyError after a signal: none is lost.
    """

    def __init__(self, settings: Settings, *, wait: bool, store: Store | None) -> None:
        self._settings = settings
        self._wait = wait
        self._stopped = threading.Event()
        self._state = WorkerState(settings.group, dict, store=store)
        self._pages: ThreadingHTTPServer | None = None
        self._file = PagesFile(settings.home)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="start-up")
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._handlers = {n: signal.signal(n, self._on_signal) for n in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=False)
        if self._pages is not None:
            self._pages.shutdown()
            self._pages.server_close()
            self._file.remove()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if kind is None and self._stopped.is_set():  # it came beside the last answer
            raise StoppedEarlyError

    def until_there(self, what: str, attempt: Callable[[], T]) -> T:
        """The attempt's answer, tried again while it raises UnavailableError and the worker may wait.

        Raises whatever else it raises, and StoppedEarlyError after a signal, even amid an attempt.
        """
        waited = False
        while True:
            try:
                answer = self._try(attempt)
            except UnavailableError as error:
                if not self._wait:
                    raise
                self._tell(what, error)
                waited = True
                if self._stopped.wait(_AGAIN_S):
                    raise StoppedEarlyError from None
                continue
            if waited:
                log.info(f"{what} answers")
            return answer

    def _try(self, attempt: Callable[[], T]) -> T:
        """In a thread: what a library does not let go of must not keep a signal waiting."""
        future = self._pool.submit(attempt)
        while not future.done():
            if self._stopped.is_set():
                raise StoppedEarlyError
            wait({future}, timeout=_POLL_S)
            self._state.beat = time.monotonic()
        return future.result()

    def _tell(self, what: str, error: UnavailableError) -> None:
        log.warning(f"waiting for {what}", reason=error.message)
        self._state.phase = f"waiting for {what} ({error.message})"
        self._state.beat = time.monotonic() + _AGAIN_S
        if self._pages is None:
            self._pages = _serve(self._settings, self._state)
            self._file.write(self._settings.web_host, self._pages.server_port)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        log.info("stopping", signal=signal.Signals(number).name)
        self._stopped.set()


def _serve(settings: Settings, state: WorkerState) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers: dict[str, Callable[[], tuple[int, object]]] = {
                "/health": lambda: health_answer(state),
                "/ready": lambda: ready_answer(state),
                "/status.json": lambda: (200, worker_json(state)),
            }
            status, body = answers.get(self.path, lambda: (404, {}))()
            data = json.dumps(body, default=str).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Probes come every few seconds."""

    server = ThreadingHTTPServer((settings.web_host, settings.web_port), Handler)
    threading.Thread(target=server.serve_forever, args=(_POLL_S,), name="start-up-pages", daemon=True).start()
    return server
