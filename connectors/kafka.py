"""Kafka, through confluent-kafka: topics, producers, a group's reader (the worker's consumer is Faust's)."""

from connectors.kafka_config import KafkaConfig, client_config
from connectors.kafka_group import GroupReader, Record
from connectors.kafka_producer import KafkaDocumentSink, Producer, TransactionalProducer
from connectors.kafka_topics import (
    PartitionEnds,
    check_topics,
    ensure_topics,
    partition_counts,
    topic_ids,
    watermarks,
)

__all__ = [
    "GroupReader",
    "KafkaConfig",
    "KafkaDocumentSink",
    "PartitionEnds",
    "Producer",
    "Record",
    "TransactionalProducer",
    "check_topics",
    "client_config",
    "ensure_topics",
    "partition_counts",
    "topic_ids",
    "watermarks",
]
