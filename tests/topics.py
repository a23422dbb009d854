"""What a topic holds, as a consumer of committed records sees it."""

import uuid
from dataclasses import dataclass

from confluent_kafka import Consumer, TopicPartition

from app.settings import Settings
from app.wiring import kafka_config
from connectors.kafka import client_config, watermarks


@dataclass(frozen=True)
class Record:
    """One record of a topic."""

    partition: int
    key: bytes | None
    value: bytes
    timestamp_ms: int


def read_topic(settings: Settings, topic: str) -> list[Record]:
    """All committed records between the topic's start and its end now."""
    kafka = kafka_config(settings)
    ends = {place: end for place, (start, end) in watermarks(kafka, [topic]).items() if end > start}
    consumer = Consumer(
        {
            **client_config(kafka),
            "group.id": uuid.uuid4().hex,
            "isolation.level": "read_committed",
            "enable.partition.eof": False,
            "enable.auto.commit": False,
        }
    )
    consumer.assign([TopicPartition(*place, 0) for place in ends])
    records = []
    try:
        while any(consumer.position([TopicPartition(*place)])[0].offset < end for place, end in ends.items()):
            for message in consumer.consume(10_000, timeout=0.2):
                assert message.error() is None, message.error()
                _, timestamp_ms = message.timestamp()
                records.append(Record(message.partition(), message.key(), message.value(), timestamp_ms))
    finally:
        consumer.close()
    return records
