"""The translator's start and end on a real broker: gaps, rows of a full load, settings; and what DMS is told."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from app.dms import dms_topics, run_translator
from app.settings import Settings
from app.wiring import kafka_config
from connectors.kafka import GroupReader, Producer, Record, TransactionalProducer, ensure_topics
from connectors.mysql import DatabaseUrl, connect, ddl
from processors.errors import OffsetGapError, SettingsError
from processors.tables import TABLES, all_topics, topic_of
from tests.app.commands import trs
from tests.connectors.dms_records import SCHEMA, Change, dms_record
from tests.processors.decode_records import GOOD_ROWS, LINES
from tests.stack_helpers import environment
from tests.topics import read_topic
from tests.waiting import wait_until

FILE = "mysql-bin-changelog.000007"


@pytest.fixture
def dms_settings(local_settings: Settings) -> Settings:
    own = local_settings.topic_prefix
    return local_settings.model_copy(
        update={"dms_topic_prefix": f"{own}.dms", "dms_group": f"{own}.dms", "dms_schema": SCHEMA, "partitions": 2}
    )


def source(settings: Settings) -> str:
    return topic_of(settings.dms_topic_prefix, LINES.name)


def send(settings: Settings, records: Sequence[bytes]) -> None:
    ensure_topics(kafka_config(settings), [source(settings)], 1)
    producer = Producer(kafka_config(settings))
    producer.send(source(settings), [None] * len(records), list(records))
    producer.flush()
    producer.close()


def lines(count: int, op: str = "c") -> list[bytes]:
    rows = [GOOD_ROWS[LINES.name] | {"quantity": n} for n in range(count)]
    return [
        dms_record(Change(LINES, op, None, row, FILE, 4 + n, 0, 1, 1_700_000_000_000)) for n, row in enumerate(rows)
    ]


def translate(settings: Settings, *, accept_gap: bool = False) -> list[int]:
    """Translates what is there; returns the quantities of all lines in the lines' topic."""
    run_translator(settings, instance="0", until_caught_up=True, accept_gap=accept_gap, stopped=lambda: False)
    records = read_topic(settings, topic_of(settings.topic_prefix, LINES.name))
    return [json.loads(record.value)["after"]["quantity"] for record in records]


def test_records_that_were_deleted_before_they_were_translated_are_told(dms_settings: Settings) -> None:
    send(dms_settings, lines(5))
    assert translate(dms_settings) == [0, 1, 2, 3, 4]
    send(dms_settings, lines(3))
    admin = AdminClient({"bootstrap.servers": dms_settings.kafka})
    (deleted,) = admin.delete_records([TopicPartition(source(dms_settings), 0, 7)]).values()
    assert deleted.result().low_watermark == 7
    with pytest.raises(
        OffsetGapError, match=r"begins at offset 7, and 5 is to be read next.*--accept-gap.*trs bootstrap diff"
    ):
        translate(dms_settings)
    assert translate(dms_settings, accept_gap=True) == [0, 1, 2, 3, 4, 2]


def test_position_beyond_the_end_of_a_topic_is_told(dms_settings: Settings) -> None:
    send(dms_settings, lines(5))
    member = Consumer({"bootstrap.servers": dms_settings.kafka, "group.id": dms_settings.dms_group})
    member.commit(offsets=[TopicPartition(source(dms_settings), 0, 9)], asynchronous=False)
    member.close()
    with pytest.raises(OffsetGapError, match="ends at offset 5, and 9 is to be read next"):
        translate(dms_settings)
    assert translate(dms_settings, accept_gap=True) == [0, 1, 2, 3, 4]


def test_full_load_without_a_position_sends_nothing_and_goes_on_once_it_is_set(dms_settings: Settings) -> None:
    send(dms_settings, [*lines(2), *lines(1, "r")])
    with pytest.raises(SettingsError, match="TRS_DMS_LOAD_POSITION"):
        translate(dms_settings)
    assert read_topic(dms_settings, topic_of(dms_settings.topic_prefix, LINES.name)) == []
    placed = dms_settings.model_copy(update={"dms_load_position": f"{FILE}:3"})
    assert translate(placed) == [0, 1, 0]


