"""The life of a worker process: topics, engine, Faust app, signals, and one clear end."""

import asyncio
import atexit
import faulthandler
import logging
import os
import signal
import ssl
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NoReturn

import structlog
from rich.console import Console

from app.broker_watch import LOOK_S, BrokerWatch, Place
from app.catch_up import catch_up
from app.cloudwatch import CloudWatchMetrics
from app.faults import known_fault
from app.lake_watch import LakeWatch
from app.logs import configure_logging
from app.membership import EngineMembership
from app.memory import MemoryPlan
from app.pages_file import PagesFile
from app.probes import LagHistory, Limits, Store
from app.scheduled_check import ScheduledCheck
from app.scheduled_upkeep import ScheduledUpkeep, UpkeepState
from app.settings import Settings
from app.start_up import StartUp, StoppedEarlyError
from app.streaming import StreamingApp, build_app
from app.unwaited_threads import UnwaitedThreads
from app.wiring import kafka_config
from app.worker_state import WorkerState
from connectors.aiokafka_tokens import TokenProvider
from connectors.faust_transport import BatchConsumer, ConsumerOptions, as_trs_error
from connectors.hosts import all_unknown, host_of
from connectors.kafka import KafkaConfig, ensure_topics, topic_ids
from connectors.object_files import read_error
from processors.errors import InvariantError, SettingsError, TrsError
from processors.ports import Engine
from processors.tables import DERIVED_TOPICS, all_topics, topic_of

log = structlog.get_logger("trs.worker")

EngineFactory = Callable[[dict[str, str]], Engine]
"""Makes the engine, given the Kafka id of each topic."""

_BEAT_S = 0.5
_REPORT_S = 30.0
_GROUP_IS_SLOW_S = 4.0
"""Brokers let the first member of a group wait for 3 s already (group.initial.rebalance.delay.ms)."""
_STILL_SLOW_S = 10.0
_LOOKS_AT_LAG = 20
"""Of the lag within TRS_LAG_GROWS_S at least, so that they tell whether it grows."""
_LOADS_LONG_S = 1.0
_STILL_LOADS_S = 5.0
_STOP_S = 5.0
"""How long leaving the group may take after the engine has stopped."""
_LEAVE_S = 10.0
"""How long all the rest may take after the engine has stopped; then the process leaves without good-byes."""


def run_worker(
    settings: Settings,
    engine_factory: EngineFactory,
    *,
    until_caught_up: bool = False,
    accept_gap: bool = False,
    wait: bool = False,
    store: Store | None = None,
    plan: MemoryPlan | None = None,
) -> NoReturn:
    """Runs until a signal, a failure, or (`until_caught_up`) until everything there was is done; ends the process.

    Exit code 0 after a signal or when caught up. A failure inside is logged as one line and gives its TrsError's exit
    code; what is not a TrsError is a fault of the program: logged with its traceback, 70. `wait`: brokers, or a store,
    that do not answer at the start are waited for. `store`: what is known of the lake's object store. `plan`: how much
    may be fetched. Missing topics are made. Raises TrsError for whatever prevents the start.
    """
    configure_logging(settings)
    kafka = kafka_config(settings)
    try:
        with StartUp(settings, wait=wait, store=store) as start_up:
            ids = start_up.until_there("Kafka", lambda: _prepare_topics(settings, kafka))
            engine = start_up.until_there("the lake", lambda: engine_factory(ids))
    except StoppedEarlyError:
        _leave_at_once(0)
    flush_traces = _send_traces(settings, engine)
    worker = Worker(settings, kafka, engine, accept_gap=accept_gap, store=store, plan=plan)
    code = asyncio.run(worker.run(until_caught_up=until_caught_up))
    flush_traces()
    if worker.membership.shut_down() and worker.left_group and worker.lake.at_rest and worker.looks.come_back():
        atexit._run_exitfuncs()
    # Else the engine still loads state, the group a rebalance, or a look at the lake waits for the store, in a thread
    # that cannot be interrupted: it is not waited for. The engine has stopped and commits nothing any more. Nor is
    # Python's own end waited for: extension modules then print what they hold, in lines that are no log.
    _leave_at_once(code)


def _send_traces(settings: Settings, engine: Engine) -> Callable[[], object]:
    """Sends epochs as traces, where a setting says so; returns what sends the last ones."""
    if settings.traces is None:
        return lambda: None
    from app.traces import otlp_listener

    listener, flush = otlp_listener(settings.traces)
    for activity in engine.activities.values():
        activity.on_epoch.append(listener)
    return flush


