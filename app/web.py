"""The worker's pages on Faust's web server: is it alive, is it ready, what does it do.

The server runs in a thread of its own, so that it can tell when the worker's event loop is stuck.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import faust
from aiohttp.web import TCPSite
from faust.web.drivers.aiohttp import Web

from app.broker_watch import BrokerWatch, Place
from app.probes import (
    EVENT_LOOP_S,
    Condition,
    LagHistory,
    Limits,
    Store,
    Trouble,
    lag_troubles,
    outside_troubles,
    stage_troubles,
)
from processors.activity import Activity
from processors.ports import LoadProgress

_PAGE = Path(__file__).with_name("worker_page.html")
LOADING = "loading state"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
"""The page is one file: a browser that is told so loads nothing else."""


@dataclass
class WorkerState:
    """What the pages may know of the worker. Written by the worker, read by the web server's thread.

    `status`, `loading` and `upkeep` are asked when a page is. `beat` is the monotonic time at which the event
    loop last turned.
    """

    group: str
    status: Callable[[], Mapping[str, object]]
    loading: Callable[[], LoadProgress | None] = lambda: None
    upkeep: Callable[[], Mapping[str, object]] = dict
    conflicts: Callable[[], Mapping[tuple[str, str], int]] = dict
    activities: Mapping[str, Activity] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    history: LagHistory = field(default_factory=lambda: LagHistory(600.0))
    broker: BrokerWatch | None = None
    store: Store | None = None
    phase: str = "starting"
    buckets: frozenset[int] | None = None
    failure: str | None = None
    beat: float = field(default_factory=time.monotonic)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))

    def troubles(self) -> list[Trouble]:
        """Why the worker is not ready, what a restart mends first; empty when it takes records and commits them."""
        found = []
        if self.failure is not None:
            found.append(Trouble(Condition.FAILURE, self.failure, live=True))
        silent_s = time.monotonic() - self.beat
        if silent_s > EVENT_LOOP_S:
            told = f"the event loop has been stuck for {silent_s:.0f} s"
            found.append(Trouble(Condition.EVENT_LOOP, told, live=True))
        loading = self.loading()
        if self.phase != "running" or self.buckets is None or loading is not None:
            found.append(Trouble(Condition.NOT_ASSIGNED, f"the worker is {self.shown_phase(loading)}"))
        elif self.activities:
            found += stage_troubles(self.activities, self.limits, broker=self.broker, store=self.store)
        found += outside_troubles(self.limits, broker=self.broker, store=self.store)
        found += lag_troubles(self.history, self.limits)
        return sorted(found, key=lambda trouble: not trouble.live)

    def shown_phase(self, loading: LoadProgress | None) -> str:
        """What the worker does, for people."""
        return self.phase if loading is None or self.phase == "stopping" else LOADING

    def alarms(self) -> list[str]:
        """What needs a person while the worker goes on."""
        stages = [stage for stage in self.status().values() if isinstance(stage, Mapping)]
        return [str(alarm) for stage in stages for alarm in stage.get("alarms", ())]

    def waiting(self) -> dict[str, int]:
        """Records that were fetched and not taken yet, by stage."""
        stages = self.status().items()
        return {name: s["waiting_records"] for name, s in stages if isinstance(s, Mapping) and "waiting_records" in s}

    def lag(self) -> dict[Place, int]:
        """Records of each partition of ours that are not committed, by the last look at Kafka."""
        return {} if self.broker is None else self.broker.lag


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
        troubles = [trouble.sentence for trouble in state.troubles() if trouble.live]
        return view.json({"healthy": not troubles, "troubles": troubles}, status=503 if troubles else 200)

    @app.page("/ready")
    async def ready(view: Any, _: Any) -> Any:
        """200 while the worker has its buckets and their state, takes records and commits them; else 503 and why."""
        troubles = state.troubles()
        answer = {
            "ready": not troubles,
            "phase": state.shown_phase(state.loading()),
            "troubles": [{"condition": t.condition, "sentence": t.sentence} for t in troubles],
        }
        return view.json(answer, status=503 if troubles else 200)

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
