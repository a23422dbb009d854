"""Producers: acknowledged by all in-sync replicas, idempotent, routed as Kafka's Java clients route (murmur2)."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka import Producer as LibraryProducer

from connectors.kafka_client import check_reachable, make_client, wrap_error
from connectors.kafka_config import KafkaConfig
from connectors.kafka_topics import TopicEnds
from processors.errors import FencedError, InvariantError, RetryableError, UnavailableError

_QUEUE_MESSAGES = 400_000
QUEUE_KBYTES = 384 * 1024
"""What a producer holds until it is acknowledged, where nobody says otherwise."""
_SLICE = 20_000
"""Messages handed over at once. The queue has room for so many, and keeps their order, unless they fill it by bytes:
then a small one may pass a large one. What is sent has an order of its own (R1, versions of documents)."""
_FLUSH_S = 90.0
_DELIVERY_MS = 60_000
_TRANSACTION_MS = 90_000
_INIT_S = 30.0
_NOT_A_MEMBER = frozenset({KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID, KafkaError.FENCED_INSTANCE_ID})


class Producer:
    """Sends key and value bytes to topics; nothing is certain before `flush` returned."""

    def __init__(self, config: KafkaConfig, **properties: Any) -> None:
        """Connects. Raises UnavailableError or AccessDeniedError within about ten seconds."""
        self._config = config
        self._failed: KafkaError | None = None
        self._client, self._errors = make_client(
            LibraryProducer,
            config,
            **{
                "enable.idempotence": True,
                "acks": "all",
                "partitioner": "murmur2_random",
                "compression.type": "lz4",
                "linger.ms": 50,
                "batch.size": 1_000_000,
                "batch.num.messages": 100_000,
                "queue.buffering.max.messages": _QUEUE_MESSAGES,
                "queue.buffering.max.kbytes": QUEUE_KBYTES,
                "delivery.timeout.ms": _DELIVERY_MS,
                "delivery.report.only.error": True,
                "on_delivery": self._on_failure,
                **properties,
            },
        )
        check_reachable(self._client, config, self._errors)

    def _on_failure(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None and self._failed is None:
            self._failed = error

    def send(
        self, topic: str, keys: Sequence[bytes | None], values: Sequence[bytes | None], *, partition: int | None = None
    ) -> None:
        """Queues messages in order, waits while the queue is full. Raises UnavailableError after a failed delivery.

        `partition`: where they all go, instead of where their keys lead.
        """
        for start in range(0, len(values), _SLICE):
            end = start + _SLICE
            batch = [{"key": k, "value": v} for k, v in zip(keys[start:end], values[start:end], strict=True)]
            while batch:
                while len(self._client) > _QUEUE_MESSAGES - _SLICE:
                    self._serve(0.05)
                batch = self._produce(topic, batch, partition)
            self._serve(0)

    def _produce(self, topic: str, batch: list[dict[str, Any]], partition: int | None) -> list[dict[str, Any]]:
        """Hands a batch to the library; returns the messages for which its queue had no room."""
        try:
            # Of the messages themselves the library would not take a partition.
            where = {} if partition is None else {"partition": partition}
            if self._client.produce_batch(topic, batch, **where) == len(batch):
                return []
        except KafkaException as error:
            raise wrap_error(error, self._config, f"write to {topic}", self._errors) from None
        rest = [message for message in batch if "_error" in message]
        for message in rest:
            refused = message.pop("_error")
            if refused.code() != KafkaError._QUEUE_FULL:
                raise wrap_error(KafkaException(refused), self._config, f"write to {topic}", self._errors)
        self._serve(0.1)
        return rest

    def _serve(self, timeout_s: float) -> None:
        """Lets the library report failures, which are raised here."""
        try:
            self._client.poll(timeout_s)
        except KafkaException as error:
            raise wrap_error(error, self._config, "write", self._errors) from None
        self._raise_failure()

    def flush(self) -> None:
        """Returns when the brokers have acknowledged everything sent. Raises UnavailableError when they did not."""
        try:
            left = self._client.flush(_FLUSH_S)
        except KafkaException as error:
            raise wrap_error(error, self._config, "write", self._errors) from None
        self._raise_failure()
        if left:
            raise UnavailableError(
                f"Kafka at {self._config.bootstrap_servers} left {left} messages without acknowledgement",
                hint="check the brokers, then call again",
            )

    def _raise_failure(self) -> None:
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise wrap_error(KafkaException(failed), self._config, "write", self._errors)

    def close(self) -> None:
        """Drops what is queued and unacknowledged, and ends the client's threads."""
        with suppress(KafkaException):  # a client that was fenced fails again here, which was told before
            self._client.purge()
            self._client.flush(1.0)
        self._failed = None


