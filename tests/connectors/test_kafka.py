"""Kafka clients against a real broker: topics, acknowledged messages, transactions, one clear line on failure."""

import socket
import time

import pytest

from app.settings import Settings
from app.wiring import kafka_config
from connectors.kafka import (
    KafkaConfig,
    KafkaDocumentSink,
    Producer,
    TransactionalProducer,
    ensure_topics,
    partition_counts,
    topic_ids,
    watermarks,
)
from processors.errors import FencedError, SourceError, UnavailableError
from tests.murmur2 import murmur2
from tests.topics import read_topic


@pytest.fixture
def topic(stack_settings: Settings) -> str:
    """A topic of the test's own with 8 partitions."""
    name = f"{stack_settings.topic_prefix}.numbers"
    ensure_topics(kafka_config(stack_settings), [name], 8)
    return name


def keyed(count: int) -> tuple[list[bytes], list[bytes]]:
    return [b'{"invoice_id":%d}' % n for n in range(count)], [b"value %d" % n for n in range(count)]


def test_ensure_topics_makes_missing_ones_once(stack_settings: Settings) -> None:
    kafka = kafka_config(stack_settings)
    names = [f"{stack_settings.topic_prefix}.{n}" for n in ("a", "b")]
    assert ensure_topics(kafka, names[:1], 8) == (names[0],)
    assert ensure_topics(kafka, names, 8) == (names[1],)
    assert ensure_topics(kafka, names, 8) == ()
    assert partition_counts(kafka, [*names, "absent"]) == dict.fromkeys(names, 8)
    ids = topic_ids(kafka, names)
    assert len(set(ids.values())) == 2
    assert topic_ids(kafka, names) == ids


def test_ensure_topics_with_another_partition_count_names_both(stack_settings: Settings, topic: str) -> None:
    with pytest.raises(SourceError, match=r"has 8 partitions, not 4 \(set TRS_PARTITIONS"):
        ensure_topics(kafka_config(stack_settings), [topic], 4)


def test_topic_that_does_not_exist_is_told(stack_settings: Settings) -> None:
    for ask in (topic_ids, watermarks):
        with pytest.raises(SourceError, match=r"topic no\.such\.topic does not exist"):
            ask(kafka_config(stack_settings), ["no.such.topic"])


def test_producer_routes_by_murmur2_of_the_key(stack_settings: Settings, topic: str) -> None:
    keys, values = keyed(50_000)
    producer = Producer(kafka_config(stack_settings))
    producer.send(topic, keys, values)
    producer.flush()
    producer.close()
    records = read_topic(stack_settings, topic)
    assert sorted(r.value for r in records) == sorted(values)
    assert {(r.partition == murmur2(r.key or b"") % 8) for r in records} == {True}
    marks = watermarks(kafka_config(stack_settings), [topic])
    assert sum(end - start for start, end in marks.values()) == 50_000


def test_producer_with_a_message_too_large_fails_the_flush(stack_settings: Settings, topic: str) -> None:
    producer = Producer(kafka_config(stack_settings))
    with pytest.raises(UnavailableError, match="size"):
        producer.send(topic, [b"k"], [b"x" * 2_000_000])
        producer.flush()
    producer.close()


def test_transactions_show_what_was_committed_only(stack_settings: Settings, topic: str) -> None:
    producer = TransactionalProducer(kafka_config(stack_settings), f"{topic}-writer")
    for number, value in enumerate((b"committed", b"aborted", b"committed too")):
        producer.begin()
        producer.send(topic, [b"k"], [value])
        if number == 1:
            producer.flush()
            producer.abort()
        else:
            producer.commit()
    producer.close()
    assert [r.value for r in read_topic(stack_settings, topic)] == [b"committed", b"committed too"]


def test_second_transactional_producer_fences_the_first(stack_settings: Settings, topic: str) -> None:
    kafka = kafka_config(stack_settings)
    first = TransactionalProducer(kafka, f"{topic}-writer")
    first.begin()
    first.send(topic, [b"k"], [b"stale"])
    first.flush()
    second = TransactionalProducer(kafka, f"{topic}-writer")
    with pytest.raises(FencedError):
        first.commit()
    second.begin()
    second.send(topic, [b"k"], [b"fresh"])
    second.commit()
    assert [r.value for r in read_topic(stack_settings, topic)] == [b"fresh"]
    first.close()
    second.close()


def test_document_sink_returns_after_acknowledgement(stack_settings: Settings, topic: str) -> None:
    sink = KafkaDocumentSink(kafka_config(stack_settings), topic, partitions=8)
    keys, values = keyed(1_000)
    sink.send(keys, values)
    sink.flush()
    marks = watermarks(kafka_config(stack_settings), [topic])
    assert sum(end for _, end in marks.values()) == 1_000
    sink.close()


def test_unreachable_broker_is_one_line_within_ten_seconds(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(UnavailableError, match=rf"Kafka at 127\.0\.0\.1:{port} does not answer"):
        Producer(KafkaConfig(f"127.0.0.1:{port}"))
    assert time.monotonic() - started < 12
    assert capfd.readouterr().err == ""
