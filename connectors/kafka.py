"""Kafka, through confluent-kafka: configuration, topics and producers (the worker's consumer is Faust's)."""

from connectors.kafka_config import KafkaConfig, client_config
from connectors.kafka_producer import KafkaDocumentSink, Producer, TransactionalProducer
from connectors.kafka_topics import check_topics, ensure_topics, partition_counts, topic_ids, watermarks

__all__ = [
    "KafkaConfig",
    "KafkaDocumentSink",
    "Producer",
    "TransactionalProducer",
    "check_topics",
    "client_config",
    "ensure_topics",
    "partition_counts",
    "topic_ids",
    "watermarks",
]
