"""One worker in one event loop: engine, Faust app, consumer group, duties beside them, signals, and one clear end."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Awaitable, Coroutine
from typing import Any

import structlog
from rich.console import Console

from app.broker_watch import BrokerWatch, Place
from app.catch_up import catch_up
from app.cloudwatch import CloudWatchMetrics
from app.faults import known_fault
from app.lake_watch import LakeWatch
from app.leave import leave_late
from app.membership import EngineMembership
from app.memory import MemoryPlan
from app.pages_file import PagesFile
from app.probes import LagHistory, Store
from app.progress_log import tell_loading, tell_waiting
from app.scheduled_check import ScheduledCheck
from app.scheduled_upkeep import ScheduledUpkeep, UpkeepState
from app.settings import Settings
from app.streaming import StreamingApp, build_app
from app.unwaited_threads import UnwaitedThreads
from app.wiring import consumer_options, limits_of
from app.worker_state import WorkerState
from connectors.faust_transport import BatchConsumer, as_trs_error
from connectors.kafka import KafkaConfig
from connectors.object_files import read_error
from processors.errors import InvariantError, TrsError
from processors.ports import Engine
from processors.tables import DERIVED_TOPICS, topic_of

log = structlog.get_logger("trs.worker")

_BEAT_S = 0.5
_REPORT_S = 30.0
_STOP_S = 5.0
"""How long leaving the group may take after the engine has stopped."""
_LEAVE_S = 10.0
"""How long all the rest may take after the engine has stopped; then the process leaves without good-byes."""


class Worker:
    """One worker in one event loop. `run` may be called once."""

    def __init__(
        self,
        settings: Settings,
        kafka: KafkaConfig,
        engine: Engine,
        *,
        accept_gap: bool,
        store: Store | None = None,
        plan: MemoryPlan | None = None,
    ) -> None:
        self._settings = settings
        self._plan = plan or MemoryPlan(settings.memory_mb, settings.epoch_max_events)
        self._kafka = kafka
        self._engine = engine
        self.membership = EngineMembership(engine, kafka, accept_gap=accept_gap, on_failure=self._fail)
        self.left_group = True
        self.looks = UnwaitedThreads("look")
        self._upkeep = UpkeepState()
        limits = limits_of(settings)
        history = LagHistory(limits.lag_grows_s)
        every_s = limits.broker_look_s
        self._broker = BrokerWatch(kafka, lambda: self.membership.places, self._committed, history, every_s=every_s)
        self.lake = LakeWatch(settings, owns=self._leads)
        self._state = WorkerState(
            settings.group,
            engine.status,
            lambda: engine.loading,
            upkeep=self._upkeep.as_json,
            conflicts=lambda: engine.conflicts,
            activities=engine.activities,
            limits=limits,
            history=history,
            broker=self._broker,
            store=store,
            lake=self.lake,
            memory=lambda: engine.memory,
        )
        self._pages_file = PagesFile(settings.home)

    async def run(self, *, until_caught_up: bool) -> int:
        """Returns the exit code; see `run_worker`."""
        loop = asyncio.get_running_loop()
        loop.set_default_executor(self.looks)
        self._ended: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._started = asyncio.Event()
        self._install_signals()
        app = build_app(
            self._settings,
            self._engine,
            consumer_options(self._settings, self._kafka, self._plan),
            self.membership,
            self._state,
            self._on_listening,
        )
        self._engine.failure.add_done_callback(self._on_engine_done)
        await asyncio.to_thread(self._engine.start)
        self._broker.start()
        # Faust's start returns only after the first assignment, and every one of these may be what ends the worker.
        duties: list[Coroutine[Any, Any, None]] = [
            self._start(app),
            self._watch_crash(app),
            self._beat(app),
            tell_waiting(self._settings, self.membership),
            tell_loading(self._engine),
            self._report_positions(app),
        ]
        if until_caught_up:
            duties.append(self._until_caught_up())
        else:
            self.lake.start()
            if self._settings.cloudwatch_metrics:
                duties.append(CloudWatchMetrics(self._state).run())
            if self._settings.reconcile_every is not None:
                check = ScheduledCheck(self._settings, self._settings.reconcile_every, self._leads)
                duties.append(check.run())
            if self._settings.upkeep_budget_percent > 0:
                upkeep = ScheduledUpkeep(self._settings, self._upkeep, owns=self._leads, idle=self._rests)
                duties.append(upkeep.run())
        tasks = [loop.create_task(self._guard(duty)) for duty in duties]
        try:
            await self._ended
            code = 0
        except Exception as error:  # noqa: BLE001 - every end comes through here: this is where it becomes an exit code
            code = self._report(error)
        await self._stop(app, tasks, code)
        return code

    def _committed(self) -> dict[Place, int]:
        looks = [activity.look(0) for activity in self._engine.activities.values()]
        return {place: offset for look in looks for place, offset in look.positions.items()}

    def _leads(self) -> bool:
        return 0 in (self.membership.buckets or ())

    def _rests(self) -> bool:
        """Whether nothing waits that was fetched, and no state is loaded."""
        return self._engine.loading is None and not any(self._state.waiting().values())

    def _install_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal, number)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._ended.done() and number == signal.SIGINT:
            os._exit(130)
        log.info("stopping", signal=number.name)
        self._end()

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def _fail(self, error: BaseException) -> None:
        """Ends the worker with this error; from the loop's own thread."""
        if not self._ended.done():
            self._ended.set_exception(read_error(error) or as_trs_error(error))

    def _on_engine_done(self, failure: Any) -> None:
        error = None if failure.cancelled() else failure.exception()
        if error is not None:
            self._loop.call_soon_threadsafe(self._fail, error)

    async def _guard(self, duty: Awaitable[None]) -> None:
        try:
            await duty
        except Exception as error:  # noqa: BLE001 - handed on whole: a duty that fails ends the worker
            self._fail(error)

    async def _start(self, app: StreamingApp) -> None:
        await app.start()
        self._started.set()
        if not self._ended.done():
            log.info("ready", buckets=sorted(self.membership.buckets or ()))

    async def _watch_crash(self, app: StreamingApp) -> None:
        await app._crashed.wait()
        self._fail(app.crash_reason or InvariantError("Faust stopped without saying why"))

    async def _beat(self, app: StreamingApp) -> None:
        while True:
            self._state.beat = time.monotonic()
            self._state.buckets = self.membership.buckets
            self._state.phase = "rebalancing" if self.membership.buckets is None else "running"
            consumer = app.consumer
            assert isinstance(consumer, BatchConsumer)
            if consumer.started:
                await consumer.thread.check_client()
            await asyncio.sleep(_BEAT_S)

    async def _report_positions(self, app: StreamingApp) -> None:
        """Tells the consumer group what the lake holds: for lag tools, nobody else reads it (R9)."""
        while True:
            await asyncio.sleep(_REPORT_S)
            progress = await asyncio.to_thread(self._engine.progress)
            consumer = app.consumer
            assert isinstance(consumer, BatchConsumer)
            if consumer.delivering:
                await consumer.thread.commit_positions(progress.positions)

    async def _until_caught_up(self) -> None:
        # It waits until we joined: who leaves before stays a member for the brokers, a ghost that others wait for.
        derived = tuple(topic_of(self._settings.topic_prefix, name) for name in DERIVED_TOPICS)
        done = await catch_up(self._engine, self._kafka, derived, fetching=self._started)
        Console(stderr=True, soft_wrap=True).print(str(done), highlight=False)
        self._end()

    def _on_listening(self, host: str, port: int) -> None:
        """From the web server's thread: says where the pages are, for people and for tools."""
        log.info("pages", url=f"http://{host}:{port}/")
        try:
            self._pages_file.write(host, port)
        except OSError as error:  # raised here it would only end the web server's thread, loudly
            self._loop.call_soon_threadsafe(self._fail, error)

    def _report(self, error: Exception) -> int:
        told = error if isinstance(error, TrsError) else known_fault(error)
        if told is not None and not isinstance(told, InvariantError):
            log.error(str(told))
            self._state.failure = str(told)
            return told.exit_code
        log.error("a fault of the program", exc_info=error)
        self._state.failure = f"a fault of the program: {error}"
        return InvariantError.exit_code

    async def _stop(self, app: StreamingApp, tasks: list[asyncio.Task[None]], code: int) -> None:
        """Stop fetching, let the engine finish its commit, leave the group; not waiting for ever for the last."""
        began = time.monotonic()
        self._state.phase = "stopping"
        self._broker.stop()
        self.lake.stop()
        self.membership.stopping = True
        consumer = app.consumer
        assert isinstance(consumer, BatchConsumer)
        consumer.halt()
        for task in tasks[1:]:
            task.cancel()
        ended = await self._stop_engine()
        # A start or stop of Faust that ignores being cancelled, or a thread of a library, would keep the process.
        late = threading.Timer(_LEAVE_S, leave_late, [code])
        late.daemon = True
        late.start()
        consumer.thread.leave()
        left = self._loop.create_task(app.stop())
        await asyncio.wait({left}, timeout=_STOP_S)
        if not left.done():
            self.left_group = False
            log.warning("leaving the group takes too long: the brokers will notice by the session time-out")
        for task in (*tasks, left):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._pages_file.remove()
        log.info("stopped", seconds=round(time.monotonic() - began, 3))
        if not ended:
            leave_late(code)

    async def _stop_engine(self) -> bool:
        """Whether the engine ended in time. One that did not waits for Kafka or the store: what it has not committed
        is read and derived again by the next worker, as after a crash."""
        stopping = self._loop.create_task(asyncio.to_thread(self._engine.stop))
        done, _ = await asyncio.wait({stopping}, timeout=self._settings.stop_timeout_s)
        if not done:
            log.warning(
                "the engine does not end: its commit, or its documents, wait for an answer; the next worker goes on"
                " from what is committed",
                seconds=self._settings.stop_timeout_s,
            )
            return False
        try:
            stopping.result()
        except TrsError as error:
            log.error("the engine did not stop cleanly", reason=str(error))
        return True
