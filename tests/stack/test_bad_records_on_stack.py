"""Bad records on real parts: one of each kind among good rows, kept whole, counted, shown, sent again; the policy."""

import json
import re
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from app.dead_letters import DeadLetters
from app.lake_session import LakeSession
from app.settings import Settings
from app.wiring import kafka_config, lake_location
from connectors.delta_lake import DeltaLake
from connectors.kafka import Producer, ensure_topics, watermarks
from processors.features.declarations import INVOICE_FEATURES
from processors.reasons import Reason
from processors.tables import all_topics, topic_of
from tests.processors.decode_records import (
    ACCOUNTS,
    GOOD_ROWS,
    INVOICES,
    LINES,
    SKUS,
    SOURCE_NAMES,
    encode,
    envelope,
    source,
)
from tests.stack_helpers import batch_features, feed, query, start_worker, trs, write_extracts
from tests.topics import read_topic

pytestmark = pytest.mark.timeout(900)
LARGE_BYTES = 20_000_000


@dataclass(frozen=True)
class Bad:
    """A record that is refused, and why; a null key goes to partition 2."""

    topic: str
    value: bytes
    reason: str
    key: bytes | None = b'{"invoice_id":1}'


def line(**changes: Any) -> bytes:
    return encode(envelope(LINES, after=GOOD_ROWS["invoice_line_items"] | changes))


def invoice(**changes: Any) -> bytes:
    return encode(envelope(INVOICES, after=GOOD_ROWS["invoices"] | changes))


BAD = (
    Bad("invoices", b"no json", "not_json"),
    Bad("invoices", line()[:-9], "not_json"),
    Bad("invoices", invoice().replace(b"my", b"\xff\xfe"), "not_utf8"),
    Bad("invoices", invoice(account_id="seven"), "bad_value"),
    Bad("invoices", invoice(account_id={}), "bad_value"),
    Bad("invoices", invoice(date_issued=10**9), "bad_value"),
    Bad("invoices", invoice(date_issued="2018-02-30"), "bad_value"),
    Bad("invoices", encode(envelope(INVOICES) | {"op": "x"}), "unknown_op"),
    Bad("invoices", line(), "unknown_table"),
    Bad("invoices", encode(envelope(INVOICES, source=source(INVOICES, name="new"))), "unknown_source"),
    Bad("invoices", encode(envelope(INVOICES, source=source(INVOICES, pos=-1))), "bad_position"),
    Bad("invoices", b'{"x":"' + b"x" * LARGE_BYTES + b'"}', "unknown_op"),
    Bad("invoice_line_items", encode(envelope(LINES, after={"invoice_id": 1})), "missing_column"),
    Bad("invoice_line_items", line(quantity=2**31), "bad_value"),
    Bad("invoice_line_items", line(item_id="x" * 65), "bad_value"),
    Bad("invoice_line_items", line(), "null_key", key=None),
    Bad("invoice_line_items", encode(envelope(LINES, op="d")), "missing_row"),
    Bad("skus", encode(envelope(SKUS, after=GOOD_ROWS["skus"] | {"item_retail_price": "1e400"})), "bad_value"),
    Bad("accounts", encode(envelope(ACCOUNTS, after=GOOD_ROWS["accounts"] | {"company_name": None})), "null_value"),
    Bad("invoice_documents", b"{}", "bad_document"),
    Bad("dead_letters", b"[]", "unreadable_dead_letter"),
)
IGNORED = {"tombstone": 3, "heartbeat": 2, "schema_change": 1}


def make_topics(settings: Settings) -> None:
    """The topics, that of the invoices with room for large records."""
    large = topic_of(settings.topic_prefix, "invoices")
    admin = AdminClient({"bootstrap.servers": settings.kafka})
    config = {"cleanup.policy": "delete", "max.message.bytes": "25000000"}
    admin.create_topics([NewTopic(large, settings.partitions, 1, config=config)])[large].result(20)
    ensure_topics(kafka_config(settings), all_topics(settings.topic_prefix), settings.partitions)