class TransactionalProducer(Producer):
    """A producer whose messages appear per transaction, all or none; a newer one of the same id fences it."""

    def __init__(self, config: KafkaConfig, transactional_id: str) -> None:
        """Connects, aborts what an earlier producer of this id left open, and fences that producer."""
        super().__init__(
            config, **{"transactional.id": transactional_id, "transaction.timeout.ms": _TRANSACTION_MS, "linger.ms": 20}
        )
        self._open = False
        self._call("start transactions", lambda: self._client.init_transactions(_INIT_S))

    def begin(self) -> None:
        """Opens a transaction; messages are sent inside it."""
        if self._open:
            raise InvariantError("a Kafka transaction is open already")
        self._call("begin a transaction", self._client.begin_transaction)
        self._open = True

    def send_positions(self, positions: Sequence[TopicPartition], group: Any) -> None:
        """Puts a consumer group's positions into the open transaction, as `GroupReader.commit_point` gives them.

        Raises RetryableError when the group has given the partitions to another member; the transaction is aborted.
        """
        send = self._client.send_offsets_to_transaction
        try:
            self._call("commit positions", lambda: send(list(positions), group, _FLUSH_S), moved=_NOT_A_MEMBER)
        except RetryableError:
            self.abort()
            raise

    def commit(self) -> None:
        """Makes the transaction's messages visible. Raises FencedError or UnavailableError; it is then aborted."""
        self._call("commit a transaction", lambda: self._client.commit_transaction(_FLUSH_S))
        self._open = False

    def abort(self) -> None:
        """Discards the open transaction, if any."""
        if not self._open:
            return
        self._open = False
        self._call("abort a transaction", lambda: self._client.abort_transaction(_INIT_S))
        self._failed = None

    def _call(self, doing: str, call: Any, *, moved: frozenset[int] = frozenset()) -> None:
        """`moved`: errors which say that a consumer group did not wait for us."""
        try:
            call()
        except KafkaException as error:
            if error.args[0].code() in moved:
                raise RetryableError(
                    "the consumer group gave the partitions to another member", hint="start again; nothing was sent"
                ) from None
            wrapped = wrap_error(error, self._config, doing, self._errors)
            if not isinstance(wrapped, FencedError) and error.args[0].txn_requires_abort():
                self._open = False
                try:
                    self._client.abort_transaction(_INIT_S)
                except KafkaException as abort_error:
                    wrapped.add_note(f"abort: {abort_error.args[0].str()}")
            raise wrapped from None


class KafkaDocumentSink:
    """`processors.ports.DocumentSink` over one topic."""

    def __init__(self, config: KafkaConfig, topic: str, *, partitions: int, queue_kbytes: int = QUEUE_KBYTES) -> None:
        """`partitions`: how many the topic has."""
        self.partitions = partitions
        self._producer = Producer(config, **{"linger.ms": 5, "queue.buffering.max.kbytes": queue_kbytes})
        self._topic = topic
        self._ends = TopicEnds(config, topic)

    def send(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Queues the documents. Raises UnavailableError after a failed delivery."""
        self._producer.send(self._topic, keys, values)

    def flush(self) -> Mapping[int, int]:
        """Returns when all are acknowledged. Raises UnavailableError when that, or where they end, is not known."""
        self._producer.flush()
        return self._ends.read()

    def close(self) -> None:
        """Ends the client."""
        self._producer.close()
