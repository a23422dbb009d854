"""`trs dms translate` on a real broker: killed in the middle, told to stop, fenced; and its row events in the lake."""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from app.dms import dms_topics
from app.settings import Settings
from app.wiring import kafka_config
from connectors.dms import DmsTranslator
from connectors.kafka import Producer, ensure_topics, watermarks
from processors.tables import DEAD_LETTERS_TOPIC, TABLES, all_topics, topic_of
from tests.connectors.dms_records import SCHEMA, Change, Form, control, dms_record
from tests.processors.decode_records import ACCOUNTS, GOOD_ROWS, INVOICES, LINES, SKUS
from tests.stack_helpers import environment, query, trs
from tests.topics import read_topic

FILE = "mysql-bin-changelog.000007"
ONE_LINE = Form(pretty=False)


@pytest.fixture
def dms_settings(local_settings: Settings) -> Settings:
    """Settings with topics and a group for DMS that no other test shares."""
    own = local_settings.topic_prefix
    return local_settings.model_copy(
        update={"dms_topic_prefix": f"{own}.dms", "dms_group": f"{own}.dms", "dms_schema": SCHEMA, "partitions": 4}
    )


def start(settings: Settings, log: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "app.cli.main", "dms", "translate", *arguments],
            env=environment(settings),
            stdout=out,
            stderr=out,
        )


def ends(settings: Settings, topics: Sequence[str]) -> int:
    return sum(end for _, end in watermarks(kafka_config(settings), topics).values())


def line_changes(count: int, seed: int) -> list[bytes]:
    """Records of lines that come, change, go, and move between invoices, with some that are no rows amid them."""
    chance = random.Random(seed)
    live: dict[tuple[int, str], dict[str, Any]] = {}
    records: list[bytes] = []
    while len(records) < count:
        at = (chance.randrange(3000), f"item {chance.randrange(4)}")
        old = live.pop(at, None)
        new = {"invoice_id": at[0], "item_id": at[1], "quantity": len(records)}
        op = "c" if old is None else chance.choice("uud")
        if op == "u" and chance.random() < 0.2 and (moved := (chance.randrange(3000), at[1])) not in live:
            new["invoice_id"] = moved[0]
        if op != "d":
            live[new["invoice_id"], at[1]] = new
        after = None if op == "d" else new
        change = Change(LINES, op, old, after, FILE, 4 + len(records), 0, 1, 1_700_000_000_000 + len(records))
        records.append(dms_record(change, ONE_LINE))
        if chance.random() < 0.01:
            records.append(chance.choice([b"{garbage", b"\xff", control("create-table", LINES.name)]))
    return records


def send(settings: Settings, topic: str, records: Sequence[bytes], partitions: int) -> list[list[bytes]]:
    """The records spread over the partitions of a DMS topic; returns what each holds."""
    ensure_topics(kafka_config(settings), [topic], partitions)
    parts = [list(records[number::partitions]) for number in range(partitions)]
    producer = Producer(kafka_config(settings))
    for number, part in enumerate(parts):
        producer.send(topic, [None] * len(part), part, partition=number)
    producer.flush()
    producer.close()
    return parts


def test_translator_killed_in_the_middle_loses_nothing_doubles_nothing_and_keeps_order(
    dms_settings: Settings, tmp_path: Path
) -> None:
    total = 70_000
    source = topic_of(dms_settings.dms_topic_prefix, LINES.name)
    parts = send(dms_settings, source, line_changes(total, seed=1), partitions=3)
    target, letters = (topic_of(dms_settings.topic_prefix, name) for name in (LINES.name, DEAD_LETTERS_TOPIC))
    ensure_topics(kafka_config(dms_settings), all_topics(dms_settings.topic_prefix), dms_settings.partitions)
    process = start(dms_settings, tmp_path / "log")
    try:
        deadline = time.monotonic() + 60
        while ends(dms_settings, [target]) == 0:
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
    finally:
        process.kill()
        process.wait()
    killed_at = ends(dms_settings, [target])
    # the second joins while the first is at work, and takes partitions from it
    both = [start(dms_settings, tmp_path / n, "--until-caught-up", "--instance", n) for n in ("0", "1")]
    for number, process in enumerate(both):
        assert process.wait(120) == 0, (tmp_path / str(number)).read_text()

    wanted: dict[tuple[bytes, bytes], tuple[int, int]] = {}
    refused: Counter[tuple[int, int]] = Counter()
    translator = DmsTranslator(source_name="aurora", schema=SCHEMA)
    for number, part in enumerate(parts):
        for offset, record in enumerate(part):
            try:
                messages = translator.translate(record, 0)
            except Exception:  # noqa: BLE001 - whatever it is, the record is not translated
                refused[number, offset] += 1
                continue
            for message in messages:
                assert message.key is not None
                wanted[message.key, message.value] = (number, offset)
    found = read_topic(dms_settings, target)
    assert 0 < killed_at < len(wanted) <= len(found), "it was not killed in the middle"
    assert Counter((record.key, record.value) for record in found) == Counter(dict.fromkeys(wanted, 1))
    latest: dict[tuple[int, int], int] = {}
    for record in found:
        assert record.key is not None
        number, place = wanted[record.key, record.value]
        assert latest.get((record.partition, number), -1) <= place
        latest[record.partition, number] = place
    told = [json.loads(record.value) for record in read_topic(dms_settings, letters)]
    assert Counter((letter["partition"], letter["offset"]) for letter in told) == refused
    assert refused