def _prepare_topics(settings: Settings, kafka: KafkaConfig) -> dict[str, str]:
    servers = kafka.bootstrap_servers
    if all_unknown(host_of(server.strip()) for server in servers.split(",")):
        raise SettingsError(f"TRS_KAFKA: there is no host of that name: {servers}", hint="correct it")
    topics = all_topics(settings.topic_prefix)
    made = ensure_topics(kafka, topics, settings.partitions)
    if made:
        log.info("topics made", topics=list(made), partitions=settings.partitions)
    return topic_ids(kafka, topics)


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
        looks_s = min(LOOK_S, limits.lag_grows_s / _LOOKS_AT_LAG)
        self._broker = BrokerWatch(kafka, self._read_places, self._committed, history, every_s=looks_s)
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
            self._tell_waiting(),
            self._tell_loading(),
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

    def _read_places(self) -> list[Place] | None:
        """The partitions that we read; None during a rebalance."""
        buckets = self.membership.buckets
        if buckets is None:
            return None
        return [(topic, bucket) for topic in self._engine.topics for bucket in buckets - self._engine.parked]

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
                await consumer.thread.check_group()
            await asyncio.sleep(_BEAT_S)

    async def _tell_waiting(self) -> None:
        """Says why nothing happens while the group gives us no partitions: after 4 s, then every 10 s."""
        told_s = -_STILL_SLOW_S
        while True:
            await asyncio.sleep(_BEAT_S)
            since_s, now_s = self.membership.waiting_since_s, time.monotonic()
            if since_s is not None and now_s - since_s >= _GROUP_IS_SLOW_S and now_s - told_s >= _STILL_SLOW_S:
                told_s = now_s
                log.info(
                    "waiting for the consumer group: a member that died counts until its session ends, "
                    "a busy one finishes its commit",
                    group=self._settings.group,
                    seconds=round(now_s - since_s),
                    session_s=self._settings.session_timeout_s,
                )

    async def _tell_loading(self) -> None:
        """Says how far the loading of state is, of a stage that needs long: after a second, then every 5 s.

        The engine says when a stage has its state.
        """
        stage, due_s = "", 0.0
        while True:
            await asyncio.sleep(_BEAT_S)
            loading = self._engine.loading
            if loading is None:
                stage = ""
                continue
            if loading.stage != stage:
                stage, due_s = loading.stage, _LOADS_LONG_S
            if loading.seconds >= due_s:
                due_s = loading.seconds + _STILL_LOADS_S
                log.info(
                    "loading state",
                    stage=loading.stage,
                    buckets=loading.buckets,
                    folded_rows=loading.folded_rows,
                    log_rows=loading.log_rows,
                    step=loading.step,
                    done=f"{loading.share:.0%}",
                    seconds=round(loading.seconds, 1),
                )

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
        late = threading.Timer(_LEAVE_S, _leave, [code])
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
            _leave(code)

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


def _leave_at_once(code: int) -> NoReturn:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _leave(code: int) -> None:
    """Ends the process, which should have ended by itself; says what it was doing."""
    log.warning("the process does not end by itself: leaving", exit_code=code)
    faulthandler.dump_traceback(all_threads=True)
    _leave_at_once(code)


def limits_of(settings: Settings) -> Limits:
    """When the worker is in trouble, by its settings."""
    return Limits(
        stuck_epoch_s=settings.stuck_epoch_s,
        stuck_loop_s=settings.stuck_loop_s,
        rest_s=max(settings.idle_epoch_s, settings.epoch_interval_s),
        broker_lost_s=settings.broker_lost_s,
        lag_grows_s=settings.lag_grows_s,
        lag_records=settings.lag_records,
    )


def consumer_options(settings: Settings, kafka: KafkaConfig, plan: MemoryPlan) -> ConsumerOptions:
    """The consumer's side of the Kafka settings."""
    security: dict[str, Any] = {"security_protocol": kafka.protocol.upper()}
    if kafka.tokens is not None:
        security["sasl_mechanism"] = "OAUTHBEARER"
        security["sasl_oauth_token_provider"] = TokenProvider(kafka.tokens)
    elif kafka.security.startswith("sasl"):
        security["sasl_mechanism"] = kafka.sasl_mechanism
        security["sasl_plain_username"] = kafka.user
        security["sasl_plain_password"] = kafka.password
    if kafka.protocol.endswith("ssl"):
        security["ssl_context"] = ssl.create_default_context(cafile=kafka.ca_file)
    return ConsumerOptions(
        bootstrap_servers=kafka.bootstrap_servers,
        group=settings.group,
        session_timeout_s=settings.session_timeout_s,
        security=security,
        partition_bytes=plan.partition_bytes,
        fetch_bytes=plan.fetch_bytes,
    )
