"""The worker's pages on Faust's web server: is it alive, is it ready, what does it do.

The server runs in a thread of its own, so that it can tell when the worker's event loop is stuck.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import faust
from aiohttp.web import TCPSite
from faust.web.drivers.aiohttp import Web

from processors.ports import LoadProgress

_PAGE = Path(__file__).with_name("worker_page.html")
LOADING = "loading state"
_STUCK_S = 15.0
"""An event loop that has not turned for so long misses heartbeats: report it."""


@dataclass
class WorkerState:
    """What the pages may know of the worker. Written by the worker, read by the web server's thread.

    `status`, `loading` and `upkeep` are asked when a page is. `beat` is the monotonic time at which the event loop last
    turned.
    """

    group: str
    status: Callable[[], Mapping[str, object]]
    loading: Callable[[], LoadProgress | None] = lambda: None
    upkeep: Callable[[], Mapping[str, object]] = dict
    phase: str = "starting"
    buckets: frozenset[int] | None = None
    failure: str | None = None
    beat: float = field(default_factory=time.monotonic)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))

    def troubles(self) -> list[str]:
        """Why the worker is not healthy, as sentences; empty when it is."""
        troubles = []
        if self.failure is not None:
            troubles.append(self.failure)
        silent_s = time.monotonic() - self.beat
        if silent_s > _STUCK_S:
            troubles.append(f"the event loop has been stuck for {silent_s:.0f} s")
        return troubles

    def ready(self) -> bool:
        """Whether the worker has its buckets, with their state, and takes records."""
        return self.phase == "running" and self.buckets is not None and self.loading() is None

    def shown_phase(self, loading: LoadProgress | None) -> str:
        """What the worker does, for people."""
        return self.phase if loading is None or self.phase == "stopping" else LOADING

    def as_json(self) -> dict[str, object]:
        """Everything, for the status page."""
        loading, engine = self.loading(), self.status()
        stages = [stage for stage in engine.values() if isinstance(stage, Mapping)]
        return {
            "phase": self.shown_phase(loading),
            "loading": None if loading is None else asdict(loading),
            "group": self.group,
            "pid": os.getpid(),
            "started": self.started.isoformat(timespec="seconds"),
            "buckets": None if self.buckets is None else sorted(self.buckets),
            "troubles": self.troubles(),
            "alarms": [alarm for stage in stages for alarm in stage.get("alarms", ())],
            "upkeep": self.upkeep(),
            "engine": engine,
        }


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
    """Registers `/`, `/health`, `/ready` and `/status.json`."""

    @app.page("/health")
    async def health(view: Any, _: Any) -> Any:
        """200 while all is well, 503 with the reasons otherwise: restart the worker then."""
        troubles = state.troubles()
        return view.json({"healthy": not troubles, "troubles": troubles}, status=503 if troubles else 200)

    @app.page("/ready")
    async def ready(view: Any, _: Any) -> Any:
        """200 once the worker has its buckets and their state, 503 before that and during a rebalance."""
        ready = state.ready()
        phase = state.shown_phase(state.loading())
        return view.json({"ready": ready, "phase": phase}, status=200 if ready else 503)

    @app.page("/status.json")
    async def status(view: Any, _: Any) -> Any:
        """All that the worker knows about itself."""
        return view.text(json.dumps(state.as_json(), default=str), content_type="application/json")

    @app.page("/")
    async def index(view: Any, _: Any) -> Any:
        """The same for people."""
        return view.html(_PAGE.read_text(encoding="utf-8"))