def test_translator_that_shares_the_partitions_ends_only_when_the_others_have_translated_theirs(
    dms_settings: Settings,
) -> None:
    kafka, target = kafka_config(dms_settings), topic_of(dms_settings.topic_prefix, LINES.name)
    ensure_topics(kafka, [*dms_topics(dms_settings), *all_topics(dms_settings.topic_prefix)], 2)
    sender = Producer(kafka)
    for partition in (0, 1):
        sender.send(source(dms_settings), [None] * 3, list(lines(3)), partition=partition)
    sender.flush()
    sender.close()
    rounds, failed = 0, True

    def count() -> bool:
        nonlocal rounds
        rounds += 1
        return failed and rounds > 300

    def translate_all() -> None:
        run_translator(dms_settings, instance="0", until_caught_up=True, accept_gap=False, stopped=count)

    with (
        closing(TransactionalProducer(kafka, f"{dms_settings.dms_group}.other")) as producer,
        closing(
            GroupReader(
                kafka, dms_topics(dms_settings), group=dms_settings.dms_group, instance="other", session_timeout_s=10
            )
        ) as other,
        ThreadPoolExecutor(1) as threads,
    ):
        held: dict[int, Record] = {}

        def read() -> bool:
            held.update({r.partition: r for r in other.read(100, 0.1)})
            return other.is_assigned

        wait_until(read, timeout_s=30, what="the other has all partitions")
        translating = threads.submit(translate_all)
        wait_until(
            lambda: read() and len(read_topic(dms_settings, target)) == 3, timeout_s=30, what="its share is translated"
        )
        enough = rounds + 20
        wait_until(lambda: (read() and rounds > enough) or translating.done(), timeout_s=30, what="it looks on")
        assert not translating.done()
        mine = {partition for topic, partition in other.positions if topic == source(dms_settings)}
        assert len(mine) == 1
        producer.begin()
        producer.send_positions(*other.commit_point([held[partition] for partition in mine]))
        producer.commit()
        translating.result(30)
        failed = False
    assert len(read_topic(dms_settings, target)) == 3


def test_translator_that_does_not_know_whose_rows_they_are_says_what_to_set() -> None:
    answer = trs("dms", "translate")
    assert (answer.code, "set TRS_DMS_SCHEMA, or TRS_DATABASE" in answer.err) == (2, True)


def test_load_position_that_is_none_is_told_by_its_setting() -> None:
    answer = trs("dms", "translate", TRS_DMS_LOAD_POSITION="000024:4")
    assert answer.code == 2
    assert "TRS_DMS_LOAD_POSITION: no binlog file and position" in answer.err


def test_what_dms_is_told_follows_from_settings_without_asking_the_server() -> None:
    given = {"TRS_DATABASE": "mysql://dms:secret@db:3306/shop", "TRS_SOURCE_NAMES": "old,new"}
    answer = trs("connector", "dms-render", "--server-version", "8.0.mysql_aurora.3.08.2", **given)
    arguments = json.loads(answer.out)
    assert arguments["task"]["ReplicationTaskIdentifier"] == "trs-new"
    assert arguments["source"]["EngineName"] == "aurora"
    assert "secret" not in answer.out + answer.err
    assert "CdcStartPosition" in answer.err
    part = trs(*("connector", "dms-render", "--server-version", "9.7.4", "--part", "source", "--with-secrets"), **given)
    assert json.loads(part.out)["Password"] == "secret"


def test_task_begins_where_the_binlog_ends(dms_settings: Settings) -> None:
    assert dms_settings.database is not None
    url = DatabaseUrl.parse(dms_settings.database.get_secret_value())
    with connect(url) as connection, connection.cursor() as cursor:
        for table in TABLES:
            cursor.execute(ddl(table))
    given = environment(dms_settings)
    answer = trs("connector", "dms-render", "--part", "task", **given)
    assert answer.code == 0, answer.err
    start = json.loads(answer.out)["CdcStartPosition"]
    loading = trs("connector", "dms-render", "--part", "task", "--migration", "full-load-and-cdc", **given)
    assert "CdcStartPosition" not in json.loads(loading.out)
    assert f"TRS_DMS_LOAD_POSITION={start.rsplit(':', 1)[0]}:" in loading.err