def send_bad(settings: Settings, records: tuple[Bad, ...]) -> None:
    producer = Producer(kafka_config(settings), **{"message.max.bytes": 30_000_000})
    for bad in records:
        topic = topic_of(settings.topic_prefix, bad.topic)
        producer.send(topic, [bad.key], [bad.value], partition=2 if bad.key is None else None)
    producer.flush()
    producer.close()


def send_ignored(settings: Settings) -> None:
    producer = Producer(kafka_config(settings))
    topic = topic_of(settings.topic_prefix, "invoices")
    values = [None] * 3 + [b'{"ts_ms":1795439760123}'] * 2 + [b'{"databaseName":"trs","ddl":"ALTER"}']
    producer.send(topic, [b'{"invoice_id":%d}' % n for n in range(len(values))], values)
    producer.flush()
    producer.close()


def letters(settings: Settings, *options: str) -> list[dict[str, Any]]:
    found = json.loads(trs(settings, "dead-letters", "list", "--json", "--limit", "1000", *options).stdout)
    rows: list[dict[str, Any]] = found["letters"]
    return rows


def features(settings: Settings) -> list[dict[str, Any]]:
    columns = ", ".join(INVOICE_FEATURES.column_names)
    rows: list[dict[str, Any]] = query(settings, f"SELECT {columns} FROM invoice_features ORDER BY inv_id").to_pylist()
    return rows


@pytest.fixture
def settings(local_settings: Settings) -> Settings:
    """A lake in a folder; the sources of the bad records' neighbours are known."""
    own = local_settings.model_copy(update={"source_names": SOURCE_NAMES})
    make_topics(own)
    return own


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_extracts(tmp_path / "extracts", invoices=300, seed=11)


def test_bad_records_of_every_kind_cost_themselves_alone_and_all_are_accounted_for(
    settings: Settings, folder: Path, tmp_path: Path
) -> None:
    send_bad(settings, BAD[::2])
    good = feed(settings, folder, run=1)
    send_bad(settings, BAD[1::2])
    send_ignored(settings)
    trs(settings, "worker", "--until-caught-up", timeout_s=400)

    expected = batch_features(settings, f"csv:{folder}", INVOICE_FEATURES, tmp_path)
    assert len(expected) == 300
    assert features(settings) == expected.to_pylist()

    found = letters(settings)
    assert Counter((r["topic"].rsplit(".", 1)[-1], r["reason"]) for r in found) == Counter(
        (bad.topic, bad.reason) for bad in BAD
    )
    sent = {(bad.topic, bad.value): bad for bad in BAD}
    held = {(t, r.partition, r.value) for t in {r["topic"] for r in found} for r in read_topic(settings, t)}
    with LakeSession(settings) as session:
        shown = [DeadLetters(session).content(r["topic"], r["partition"], r["offset"]) for r in found]
    for content in shown:
        letter = content.letter
        assert content.value is not None
        bad = sent.pop((letter.topic.rsplit(".", 1)[-1], content.value))
        assert (content.key, letter.reason) == (bad.key, bad.reason)
        assert (letter.topic, letter.partition, content.value) in held
        assert letter.time is not None
        assert content.record_ts is not None
        assert letter.time > content.record_ts > datetime(2020, 1, 1, tzinfo=UTC)
        assert letter.detail
    assert sent == {}

    commits = [
        commit
        for log in ("sku_log", "invoice_log", "account_log")
        for commit in DeltaLake(lake_location(settings)).recent_commits(log, 1000)
        if commit.get("kind") == "epoch"
    ]
    read, dead = (sum(c[name] for c in commits) for name in ("read", "dead"))
    ignored: Counter[str] = Counter()
    for commit in commits:
        ignored.update(commit["ignored"])
    ends = {
        place: end for place, (_, end) in watermarks(kafka_config(settings), all_topics(settings.topic_prefix)).items()
    }
    documents = sum(n for (t, _), n in ends.items() if t.endswith("invoice_documents")) - 1  # one of them is bad
    assert read == sum(ends.values())
    assert (dead, dict(ignored)) == (len(BAD), IGNORED)
    assert read == (good + documents) + sum(ignored.values()) + dead


