"""Topics: making them with the right partition count, their ids, their offsets."""

import time
from collections.abc import Collection, Iterable, Sequence

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec, ResourceType

from connectors.kafka_client import check_reachable, make_client, wrap_error
from connectors.kafka_config import KafkaConfig
from processors.errors import SourceError, UnavailableError

_TIMEOUT_S = 30.0
_NO_LEADER_YET = frozenset({KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE})
"""What brokers say of a topic that was just made, and while they elect."""


def _admin(config: KafkaConfig) -> tuple[AdminClient, dict[str, int]]:
    """A client of a cluster that answers, and the partition count per topic."""
    admin, errors = make_client(AdminClient, config)
    metadata = check_reachable(admin, config, errors)
    return admin, {name: len(topic.partitions) for name, topic in metadata.topics.items() if topic.error is None}


def partition_counts(config: KafkaConfig, topics: Iterable[str]) -> dict[str, int]:
    """The number of partitions of each of the topics that exists."""
    _, counts = _admin(config)
    return {topic: counts[topic] for topic in topics if topic in counts}


def check_topics(config: KafkaConfig, names: Sequence[str], partitions: int) -> tuple[str, ...]:
    """The topics that are missing. Raises SourceError for an existing one that cannot be used (see `ensure_topics`)."""
    admin, counts = _admin(config)
    for name in names:
        if counts.get(name, partitions) != partitions:
            raise SourceError(
                f"topic {name} has {counts[name]} partitions, not {partitions}",
                hint="set TRS_PARTITIONS to the installation's number, or delete the topic if it is empty",
            )
    present = [name for name in names if name in counts]
    for name, policy in _cleanup_policies(admin, config, present).items():
        if "compact" in policy:
            raise SourceError(
                f"topic {name} is compacted (cleanup.policy={policy}), which loses row events",
                hint="set its cleanup.policy to delete",
            )
    return tuple(name for name in names if name not in counts)


def ensure_topics(config: KafkaConfig, names: Sequence[str], partitions: int) -> tuple[str, ...]:
    """Makes the topics that are missing and waits until they can be used; returns those that it made.

    Raises SourceError when an existing topic has another number of partitions or is compacted.
    """
    missing = check_topics(config, names, partitions)
    if not missing:
        return ()
    admin, _ = _admin(config)
    new = [
        NewTopic(
            name,
            num_partitions=partitions,
            replication_factor=config.replication,
            config={"cleanup.policy": "delete"},
        )
        for name in missing
    ]
    for name, future in admin.create_topics(new, operation_timeout=_TIMEOUT_S, request_timeout=_TIMEOUT_S).items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                continue  # another process was first; the check below judges what it made
            if error.args[0].code() == KafkaError.INVALID_REPLICATION_FACTOR:
                raise SourceError(
                    f"topic {name}: the cluster has fewer than {config.replication} brokers",
                    hint="lower TRS_REPLICATION",
                ) from None
            raise wrap_error(error, config, f"create topic {name}") from None
    deadline = time.monotonic() + _TIMEOUT_S
    while check_topics(config, names, partitions):
        if time.monotonic() > deadline:
            raise UnavailableError(f"topics {', '.join(missing)} were made but do not appear", hint="try again")
        time.sleep(0.1)
    return missing


def topic_ids(config: KafkaConfig, topics: Sequence[str]) -> dict[str, str]:
    """Kafka's own id of each topic, which differs when a topic was deleted and made again.

    Raises SourceError for a topic that does not exist.
    """
    admin, _ = _admin(config)
    ids = {}
    described = admin.describe_topics(TopicCollection(list(topics)), request_timeout=_TIMEOUT_S)
    for name, future in described.items():
        try:
            ids[name] = str(future.result().topic_id)
        except KafkaException as error:
            raise _missing_or_wrapped(error, config, name) from None
    return ids


def watermarks(config: KafkaConfig, topics: Sequence[str]) -> dict[tuple[str, int], tuple[int, int]]:
    """Per (topic, partition) the first offset that is kept and the end: the next offset that a committed read reaches.

    The end stands before a transaction that is still open. Raises SourceError for a topic that does not exist.
    """
    admin, counts = _admin(config)
    for topic in topics:
        if topic not in counts:
            raise _no_topic(topic)
    places = [(topic, number) for topic in topics for number in range(counts[topic])]
    starts = _offsets(admin, config, places, OffsetSpec.earliest())
    ends = _offsets(admin, config, places, OffsetSpec.latest())
    return {place: (starts[place], ends[place]) for place in places}


class PartitionEnds:
    """Looks again and again where partitions end; one client for all looks. Used by one thread at a time."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._admin: AdminClient | None = None

    def read(self, places: Collection[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """Per (topic, partition) the next offset that a committed read reaches; asks the brokers even for none.

        Raises UnavailableError, AccessDeniedError, or SourceError for a topic that does not exist. The look after one
        that failed has a new client: the former would go on to ask a restarted broker with a leader epoch of before.
        """
        if self._admin is None or not places:
            self._admin, _ = _admin(self._config)
        admin, self._admin = self._admin, None
        ends = _offsets(admin, self._config, list(places), OffsetSpec.latest())
        self._admin = admin
        return ends


class TopicEnds:
    """Looks again and again where one topic ends."""

    def __init__(self, config: KafkaConfig, topic: str) -> None:
        self._ends = PartitionEnds(config)
        self._places = [(topic, number) for number in range(partition_counts(config, [topic]).get(topic, 0))]

    def read(self) -> dict[int, int]:
        """The next offset of each partition. Raises UnavailableError, when a second look has failed, too."""
        try:
            ends = self._ends.read(self._places)
        except UnavailableError:
            ends = self._ends.read(self._places)
        return {partition: end for (_, partition), end in ends.items()}


def _offsets(
    admin: AdminClient, config: KafkaConfig, places: list[tuple[str, int]], spec: OffsetSpec
) -> dict[tuple[str, int], int]:
    """Waits for partitions that have no leader at the moment: those of a new topic, or while a broker restarts."""
    deadline = time.monotonic() + _TIMEOUT_S
    offsets: dict[tuple[str, int], int] = {}
    while len(offsets) < len(places):
        asked = {TopicPartition(*place): spec for place in places if place not in offsets}
        futures = admin.list_offsets(asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=_TIMEOUT_S)
        for place, future in futures.items():
            try:
                offsets[place.topic, place.partition] = int(future.result().offset)
            except KafkaException as error:
                if error.args[0].code() not in _NO_LEADER_YET or time.monotonic() > deadline:
                    raise _missing_or_wrapped(error, config, place.topic) from None
        if len(offsets) < len(places):
            time.sleep(0.1)
    return offsets


def _cleanup_policies(admin: AdminClient, config: KafkaConfig, topics: list[str]) -> dict[str, str]:
    if not topics:
        return {}
    asked = [ConfigResource(ResourceType.TOPIC, name) for name in topics]
    policies = {}
    for resource, future in admin.describe_configs(asked, request_timeout=_TIMEOUT_S).items():
        try:
            policies[resource.name] = str(future.result()["cleanup.policy"].value)
        except KafkaException as error:
            raise _missing_or_wrapped(error, config, resource.name) from None
    return policies


def _no_topic(topic: str) -> SourceError:
    return SourceError(f"topic {topic} does not exist", hint="`trs bootstrap snapshot` makes the topics")


def _missing_or_wrapped(error: KafkaException, config: KafkaConfig, topic: str) -> Exception:
    if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
        return _no_topic(topic)
    return wrap_error(error, config, f"describe topic {topic}")
