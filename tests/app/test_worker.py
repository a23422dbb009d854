"""What a worker delivers on a real broker: each record once, in order, from where the engine stands."""

import json
import sqlite3
import subprocess
import sys

from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from app.settings import Settings
from app.wiring import kafka_config
from connectors.kafka import ensure_topics
from tests.app.worker_process import Ledger, Start, WorkerProcess, ends, environment, produce, topics
from tests.waiting import wait_until


def test_worker_until_caught_up_delivers_every_record_once_in_order(
    settings: Settings, ledger: Ledger, start: Start
) -> None:
    for table in ("skus", "invoices", "invoice_line_items", "accounts"):
        produce(settings, table, 5000)

    worker = start("--until-caught-up")

    assert worker.wait() == 0, worker.log
    offsets = ledger.offsets()
    for place, end in ends(settings).items():
        assert offsets.get(place, []) == list(range(end))
    assert "caught up: 20,000 events" in worker.log


def test_worker_transactional_topic_is_read_to_its_end_without_aborted_records(
    settings: Settings, ledger: Ledger, start: Start
) -> None:
    topic = f"{settings.topic_prefix}.invoices"
    producer = Producer({"bootstrap.servers": settings.kafka, "transactional.id": settings.group})
    producer.init_transactions()
    for outcome in ("commit", "abort", "commit", "abort"):
        producer.begin_transaction()
        for _ in range(3):
            producer.produce(topic, value=outcome.encode(), partition=1)
        producer.flush()
        if outcome == "commit":
            producer.commit_transaction()
        else:
            producer.abort_transaction()

    worker = start("--until-caught-up")

    assert worker.wait() == 0, worker.log
    assert ledger.positions()[topic, 1] == ends(settings)[topic, 1] == 16
    assert ledger.offsets()[topic, 1] == [0, 1, 2, 8, 9, 10]


def places_with_lag(worker: WorkerProcess) -> set[tuple[str, int]]:
    """The partitions of which the worker's page says how far behind they are."""
    return {(row["topic"], row["partition"]) for row in json.loads(worker.get("/status.json")[1])["lag"]}


def test_worker_leaves_parked_partitions_alone_and_goes_on_with_the_others(
    settings: Settings, ledger: Ledger, start: Start
) -> None:
    for table in ("invoices", "invoice_documents"):
        produce(settings, table, 400)
    parked = (f"{settings.topic_prefix}.invoice_documents", 3)

    def others_read() -> bool:
        positions = ledger.positions()
        return all(positions.get(p, 0) == end for p, end in ends(settings).items() if p != parked)

    worker = start("--park", "3")
    wait_until(others_read, timeout_s=60, what="the other partitions are read")
    for table in ("invoices", "invoice_documents"):
        produce(settings, table, 400)
    wait_until(others_read, timeout_s=60, what="later records of the other partitions are read")

    assert parked not in ledger.offsets()
    assert ledger.rows("SELECT * FROM calls WHERE name = 'offered though parked'") == []
    assert "buckets are parked" in worker.log
    wait_until(lambda: places_with_lag(worker), timeout_s=30, what="the worker has looked at the broker")
    assert places_with_lag(worker) == set(ends(settings)) - {parked}
    assert worker.stop() == 0

    alone = start("--park", "3", "--until-caught-up")
    assert alone.wait() == 4, alone.log
    assert "features of a newer version" in alone.log
    assert "Traceback" not in alone.log

    newer = start("--until-caught-up")
    assert newer.wait() == 0, newer.log
    assert ledger.offsets()[parked] == list(range(ends(settings)[parked]))


def test_worker_message_of_20_mb_passes(stack_settings: Settings, ledger: Ledger) -> None:
    settings = stack_settings.model_copy(update={"partitions": 4})
    topic = f"{settings.topic_prefix}.invoices"
    # Made with its limit: a limit that is raised later reaches the broker's log some time after the answer.
    large = NewTopic(topic, 4, 1, config={"cleanup.policy": "delete", "max.message.bytes": "25000000"})
    admin = AdminClient({"bootstrap.servers": settings.kafka})
    admin.create_topics([large])[topic].result(20)
    ensure_topics(kafka_config(settings), topics(settings), settings.partitions)
    produce(settings, "invoices", 3, size=20_000_000, partition=2)
    produce(settings, "invoices", 100, partition=2)

    worker = WorkerProcess(settings, ledger, "--until-caught-up")

    try:
        assert worker.wait(120) == 0, worker.log
    finally:
        worker.kill()
    assert ledger.offsets()[topic, 2] == list(range(103))
    assert ledger.rows("SELECT sum(size_bytes) FROM batches") == [(60_010_000,)]


def test_worker_restart_begins_at_the_engines_positions_not_the_groups(
    settings: Settings, ledger: Ledger, start: Start
) -> None:
    topic = f"{settings.topic_prefix}.invoices"
    produce(settings, "invoices", 400)
    assert start("--until-caught-up").wait() == 0
    with_group = AdminClient({"bootstrap.servers": settings.kafka})
    moved = [TopicPartition(topic, partition, 90) for partition in range(4)]
    for future in with_group.alter_consumer_group_offsets(
        [ConsumerGroupTopicPartitions(settings.group, moved)]
    ).values():
        future.result(20)
    with sqlite3.connect(ledger.file) as con:
        con.execute("UPDATE positions SET next_offset = 40 WHERE topic = ?", (topic,))
        con.execute("DELETE FROM batches")

    assert start("--until-caught-up").wait() == 0

    assert ledger.offsets()[topic, 3] == list(range(40, 100))


def test_worker_entry_below_log_start_stops_with_the_offsets_and_accept_gap_goes_on(
    settings: Settings, ledger: Ledger, start: Start
) -> None:
    topic = f"{settings.topic_prefix}.invoices"
    produce(settings, "invoices", 40, partition=1)
    admin = AdminClient({"bootstrap.servers": settings.kafka})
    for future in admin.delete_records([TopicPartition(topic, 1, 25)]).values():
        future.result(20)

    refused = start()
    assert refused.wait() == 9
    assert f"{topic}-1: nothing was read of it yet" in refused.log
    assert "offsets [0, 25) are gone" in refused.log
    assert "Traceback" not in refused.log

    accepted = start("--until-caught-up", "--accept-gap")
    assert accepted.wait() == 0, accepted.log
    assert "GAP ACCEPTED" in accepted.log
    assert ledger.offsets()[topic, 1] == list(range(25, 40))


def test_worker_topic_made_anew_stops(settings: Settings, ledger: Ledger, start: Start) -> None:
    topic = f"{settings.topic_prefix}.invoices"
    produce(settings, "invoices", 40)
    assert start("--until-caught-up").wait() == 0
    admin = AdminClient({"bootstrap.servers": settings.kafka})
    admin.delete_topics([topic])[topic].result(20)

    def gone() -> bool:
        described = admin.describe_topics(TopicCollection([topic]))[topic]
        return described.exception() is not None

    wait_until(gone, timeout_s=20, what="the topic is deleted")

    worker = start()

    assert worker.wait() == 9, worker.log
    assert "was made anew with id" in worker.log


def test_worker_wrong_partition_count_names_the_topic(settings: Settings, ledger: Ledger) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.app.recording_engine", str(ledger.file)],
        env=environment(settings.model_copy(update={"partitions": 8})),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert f"{settings.topic_prefix}.skus has 4 partitions, not 8" in done.stderr
