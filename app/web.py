"""The worker's pages on Faust's web server: is it alive, is it ready, what does it do.

The server runs in a thread of its own, so that it can tell when the worker's event loop is stuck.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import faust
from aiohttp.web import TCPSite
from faust.web.drivers.aiohttp import Web

from app.worker_state import WorkerState

_PAGE = Path(__file__).with_name("worker_page.html")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
"""The page is one file: a browser that is told so loads nothing else."""


def health_answer(state: WorkerState) -> tuple[int, dict[str, object]]:
    """What /health says, with its status."""
    troubles = [trouble.sentence for trouble in state.troubles() if trouble.live]
    return 503 if troubles else 200, {"healthy": not troubles, "troubles": troubles}


def ready_answer(state: WorkerState) -> tuple[int, dict[str, object]]:
    """What /ready says, with its status."""
    troubles = state.troubles()
    answer = {
        "ready": not troubles,
        "phase": state.shown_phase(state.loading()),
        "troubles": [{"condition": t.condition, "sentence": t.sentence} for t in troubles],
    }
    return 503 if troubles else 200, answer


class Pages(Web):
    """Faust's web server with our pages only; `on_listening` is told host and port once it listens."""

    default_blueprints: ClassVar[list[Any]] = []
    production_blueprints: ClassVar[list[Any]] = []
    debug_blueprints: ClassVar[list[Any]] = []
    optional_blueprints: ClassVar[list[Any]] = []
    host: str
    port: int
    """0: a free one. Faust's own setting does not take that."""
    on_listening: Callable[[str, int], None]

    def _new_transport_tcp(self) -> TCPSite:
        return TCPSite(self._runner, self.host, self.port)

    async def start_server(self) -> None:
        await super().start_server()
        host, port = self._runner.addresses[0][:2]
        self.on_listening(host, port)


def add_pages(app: faust.App, state: WorkerState) -> None:
    """Registers `/`, `/health`, `/ready`, `/metrics` and `/status.json`."""
    from app.metrics import CONTENT_TYPE, Metrics
    from app.status_json import worker_json
    from trs import __version__

    metrics = Metrics(state, version=__version__)
    for activity in state.activities.values():
        activity.on_epoch.append(metrics.note)

    @app.page("/health")
    async def health(view: Any, _: Any) -> Any:
        """200 while all is well, 503 with the reasons otherwise: restart the worker then."""
        status, answer = health_answer(state)
        return view.json(answer, status=status)

    @app.page("/ready")
    async def ready(view: Any, _: Any) -> Any:
        """200 while the worker has its buckets and their state, takes records and commits them; else 503 and why."""
        status, answer = ready_answer(state)
        return view.json(answer, status=status)

    @app.page("/metrics")
    async def show_metrics(view: Any, _: Any) -> Any:
        """For Prometheus."""
        return view.bytes(metrics.text(), content_type=CONTENT_TYPE.partition(";")[0])

    @app.page("/status.json")
    async def status(view: Any, _: Any) -> Any:
        """All that the worker knows about itself."""
        return view.text(json.dumps(worker_json(state), default=str), content_type="application/json")

    @app.page("/")
    async def index(view: Any, _: Any) -> Any:
        """The same for people."""
        headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"}
        return view.html(_PAGE.read_text(encoding="utf-8"), headers=headers)
