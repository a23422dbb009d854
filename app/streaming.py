"""The Faust app of a worker: one consumer, one agent, our pages; nothing that writes to Kafka, no tables."""

import asyncio
from collections.abc import Callable
from typing import Any

import faust
from faust.app.base import BootStrategy
from mode.supervisors import CrashingSupervisor
from yarl import URL

from app.settings import Settings
from app.web import Pages, add_pages
from app.worker_state import WorkerState
from connectors.faust_transport import BatchConsumer, BatchSchema, BatchTransport, ConsumerOptions, Fetched, Membership
from processors.ports import Engine

_ROOM_POLL_S = 0.01


class _Boot(BootStrategy):
    """A worker reads with Faust; its documents go out through a producer of their own."""

    enable_kafka_producer = False


class StreamingApp(faust.App):
    """A Faust app without folders and without Faust's pages."""

    BootStrategy = _Boot
    settings: Settings
    on_listening: Callable[[str, int], None]

    def _create_directories(self) -> None:
        """Nothing of ours is kept in files of Faust's."""

    def _new_web(self) -> Pages:
        pages = Pages(self)
        pages.host, pages.port = self.settings.web_host, self.settings.web_port
        pages.on_listening = self.on_listening
        return pages


def build_app(
    settings: Settings,
    engine: Engine,
    options: ConsumerOptions,
    membership: Membership,
    state: WorkerState,
    on_listening: Callable[[str, int], None],
) -> StreamingApp:
    """The app, ready to be started in the running event loop."""
    url = URL("kafka://")
    app = StreamingApp(
        settings.group,
        broker=[url],
        topic_allow_declare=False,
        topic_disable_leader=True,
        reply_create_topic=False,
        stream_wait_empty=False,
        stream_buffer_maxsize=64,
        # Faust gives a seek this long in all, our loading of state included.
        broker_request_timeout=3600.0,
        broker_session_timeout=settings.session_timeout_s,
        agent_supervisor=CrashingSupervisor,
        web_enabled=True,
        web_in_thread=True,
    )
    app.settings = settings
    app.on_listening = on_listening
    app.transport = BatchTransport([url], app, options, membership)
    add_pages(app, state)

    @app.agent(app.topic(*engine.topics, schema=BatchSchema(), acks=False), name="offer_batches")
    async def offer_batches(batches: Any) -> None:
        """Hands each batch to the engine, when it has room, unless a rebalance made the batch void."""
        consumer = app.consumer
        assert isinstance(consumer, BatchConsumer)
        fetched: Fetched
        async for fetched in batches:
            while consumer.current(fetched) and not membership.has_room():
                await asyncio.sleep(_ROOM_POLL_S)
            if consumer.current(fetched):
                engine.offer(fetched.batch)

    @app.on_rebalance_complete.connect
    async def take_over(sender: Any, /, *_: Any, **__: Any) -> None:
        consumer = app.consumer
        assert isinstance(consumer, BatchConsumer)
        await consumer.take_over()

    return app
