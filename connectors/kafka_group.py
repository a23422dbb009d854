"""A consumer group's member that reads batches; its positions are committed by a producer's transaction (KIP-447).

A position stands in the same transaction as what was made of the records before it, so a process may die anywhere: the
next one begins behind the last transaction that is complete. Members are static (KIP-345): one that is started again
under its instance's name gets its partitions back at once, and fences the one that had them.
"""

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from connectors.kafka_client import check_reachable, make_client, wrap_error
from connectors.kafka_config import KafkaConfig
from processors.errors import FencedError, OffsetGapError, SourceError, TrsError

_TIMEOUT_S = 30.0
_OUT_OF_RANGE = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})
_NOT_YET = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
    }
)
"""What brokers say of topics and groups that are new, and while they elect."""
_TAKEN_OVER = frozenset({KafkaError.FENCED_INSTANCE_ID, KafkaError._FATAL})


class Record(NamedTuple):
    """One record as it was read."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    value: bytes | None


class GroupReader:
    """Reads topics as `instance` of a group. One thread at a time; `close` ends the client."""

    def __init__(
        self,
        config: KafkaConfig,
        topics: Sequence[str],
        *,
        group: str,
        instance: str,
        session_timeout_s: float,
        accept_gap: bool = False,
    ) -> None:
        """Connects and joins. `accept_gap`: go on where records were deleted before they were read.

        Raises UnavailableError or AccessDeniedError within about ten seconds.
        """
        self._config = config
        self._accept_gap = accept_gap
        self._next: dict[tuple[str, int], int] = {}
        self._failure: TrsError | None = None
        self.is_assigned = False
        """Whether the group has said which partitions this member owns, which may be none."""
        self._client, self._errors = make_client(
            Consumer,
            config,
            **{
                "group.id": group,
                "group.instance.id": f"{group}-{instance}",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "session.timeout.ms": int(session_timeout_s * 1000),
                "fetch.wait.max.ms": 100,
            },
        )
        try:
            check_reachable(self._client, config, self._errors)
            self._client.subscribe(list(topics), on_assign=self._assigned, on_revoke=self._revoked)
        except BaseException:
            self._client.close()
            raise

    @property
    def positions(self) -> dict[tuple[str, int], int]:
        """The next offset of each partition that this member owns."""
        return dict(self._next)

    def read(self, most: int, timeout_s: float) -> list[Record]:
        """The next records of all partitions, in the order of each; waits until there are `most`, or for the time.

        Raises OffsetGapError where records were deleted before they were read, FencedError when another process took
        this instance's place.
        """
        try:
            messages = self._client.consume(most, timeout_s)
        except KafkaException as error:
            raise self._wrapped(error.args[0], "read") from None
        if self._failure is not None:
            raise self._failure
        records = []
        for message in messages:
            if message.error() is not None:
                raise self._wrapped(message.error(), f"read {message.topic()}-{message.partition()}")
            place = (message.topic(), message.partition())
            # A rebalance amid the call leaves records of its other side: of lost partitions, or read a second time.
            if message.offset() < self._next.get(place, message.offset() + 1):
                continue
            self._next[place] = message.offset() + 1
            records.append(Record(*place, message.offset(), message.timestamp()[1], message.value()))
        return records

    def commit_point(self, records: Sequence[Record]) -> tuple[list[TopicPartition], Any]:
        """What a transaction needs to commit the positions behind these records: them, and who asks."""
        ends = {(r.topic, r.partition): r.offset + 1 for r in records}
        positions = [TopicPartition(topic, partition, end) for (topic, partition), end in ends.items()]
        return positions, self._client.consumer_group_metadata()

    def lag(self) -> int:
        """How many offsets lie ahead in this member's partitions. Raises UnavailableError."""
        return sum(max(self._ends(place)[1] - position, 0) for place, position in self._next.items())

    def committed(self, places: Collection[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """The positions that the whole group has committed, of those partitions that have one that can be told now.

        Raises UnavailableError.
        """
        wanted = [TopicPartition(*place) for place in places]
        found = self._asked(lambda: self._client.committed(wanted, timeout=_TIMEOUT_S), "ask for the group's positions")
        return {(p.topic, p.partition): p.offset for p in found if p.error is None and p.offset >= 0}

    def close(self) -> None:
        """Ends the client. The partitions stay with the instance for the session's time-out."""
        self._client.close()

    def _ends(self, place: tuple[str, int]) -> tuple[int, int]:
        """First offset that is kept, and the end."""
        doing = f"look at {place[0]}-{place[1]}"
        low, high = self._asked(
            lambda: self._client.get_watermark_offsets(TopicPartition(*place), timeout=_TIMEOUT_S), doing
        )
        return int(low), int(high)

    def _asked(self, ask: Callable[[], Any], doing: str) -> Any:
        """The brokers' answer, for which those are waited that take up their work. Raises TrsError."""
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                return ask()
            except KafkaException as error:
                if error.args[0].code() not in _NOT_YET or time.monotonic() > deadline:
                    raise self._wrapped(error.args[0], doing) from None
            time.sleep(0.1)

    def _assigned(self, client: Any, partitions: list[TopicPartition]) -> None:
        try:
            committed = self._asked(
                lambda: client.committed(partitions, timeout=_TIMEOUT_S), "ask for the group's positions"
            )
            starts = [self._start(p) for p in committed]
        except TrsError as error:
            self._failure = error
            return
        self._next = {(p.topic, p.partition): p.offset for p in starts}
        self.is_assigned = True
        client.assign(starts)

    def _revoked(self, _client: Any, _partitions: list[TopicPartition]) -> None:
        self._next = {}
        self.is_assigned = False

    def _start(self, committed: TopicPartition) -> TopicPartition:
        """Where reading begins: at the committed position, else at the first record if none was deleted before."""
        if committed.error is not None:
            raise self._wrapped(committed.error, "ask for the group's positions")
        place = (committed.topic, committed.partition)
        low, high = self._ends(place)
        wanted = committed.offset if committed.offset >= 0 else 0
        if low <= wanted <= high:
            return TopicPartition(*place, wanted)
        if self._accept_gap:
            return TopicPartition(*place, low)
        where = f"{place[0]}-{place[1]}"
        if wanted > high:
            raise OffsetGapError(
                f"{where} ends at offset {high}, and {wanted} is to be read next: the topic lost records",
                hint="--accept-gap reads it from its beginning; what is translated twice changes nothing",
            )
        raise OffsetGapError(
            f"{where} begins at offset {low}, and {wanted} is to be read next: Kafka deleted what lies between",
            hint="--accept-gap goes on behind it; then `trs bootstrap diff` finds what is missing, deletions too",
        )

    def _wrapped(self, error: KafkaError, doing: str) -> TrsError:
        if error.code() in _OUT_OF_RANGE:
            return OffsetGapError(
                f"{doing}: Kafka does not hold the next offset any more ({error.str()})",
                hint="start again: the start says which records are missing",
            )
        if error.code() in _TAKEN_OVER:
            return FencedError(
                f"another process took this instance's place in the group ({error.str()})",
                hint="run one process per --instance",
            )
        if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return SourceError(f"{doing}: {error.str()}", hint="was the topic deleted? start again to make it")
        return wrap_error(KafkaException(error), self._config, doing, self._errors)