def test_rows_of_dms_reach_the_lake_and_refused_records_its_dead_letters(dms_settings: Settings) -> None:
    settings = dms_settings.model_copy(update={"dms_load_position": f"{FILE}:4"})
    rows = {
        ACCOUNTS: GOOD_ROWS["accounts"],
        SKUS: GOOD_ROWS["skus"] | {"item_retail_price": "2.50"},
        INVOICES: GOOD_ROWS["invoices"] | {"account_id": 1},
        LINES: GOOD_ROWS["invoice_line_items"] | {"item_id": "a"},
    }
    for table, row in rows.items():
        records = [dms_record(Change(table, "r", None, row, "", 0, 0, 0, 1_700_000_000_000))]
        if table is LINES:
            moved = row | {"invoice_id": 11, "quantity": 4}
            records.append(dms_record(Change(LINES, "u", row, moved, FILE, 500, 0, 1, 1_700_000_001_000)))
        if table is INVOICES:
            other = row | {"invoice_id": 11}
            records.append(dms_record(Change(INVOICES, "c", None, other, FILE, 400, 0, 1, 1_700_000_001_000)))
            records.append(b"\xffno record")
        send(settings, topic_of(settings.dms_topic_prefix, table.name), records, partitions=1)
    trs(settings, "dms", "translate", "--until-caught-up")
    trs(settings, "worker", "--until-caught-up")
    totals = query(settings, "SELECT inv_id, inv_total::VARCHAR AS total, inv_items FROM invoice_features ORDER BY 1")
    assert totals.to_pylist() == [
        {"inv_id": 9, "total": "0.0000000000", "inv_items": 0},
        {"inv_id": 11, "total": "10.0000000000", "inv_items": 4},
    ]
    shown = json.loads(trs(settings, "dead-letters", "list", "--json").stdout)
    assert "not_utf8" in json.dumps(shown)


def test_translator_stops_on_sigterm_and_a_second_of_its_name_takes_over(
    dms_settings: Settings, tmp_path: Path
) -> None:
    first = start(dms_settings, tmp_path / "first")
    others = []
    try:
        wait_for(first, tmp_path / "first", "translating")
        send(dms_settings, topic_of(dms_settings.dms_topic_prefix, LINES.name), line_changes(50, seed=2), 4)
        target = topic_of(dms_settings.topic_prefix, LINES.name)
        deadline = time.monotonic() + 30
        while ends(dms_settings, [target]) == 0:
            assert time.monotonic() < deadline, (tmp_path / "first").read_text()
        second = start(dms_settings, tmp_path / "second")
        others.append(second)
        assert first.wait(60) == 8, (tmp_path / "first").read_text()
        assert "--instance" in (tmp_path / "first").read_text().splitlines()[-1]
        wait_for(second, tmp_path / "second", "translating")
        second.send_signal(signal.SIGTERM)
        assert second.wait(30) == 0, (tmp_path / "second").read_text()
    finally:
        for process in (first, *others):
            process.kill()
            process.wait()
    assert set(dms_topics(dms_settings)) == {topic_of(dms_settings.dms_topic_prefix, t.name) for t in TABLES} | {
        topic_of(dms_settings.dms_topic_prefix, "control")
    }


def wait_for(process: "subprocess.Popen[bytes]", log: Path, text: str) -> None:
    deadline = time.monotonic() + 60
    while text not in log.read_text(encoding="utf-8"):
        assert process.poll() is None, log.read_text(encoding="utf-8")
        assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
        time.sleep(0.05)