def test_replayed_records_come_to_their_partition_unchanged_and_count_once_their_cause_is_mended(
    settings: Settings, folder: Path, tmp_path: Path
) -> None:
    feed(settings, folder, run=1)
    row = {"invoice_id": 9001, "account_id": 5, "date_issued": 18500, "payment_dates": None}
    good_later = encode(envelope(INVOICES, after=row, source=source(INVOICES, name="new")))
    key = b'{"invoice_id":9001}'
    stays_bad = Bad("invoice_line_items", line(invoice_id=9001), "null_key", key=None)
    send_bad(settings, (Bad("invoices", good_later, "unknown_source", key=key), stays_bad, BAD[-1]))
    trs(settings, "worker", "--until-caught-up", timeout_s=400)
    before = {(r["topic"], r["partition"], r["offset"], r["reason"]) for r in letters(settings)}
    assert sorted(reason for *_, reason in before) == ["null_key", "unknown_source", "unreadable_dead_letter"]

    mended = settings.model_copy(update={"source_names": (*settings.source_names, "new")})
    assert "nothing was done" in trs(mended, "dead-letters", "replay", "--since", "2020-01-01", "--dry-run").stderr
    before_replay_ms = int(time.time() * 1000)
    replayed = trs(mended, "dead-letters", "replay", "--since", "2020-01-01", "--note", "new server")
    assert "2 sent" in replayed.stderr
    assert "trs bootstrap snapshot" in replayed.stderr
    assert [r["reason"] for r in letters(mended)] == ["unreadable_dead_letter"]
    for table, record in (("invoices", (key, good_later)), ("invoice_line_items", (None, stays_bad.value))):
        topic = topic_of(settings.topic_prefix, table)
        same = [r for r in read_topic(settings, topic) if (r.key, r.value) == record]
        assert len(same) == 2
        assert same[0].partition == same[1].partition
        assert same[0].timestamp_ms < before_replay_ms <= same[1].timestamp_ms, "retention counts from the replay"

    trs(mended, "worker", "--until-caught-up", timeout_s=400)
    (feature,) = query(mended, "SELECT acct_id, inv_items FROM invoice_features WHERE inv_id = 9001").to_pylist()
    assert feature == {"acct_id": 5, "inv_items": 0}
    anew = {(r["topic"], r["partition"], r["offset"], r["reason"]) for r in letters(mended)}
    assert sorted(reason for *_, reason in anew) == ["null_key", "unreadable_dead_letter"]
    assert len(anew - before) == 1, "what is refused again is a new letter at a new offset"
    done = [r for r in letters(mended, "--all") if r["action"] == "replayed"]
    assert {(r["topic"], r["partition"], r["offset"], r["reason"]) for r in done} == before - anew
    assert {r["note"] for r in done} == {"new server"}


def test_worker_with_a_reason_to_stop_ends_before_the_record_until_its_letter_is_discarded(
    settings: Settings, tmp_path: Path
) -> None:
    send_bad(settings, (Bad("skus", b"bad", "not_json"),))
    strict = settings.model_copy(update={"dead_letter_stop": (Reason.NOT_JSON,)})
    for attempt in range(2):
        log = tmp_path / f"worker-{attempt}.log"
        worker = start_worker(strict, log, "--until-caught-up")
        assert worker.wait(120) == 11, log.read_text()
        told = [each for each in log.read_text().splitlines() if "refused for not_json" in each]
        assert len(told) == 1
        assert f"{settings.topic_prefix}.skus-" in told[0]
        assert "Traceback" not in log.read_text()
        assert [r["reason"] for r in letters(settings)] == ["not_json"]
    advice = re.search(r"`trs (dead-letters discard \S+ \d+ \d+ --note) WHY`", told[0])
    assert advice is not None
    trs(settings, *advice[1].split(), "a test record")
    passed = trs(strict, "worker", "--until-caught-up", timeout_s=400)
    assert "passes 1 records whose dead letters were dealt with" in passed.stderr
    assert [(r["reason"], r["action"]) for r in letters(settings, "--all")] == [("not_json", "discarded")]
