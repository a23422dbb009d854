"""Faust's Kafka transport, bent in three places: one message per fetch, positions from the lake, no commits.

Faust spends a handful of asyncio tasks on every message, so a message here is a whole `RawBatch`. Faust keeps offsets
in the consumer group; ours stand in the lake, so the consumer asks a `Membership` for them after each rebalance.

Order of a rebalance: `revoke` (nothing is delivered any more) → the group agrees → `assign` → seek → delivery. The
consumer counts rebalances; a batch carries the count under which its partition was sought, and it is delivered only
while that count stands. The first thing that a rebalance does is to count; the seek takes over, in the consumer's own
thread, the count for which `assign` answered. So a batch that waits in any queue through a rebalance, or a seek that
comes too late, is void, whatever the timing; what was void is fetched again.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiokafka
from aiokafka import TopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import (
    AuthenticationFailedError,
    ClusterAuthorizationFailedError,
    CommitFailedError,
    ConsumerStoppedError,
    GroupAuthorizationFailedError,
    KafkaError,
    OffsetOutOfRangeError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
)
from aiokafka.structs import OffsetAndMetadata
from faust import Schema
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport
from faust.types import TP, ConsumerMessage
from faust.types.tuples import Message

from connectors.faust_fetch import TakenBlocks, keep_bytes, read_taken, take_blocks
from processors.errors import AccessDeniedError, OffsetGapError, UnavailableError
from processors.records import RawBatch

PARTITION_BYTES, FETCH_BYTES = 1 << 20, 8 << 20
"""What is fetched where nobody says otherwise; see ConsumerOptions."""
_TAKE_RECORDS = 50_000
"""About so many are handed on at a time: the next are unpacked while these are decoded."""
_POLL_S = 0.01
"""How often a full engine, or a rebalance that is going on, is looked at again."""
_LITTLE_BYTES = 100_000
_GATHER_S = 0.05
"""After so little was taken the next records gather for so long: each take has a price of its own."""


_DENIED = (
    AuthenticationFailedError,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
)


def as_trs_error(error: BaseException) -> BaseException:
    """An error of aiokafka as one of ours; any other as it is."""
    if isinstance(error, _DENIED):
        return AccessDeniedError(
            f"Kafka refuses the worker: {error}", hint="check TRS_KAFKA_USER, its password and its ACLs"
        )
    if isinstance(error, KafkaError):
        return UnavailableError(f"Kafka: {error}", hint="check TRS_KAFKA and that the brokers run, then start again")
    return error


@dataclass(frozen=True)
class ConsumerOptions:
    """How to reach the brokers and how much to fetch. Times in seconds, sizes in bytes.

    `security` are aiokafka's own arguments (security_protocol, sasl_*, ssl_context). `partition_bytes` bounds what one
    partition gives per fetch and `fetch_bytes` the whole answer; a single larger record batch passes all the same.
    `rebalance_timeout_s`: how long the group waits for a member that still finishes its commit.
    `max_poll_interval_s`: a member that fetched nothing for so long, busy or full, leaves the group.
    """

    bootstrap_servers: str
    group: str
    session_timeout_s: float
    security: Mapping[str, Any] = field(default_factory=dict)
    rebalance_timeout_s: float = 300.0
    max_poll_interval_s: float = 1800.0
    request_timeout_s: float = 60.0
    partition_bytes: int = PARTITION_BYTES
    fetch_bytes: int = FETCH_BYTES
    check_crcs: bool = True


class Membership(Protocol):
    """What a consumer group member does beyond fetching."""

    async def revoke(self) -> None:
        """A rebalance begins: finish what is in flight. Heartbeats go on meanwhile."""

    async def assign(self, partitions: frozenset[tuple[str, int]]) -> Mapping[tuple[str, int], int]:
        """Takes over exactly these topic-partitions; returns the offset to read next for each that is to be read."""

    def has_room(self) -> bool:
        """False: do not fetch for now."""

    def fail(self, error: BaseException) -> None:
        """Something broke beyond repair: end the worker."""


@dataclass(frozen=True)
class Fetched:
    """A batch, and the rebalance after which its partition was sought."""

    rebalance: int
    batch: RawBatch


class BatchConsumerThread(AIOKafkaConsumerThread):
    """The thread that owns the Kafka connection: polls, heartbeats, seeks."""

    consumer: "BatchConsumer"
    sought = -1
    """The rebalance whose positions are in force; everything fetched since belongs to it."""
    _pause_until_s = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._leaving = asyncio.Event()

    async def on_thread_stop(self) -> None:
        # Where a fetch fails at this moment, aiokafka's stop lets the end of its own task out.
        with suppress(asyncio.CancelledError):
            await super().on_thread_stop()

    def leave(self) -> None:
        """The end is near: a rebalance that waits for the rest of the program waits no longer. From any thread."""
        with suppress(RuntimeError):  # the thread has ended already: the brokers were away when it began
            self.thread_loop.call_soon_threadsafe(self._leaving.set)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        await self._unless_leaving(super().on_partitions_revoked(revoked))

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        await self._unless_leaving(super().on_partitions_assigned(assigned, generation_id))

    async def _unless_leaving(self, callback: Coroutine[Any, Any, None]) -> None:
        """Faust answers these callbacks in another thread, which at the end may have stopped to answer: a client that
        still waited for it could never leave the group."""
        answered = asyncio.ensure_future(callback)
        leaving = asyncio.ensure_future(self._leaving.wait())
        await asyncio.wait({answered, leaving}, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        if answered.done():
            answered.result()
        else:
            answered.cancel()

    def _create_worker_consumer(self, transport: Transport) -> aiokafka.AIOKafkaConsumer:
        options = self.consumer.transport.options
        keep_bytes()
        # Topics with equal partition counts: the range assignor gives a worker the same numbers of every topic.
        self._assignor = RangePartitionAssignor
        return aiokafka.AIOKafkaConsumer(
            bootstrap_servers=options.bootstrap_servers,
            client_id="trs-worker",
            group_id=options.group,
            partition_assignment_strategy=[RangePartitionAssignor],
            enable_auto_commit=False,
            # An offset that Kafka does not hold is an error (R9), never a silent reset.
            auto_offset_reset="none",
            isolation_level="read_committed",
            max_partition_fetch_bytes=options.partition_bytes,
            fetch_max_bytes=options.fetch_bytes,
            fetch_max_wait_ms=500,
            check_crcs=options.check_crcs,
            request_timeout_ms=int(options.request_timeout_s * 1000),
            session_timeout_ms=int(options.session_timeout_s * 1000),
            heartbeat_interval_ms=int(min(3.0, options.session_timeout_s / 5) * 1000),
            rebalance_timeout_ms=int(options.rebalance_timeout_s * 1000),
            max_poll_interval_ms=int(options.max_poll_interval_s * 1000),
            metadata_max_age_ms=60_000,
            **options.security,
        )

    async def _fetch_records(
        self,
        consumer: aiokafka.AIOKafkaConsumer,
        active_partitions: set[TP],
        timeout: float | None = None,
        max_records: int | None = None,
    ) -> dict[TP, list[Fetched]]:
        """At most one `Fetched` per partition; empty after `timeout` seconds without any.

        The records are unpacked in a thread of their own: in this one they would hold up the heartbeats.
        """
        await asyncio.sleep(max(0.0, self._pause_until_s - time.monotonic()))
        fetcher = consumer._fetcher
        if consumer._closed or fetcher._closed:
            raise ConsumerStoppedError
        with fetcher._subscriptions.fetch_context():
            rebalance, taken = self._take(fetcher, active_partitions)
            if not taken:
                waiter = fetcher._create_fetch_waiter()
                await asyncio.wait([waiter], timeout=timeout)
                if not waiter.done():
                    waiter.cancel()
                    return {}
                waiter.result()
                rebalance, taken = self._take(fetcher, active_partitions)
            batches = await asyncio.to_thread(read_taken, list(taken.values()))
            return {tp: [Fetched(rebalance, batch)] for tp, batch in zip(taken, batches, strict=True)}

    def _take(self, fetcher: Any, active_partitions: set[TP]) -> tuple[int, dict[TP, TakenBlocks]]:
        """The rebalance that is in force, and what was fetched since; of much, the oldest: the rest follows at once."""
        rebalance = self.sought
        taken: dict[TP, TakenBlocks] = {}
        size_bytes = records = 0
        if rebalance != self.consumer.rebalances or fetcher._subscriptions.reassignment_in_progress:
            return rebalance, taken
        for tp in list(fetcher._records):
            if tp not in active_partitions:
                continue
            result = fetcher._records.pop(tp)
            if isinstance(result, FetchResult):
                blocks = take_blocks(result, check_crcs=fetcher._check_crcs)
                if blocks is not None:
                    taken[TP(*tp)] = blocks
                    size_bytes += blocks.size_bytes
                    records += blocks.records
            else:
                _raise_fetch_error(tp, result)
            if records >= _TAKE_RECORDS or size_bytes >= self.consumer.transport.options.fetch_bytes:
                break
        fetcher._notify(fetcher._wait_consume_future)
        if taken and size_bytes < _LITTLE_BYTES:
            self._pause_until_s = time.monotonic() + _GATHER_S
        return rebalance, taken

    async def seek_all(self, positions: Mapping[tuple[str, int], int], rebalance: int) -> None:
        """Seeks to the positions that `assign` gave after that rebalance, in one step that no fetch can interleave."""
        await self.call_thread(self._seek_all, positions, rebalance)

    async def _seek_all(self, positions: Mapping[tuple[str, int], int], rebalance: int) -> None:
        if rebalance != self.consumer.rebalances:
            return
        consumer = self._ensure_consumer()
        for (topic, partition), offset in positions.items():
            consumer.seek(TopicPartition(topic, partition), offset)
        for tp in consumer.assignment():
            if (tp.topic, tp.partition) not in positions:
                consumer.seek(tp, 0)  # without any position the client would ask the group for one
                consumer.pause(tp)
        self.sought = rebalance

    async def commit_positions(self, positions: Mapping[tuple[str, int], int]) -> None:
        """Tells the group how far we are, for lag tools only; a rebalance in between makes it void."""
        await self.call_thread(self._commit_positions, positions)

    async def _commit_positions(self, positions: Mapping[tuple[str, int], int]) -> None:
        consumer = self._ensure_consumer()
        assigned = consumer.assignment()
        offsets = {
            TopicPartition(*tp): OffsetAndMetadata(offset, "")
            for tp, offset in positions.items()
            if TopicPartition(*tp) in assigned
        }
        if offsets and self.sought == self.consumer.rebalances:
            try:
                await consumer.commit(offsets)
            except CommitFailedError:
                self.log.debug("the group was rebalancing: its offsets follow with the next commit")

    async def check_client(self) -> None:
        """Raises what the client met and cannot get over: a refused group or topic, a wrong password, no way back."""
        await self.call_thread(self._check_client)

    async def _check_client(self) -> None:
        consumer = self._ensure_consumer()
        consumer._coordinator.check_errors()
        check_way_to_brokers(consumer._client)


def check_way_to_brokers(client: aiokafka.client.AIOKafkaClient) -> None:
    """Raises UnavailableError where the client can never reach Kafka again. If the first answer named no broker (the
    only one was fenced at that moment) and that first connection has ended, it asks nobody, in a busy loop, for ever.
    """
    first = client._conns.get(("bootstrap", ConnectionGroup.DEFAULT))
    bootstrapped = client._sync_task is not None
    if bootstrapped and not client.cluster.brokers() and (first is None or not first.connected()):
        raise UnavailableError("Kafka named no broker and then ended the connection", hint="start the worker again")


def _raise_fetch_error(tp: TopicPartition, result: Any) -> None:
    try:
        result.check_raise()
    except OffsetOutOfRangeError as error:
        raise OffsetGapError(
            f"{tp.topic}-{tp.partition}: Kafka deleted the records at our offset {next(iter(error.args[0].values()))}",
            hint="raise the topic's retention; the next start says what is missing",
        ) from None


class BatchConsumer(Consumer):
    """A group member whose positions come from its `Membership` and whose messages are batches."""

    transport: "BatchTransport"
    _thread: BatchConsumerThread
    rebalances = 0
    """Rebalances that have begun so far."""

    _positions: Mapping[tuple[str, int], int] | None = None

    def _new_consumer_thread(self) -> BatchConsumerThread:
        return BatchConsumerThread(self, loop=self.loop, beacon=self.beacon)

    @property
    def thread(self) -> BatchConsumerThread:
        """The thread that owns the Kafka connection."""
        return self._thread

    def current(self, fetched: Fetched) -> bool:
        """Whether the batch belongs to the assignment that is being delivered."""
        return fetched.rebalance == self.rebalances

    @property
    def delivering(self) -> bool:
        """Whether positions are in force, that is, no rebalance is going on."""
        return self._thread.sought == self.rebalances

    def halt(self) -> None:
        """From now on nothing that was fetched so far is current, and nothing is fetched until the next seek."""
        self.rebalances += 1
        self._positions = None

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        self.halt()
        await super().on_partitions_revoked(revoked)
        try:
            await self.transport.membership.revoke()
        except Exception as error:  # noqa: BLE001 - handed on whole: the group's client would only log it
            self.transport.membership.fail(error)

    async def take_over(self) -> None:
        """Assigns what the group gave us, also when that is nothing. Called once per finished rebalance, before Faust
        resumes its streams; a rebalance that began meanwhile makes the result void."""
        rebalance = self.rebalances
        partitions = frozenset((tp.topic, tp.partition) for tp in self.assignment())
        try:
            positions = await self.transport.membership.assign(partitions)
        except Exception as error:  # noqa: BLE001 - handed on whole: Faust would try again for ever
            self.transport.membership.fail(error)
            return
        if rebalance == self.rebalances:
            self._positions = positions

    async def perform_seek(self) -> None:
        """Where Faust seeks to the group's committed offsets, we go to the lake's and begin to deliver."""
        positions, self._positions = self._positions, None
        if positions is None:
            return
        for (topic, partition), offset in positions.items():
            tp = TP(topic, partition)
            self._read_offset[tp] = offset or None
            self._committed_offset[tp] = offset
        await self._thread.seek_all(positions, self.rebalances)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        """What came while a rebalance stopped the flow is dropped: the seek that ends it reads it again."""
        records, _ = await self._wait_next_records(timeout)
        for tp, fetched in (records or {}).items():
            if self.should_stop or not self.flow_active:
                return
            for one in fetched:
                yield tp, self._to_message(tp, one)

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Mapping[TP, list[Any]]:
        ready = self.transport.membership.has_room
        deadline = self.loop.time() + timeout
        while not (self.delivering and ready()):
            if self.loop.time() >= deadline:
                return {}
            await asyncio.sleep(_POLL_S)
        try:
            records: Mapping[TP, list[Any]] = await self._thread.getmany(active_partitions, timeout)
        except ConsumerStoppedError:
            raise
        except Exception as error:  # noqa: BLE001 - handed on whole: Faust would only log it
            self.transport.membership.fail(error)
            return {}
        return records

    def _to_message(self, tp: TP, record: Fetched) -> ConsumerMessage:
        last = record.batch.next_offset - 1
        value: Any = record  # Faust expects bytes here, and hands on what it gets
        generation = self.app.consumer_generation_id
        return ConsumerMessage(
            tp.topic, tp.partition, last, 0.0, 0, None, None, value, None, -1, -1, tp, generation_id=generation
        )

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust would look at the commits of the group here, which are not what we live by."""


class BatchTransport(Transport):
    """Plugs `BatchConsumer` into a Faust app: `app.transport = BatchTransport(urls, app, options, membership)`."""

    Consumer = BatchConsumer

    def __init__(self, url: Any, app: Any, options: ConsumerOptions, membership: Membership) -> None:
        super().__init__(url, app)
        self.options = options
        self.membership = membership


class BatchSchema(Schema[Any, Any]):
    """Hands the value on as it is: decoding is the engine's work, on tables."""

    def compile(self, app: Any, **_: Any) -> Any:
        async def decode(message: Message, *, propagate: bool = False) -> Any:
            return app.create_event(None, message.value, {}, message)

        return decode
