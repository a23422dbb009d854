"""The process of a worker: topics, engine, the worker itself, and how the process ends."""

import asyncio
import atexit
from collections.abc import Callable
from typing import NoReturn

import structlog

from app.leave import leave_at_once
from app.logs import configure_logging
from app.memory import MemoryPlan
from app.probes import Store
from app.settings import Settings
from app.start_up import StartUp, StoppedEarlyError
from app.wiring import kafka_config
from app.worker import Worker
from connectors.hosts import all_unknown, host_of
from connectors.kafka import KafkaConfig, ensure_topics, topic_ids
from processors.errors import SettingsError
from processors.ports import Engine
from processors.tables import all_topics

log = structlog.get_logger("trs.worker")

EngineFactory = Callable[[dict[str, str]], Engine]
"""Makes the engine, given the Kafka id of each topic."""


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
        leave_at_once(0)
    flush_traces = _send_traces(settings, engine)
    worker = Worker(settings, kafka, engine, accept_gap=accept_gap, store=store, plan=plan)
    code = asyncio.run(worker.run(until_caught_up=until_caught_up))
    flush_traces()
    if worker.membership.shut_down() and worker.left_group and worker.lake.at_rest and worker.looks.come_back():
        atexit._run_exitfuncs()
    # Else the engine still loads state, the group a rebalance, or a look at the lake waits for the store, in a thread
    # that cannot be interrupted: it is not waited for. The engine has stopped and commits nothing any more. Nor is
    # Python's own end waited for: extension modules then print what they hold, in lines that are no log.
    leave_at_once(code)


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
