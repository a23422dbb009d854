"""What a Kafka cluster says of itself: brokers, how topics are kept, who is in a group. Nothing is changed."""

from collections.abc import Sequence
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec, ResourceType

from connectors.kafka_client import check_reachable, make_client, wrap_error
from connectors.kafka_config import KafkaConfig

_TIMEOUT_S = 8.0


@dataclass(frozen=True)
class ClusterFacts:
    """`level`: the release that the brokers' protocol is set to, None where they do not tell (from Kafka 4.0 on)."""

    cluster_id: str
    brokers: tuple[str, ...]
    level: str | None


@dataclass(frozen=True)
class TopicFacts:
    """One topic. `replicas`: the fewest copies of a partition; `behind`: partitions with a copy that is not in sync;
    `leaderless`: those that nobody can read. Times in ms, sizes in bytes; retention -1: for ever, by time or size.
    """

    name: str
    topic_id: str
    partitions: int
    replicas: int
    behind: tuple[int, ...]
    leaderless: tuple[int, ...]
    cleanup_policy: str
    retention_ms: int
    retention_bytes: int
    min_in_sync: int
    timestamp_type: str


@dataclass(frozen=True)
class GroupFacts:
    """A consumer group. `members`: host and the partitions of all topics that it has."""

    state: str
    members: tuple[tuple[str, int], ...]


class ClusterLook:
    """Asks one cluster. Raises UnavailableError or AccessDeniedError on opening."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._admin: AdminClient
        self._admin, errors = make_client(AdminClient, config)
        self._metadata = check_reachable(self._admin, config, errors)

    def cluster(self) -> ClusterFacts:
        """The cluster as a whole."""
        brokers = sorted(self._metadata.brokers.values(), key=lambda b: b.id)
        resource = ConfigResource(ResourceType.BROKER, str(brokers[0].id))
        try:
            found = self._admin.describe_configs([resource], request_timeout=_TIMEOUT_S)[resource].result()
            level = found.get("inter.broker.protocol.version")
        except KafkaException:
            level = None  # not every user may ask for it
        return ClusterFacts(
            str(self._metadata.cluster_id),
            tuple(f"{b.host}:{b.port}" for b in brokers),
            None if level is None or not level.value else str(level.value),
        )

    def topics(self, names: Sequence[str]) -> dict[str, TopicFacts]:
        """Those of the topics that exist, by name."""
        there = [name for name in names if name in self._metadata.topics]
        if not there:
            return {}
        described = self._admin.describe_topics(TopicCollection(there), request_timeout=_TIMEOUT_S)
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in there]
        configs = {r.name: f for r, f in self._admin.describe_configs(resources, request_timeout=_TIMEOUT_S).items()}
        facts = {}
        for name in there:
            try:
                topic, config = described[name].result(), configs[name].result()
            except KafkaException as error:
                if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                    continue
                raise wrap_error(error, self._config, f"describe topic {name}") from None
            facts[name] = TopicFacts(
                name=name,
                topic_id=str(topic.topic_id),
                partitions=len(topic.partitions),
                replicas=min(len(p.replicas) for p in topic.partitions),
                behind=tuple(p.id for p in topic.partitions if len(p.isr) < len(p.replicas)),
                leaderless=tuple(p.id for p in topic.partitions if p.leader is None or p.leader.id < 0),
                cleanup_policy=str(config["cleanup.policy"].value),
                retention_ms=int(config["retention.ms"].value),
                retention_bytes=int(config["retention.bytes"].value),
                min_in_sync=int(config["min.insync.replicas"].value),
                timestamp_type=str(config["message.timestamp.type"].value),
            )
        return facts

    def group(self, name: str) -> GroupFacts:
        """A consumer group; one that never was has the state DEAD and no member."""
        try:
            found = self._admin.describe_consumer_groups([name], request_timeout=_TIMEOUT_S)[name].result()
        except KafkaException as error:
            if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:  # what newer brokers say of one that never was
                return GroupFacts("DEAD", ())
            raise wrap_error(error, self._config, f"describe group {name}") from None
        members = ((m.host, len(m.assignment.topic_partitions) if m.assignment else 0) for m in found.members)
        return GroupFacts(found.state.name, tuple(members))

    def offsets_since(self, places: Sequence[tuple[str, int]], time_ms: int) -> dict[tuple[str, int], int]:
        """Per topic-partition the first offset whose record is of this time or later; none where there is no such."""
        asked = {TopicPartition(*place): OffsetSpec.for_timestamp(time_ms) for place in places}
        return {place: offset for place, (offset, _) in self._offsets(asked).items() if offset >= 0}

    def newest_ms(self, places: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """Per topic-partition the greatest time of a record, in ms since 1970; none where there is no record."""
        asked = {TopicPartition(*place): OffsetSpec.max_timestamp() for place in places}
        return {place: time_ms for place, (_, time_ms) in self._offsets(asked).items() if time_ms >= 0}

    def _offsets(self, asked: dict[TopicPartition, OffsetSpec]) -> dict[tuple[str, int], tuple[int, int]]:
        found = {}
        for place, future in self._admin.list_offsets(asked, request_timeout=_TIMEOUT_S).items():
            try:
                answer = future.result()
            except KafkaException as error:
                raise wrap_error(error, self._config, f"list offsets of {place.topic}") from None
            found[place.topic, place.partition] = (int(answer.offset), int(answer.timestamp))
        return found
