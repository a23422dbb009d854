"""Between the consumer group and the engine: who owns which buckets, and from where each partition is read."""

import asyncio
import time
from collections.abc import Callable, Mapping

import structlog

from app.unwaited_threads import UnwaitedThreads
from connectors.kafka import KafkaConfig, topic_ids, watermarks
from processors.errors import InvariantError
from processors.ports import Engine
from processors.resume import PartitionLog, gap, start_offset, start_offset_accepting_gap

log = structlog.get_logger("trs.worker")


class EngineMembership:
    """Passes rebalances on to the engine, one at a time and in their order, in a thread of its own.

    The engine may need a minute to finish a commit or to load state; the event loop and the heartbeats go on.
    """

    def __init__(
        self, engine: Engine, kafka: KafkaConfig, *, accept_gap: bool, on_failure: Callable[[BaseException], None]
    ) -> None:
        self._engine = engine
        self._kafka = kafka
        self._accept_gap = accept_gap
        self._on_failure = on_failure
        self._serial = UnwaitedThreads("rebalance", count=1)
        self._ever_assigned = False
        self.stopping = False
        self.buckets: frozenset[int] | None = None
        """What this worker owns now; None during a rebalance and before the first one."""
        self.places: frozenset[tuple[str, int]] | None = None
        """The topic-partitions of them that are read: not those that are parked. None like `buckets`."""
        self.waiting_since_s: float | None = time.monotonic()
        """Since when the group owes us an assignment; None once it came."""

    async def revoke(self) -> None:
        """A rebalance begins: the engine finishes the commit in flight."""
        self.buckets = self.places = None
        if self._ever_assigned and not self.stopping:
            log.info("rebalance begins")
            await asyncio.get_running_loop().run_in_executor(self._serial, self._engine.revoke)
            self.waiting_since_s = time.monotonic()

    async def assign(self, partitions: frozenset[tuple[str, int]]) -> Mapping[tuple[str, int], int]:
        """Takes over these topic-partitions; returns where to read next.

        What is left out is parked: assigned, and not to be read. Raises OffsetGapError where Kafka does not hold what
        comes next (R9), unless gaps are accepted.
        """
        self.waiting_since_s = None
        buckets = frozenset(partition for _, partition in partitions)
        if partitions != {(topic, bucket) for topic in self._engine.topics for bucket in buckets}:
            raise InvariantError(
                "the consumer group gave us different partitions of different topics",
                hint="all workers of TRS_GROUP run one version, with one TRS_TOPIC_PREFIX and one TRS_FEATURE_SETS",
            )
        if self.stopping:
            return {}
        self._ever_assigned = True
        started = time.monotonic()
        loop = asyncio.get_running_loop()
        positions = await loop.run_in_executor(self._serial, self._take_over, buckets)
        self.buckets, self.places = buckets, frozenset(positions)
        if self._engine.parked:
            log.warning(
                "buckets are parked: the lake holds features of a newer version, whose workers must take them",
                buckets=sorted(self._engine.parked),
            )
        log.info("assigned", buckets=sorted(buckets), seconds=round(time.monotonic() - started, 3))
        return positions

    def has_room(self) -> bool:
        """Whether the engine takes more batches for now."""
        return self._engine.has_room()

    def fail(self, error: BaseException) -> None:
        """Ends the worker with this error; the first one counts."""
        self._on_failure(error)

    def shut_down(self) -> bool:
        """Forgets what waits; True when no engine call of a rebalance is under way any more."""
        self._serial.shutdown()
        return self._serial.come_back()

    def _take_over(self, buckets: frozenset[int]) -> dict[tuple[str, int], int]:
        stored = self._engine.assign(buckets)
        ids = topic_ids(self._kafka, self._engine.topics)
        held = watermarks(self._kafka, self._engine.topics)
        positions: dict[tuple[str, int], int] = {}
        gaps: list[str] = []
        for (topic, bucket), entry in sorted(stored.items(), key=lambda item: item[0]):
            start, end = held[topic, bucket]
            partition = PartitionLog(topic, bucket, start, end, ids[topic])
            found = gap(entry, partition)
            if found is None or not self._accept_gap:
                positions[topic, bucket] = start_offset(entry, partition)
                continue
            positions[topic, bucket] = start_offset_accepting_gap(entry, partition)
            gaps.append(found)
            log.warning("GAP ACCEPTED", gap=found, reading_from=positions[topic, bucket])
        if gaps:
            log.warning("records are missing for ever in these partitions", partitions=len(gaps))
        self._engine.expect({place: max(held[place][1] - position, 0) for place, position in positions.items()})
        return positions
