"""The worker's shell on a real broker: what is delivered, to whom, from where, and how it ends."""

import json
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from app.local_workers import local_workers
from app.settings import Settings
from app.wiring import kafka_config
from connectors.kafka import ensure_topics, watermarks
from connectors.lake import LakeLocation, LakeStore
from tests.app.commands import trs
from tests.app.worker_process import Ledger, WorkerProcess, environment, produce, topics
from tests.waiting import wait_until

Start = Callable[..., WorkerProcess]


@pytest.fixture
def settings(stack_settings: Settings) -> Settings:
    """Four partitions, a session that ends fast, topics made."""
    own = stack_settings.model_copy(update={"partitions": 4, "session_timeout_s": 6.0})
    ensure_topics(kafka_config(own), topics(own), own.partitions)
    return own


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """The file that all recording engines of a test share."""
    return Ledger(tmp_path / "ledger.db")


@pytest.fixture
def start(settings: Settings, ledger: Ledger) -> Iterator[Start]:
    """Starts workers and ends those that still run."""
    workers: list[WorkerProcess] = []

    def begin(*options: str) -> WorkerProcess:
        worker = WorkerProcess(settings, ledger, *options, number=len(workers))
        workers.append(worker)
        return worker

    yield begin
    for worker in workers:
        worker.kill()


def ends(settings: Settings) -> dict[tuple[str, int], int]:
    held = watermarks(kafka_config(settings), topics(settings))
    return {place: end for place, (_, end) in held.items()}


def caught_up(settings: Settings, ledger: Ledger) -> bool:
    positions = ledger.positions()
    return all(positions.get(place, 0) == end for place, end in ends(settings).items())


def share(ledger: Ledger, *workers: WorkerProcess) -> bool:
    """Whether the workers own all four buckets, each bucket once."""
    owned = [ledger.buckets(worker.pid) for worker in workers]
    return all(owned) and sorted(b for buckets in owned for b in buckets or ()) == [0, 1, 2, 3]


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


def test_workers_join_and_die_share_equal_buckets_of_all_topics_and_lose_nothing(
    settings: Settings, ledger: Ledger, start: Start
) -> None:
    produce(settings, "invoices", 2000)
    first = start()
    wait_until(lambda: share(ledger, first), timeout_s=90, what="one worker owns all")
    second = start()
    produce(settings, "invoice_line_items", 2000)
    wait_until(lambda: share(ledger, first, second), timeout_s=90, what="two workers share")
    assert len(ledger.buckets(first.pid) or ()) == 2
    third = start()
    produce(settings, "accounts", 2000)
    wait_until(lambda: share(ledger, first, second, third), timeout_s=90, what="three workers share")

    second.kill()
    produce(settings, "invoices", 2000)

    wait_until(lambda: share(ledger, first, third), timeout_s=90, what="the others take over")
    wait_until(lambda: caught_up(settings, ledger), timeout_s=30, what="everything is read")
    offsets = ledger.offsets()
    for place, end in ends(settings).items():
        assert offsets.get(place, []) == list(range(end)), place
    assert first.stop() == 0, first.log
    assert third.stop() == 0, third.log


def test_worker_after_one_that_was_killed_says_that_it_waits_for_the_group(settings: Settings, ledger: Ledger) -> None:
    patient = settings.model_copy(update={"session_timeout_s": 60.0})
    killed = WorkerProcess(patient, ledger)
    try:
        wait_until(lambda: share(ledger, killed), timeout_s=90, what="one worker owns all")
    finally:
        killed.kill()
    successor = WorkerProcess(patient, ledger, number=1)
    try:
        wait_until(lambda: "waiting for the consumer group" in successor.log, timeout_s=60, what="it says so")
        assert "session_s=60.0" in successor.log
        assert "assigned" not in successor.log
    finally:
        successor.kill()


def test_workers_more_than_partitions_the_idle_one_is_ready_and_takes_over(
    settings: Settings, ledger: Ledger, start: Start
) -> None:
    workers = [start() for _ in range(5)]
    wait_until(
        lambda: (
            sorted(len(ledger.buckets(w.pid) or ()) for w in workers if ledger.buckets(w.pid) is not None)
            == [0, 1, 1, 1, 1]
        ),
        timeout_s=150,
        what="five workers share four buckets",
    )
    busy = next(w for w in workers if ledger.buckets(w.pid))

    assert busy.stop() == 0, busy.log

    rest = [w for w in workers if w is not busy]
    wait_until(lambda: share(ledger, *rest), timeout_s=90, what="the idle worker takes over")


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


def test_rebalance_revoke_comes_before_assign_and_after_the_commit_in_flight(
    settings: Settings, ledger: Ledger, start: Start
) -> None:
    produce(settings, "invoices", 2000)
    first = start("--slow-commit", "2")
    wait_until(lambda: share(ledger, first), timeout_s=90, what="one worker owns all")
    second = start("--slow-commit", "2")
    wait_until(lambda: share(ledger, first, second), timeout_s=90, what="two workers share")

    names = [n for (n,) in ledger.rows(f"SELECT name FROM calls WHERE pid = {first.pid} ORDER BY rowid")]
    assert names == ["start", "assign", "revoke", "assign"]
    wait_until(lambda: caught_up(settings, ledger), timeout_s=60, what="everything is read")
    for place, end in ends(settings).items():
        assert ledger.offsets().get(place, []) == list(range(end))


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


def test_worker_whose_home_cannot_be_written_ends_with_one_line(settings: Settings, start: Start) -> None:
    settings.home.symlink_to("/sys")  # not even root makes files there

    worker = start()

    assert worker.wait() == 5, worker.log
    assert f"{settings.home}/worker-{worker.pid}.json: " in worker.log
    assert "Traceback" not in worker.log


def test_worker_whose_look_at_the_lake_hangs_ends_in_order_when_told(start: Start, ledger: Ledger) -> None:
    worker = start("--until-caught-up", "--stuck-progress")
    asked = "SELECT 1 FROM calls WHERE name = 'progress'"
    wait_until(lambda: ledger.rows(asked), timeout_s=90, what="the worker asks how far the engine is")
    began = time.monotonic()

    assert worker.stop() == 0

    assert time.monotonic() - began < 5
    assert " stopped " in worker.log.splitlines()[-1], worker.log


@pytest.mark.long
def test_worker_that_a_task_keeps_ends_after_10_s_and_shows_its_threads(settings: Settings, start: Start) -> None:
    produce(settings, "invoices", 10)
    worker = start("--stubborn-task")
    wait_until(lambda: '"records": 10' in worker.get("/status.json")[1], timeout_s=60, what="the task has begun")

    assert worker.stop() == 0

    assert "the process does not end by itself" in worker.log
    assert "in run_worker" in worker.log  # in the dump of its threads


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


@pytest.mark.parametrize(("kind", "code", "line"), [("fenced", 8, "another owner"), ("fault", 70, "a slip")])
def test_worker_engine_failure_ends_with_its_exit_code(
    settings: Settings, start: Start, kind: str, code: int, line: str
) -> None:
    produce(settings, "invoices", 100)

    worker = start("--fail-after", "50", "--fail-with", kind)

    assert worker.wait() == code
    assert line in worker.log
    assert ("Traceback" in worker.log) == (kind == "fault")


def test_worker_sigterm_while_busy_ends_clean_within_10_s(settings: Settings, ledger: Ledger, start: Start) -> None:
    worker = start("--slow-commit", "1")
    wait_until(lambda: share(ledger, worker), timeout_s=90, what="the worker owns all")
    produce(settings, "invoices", 5000)
    wait_until(lambda: bool(ledger.positions()), timeout_s=20, what="a first commit")

    began = time.monotonic()
    assert worker.stop() == 0, worker.log

    assert time.monotonic() - began < 10
    assert "Traceback" not in worker.log
    admin = AdminClient({"bootstrap.servers": settings.kafka})
    assert admin.describe_consumer_groups([settings.group])[settings.group].result(20).members == []
    for place, offsets in ledger.offsets().items():
        assert offsets == list(range(ledger.positions()[place]))


def test_worker_that_is_stopped_while_it_loads_state_ends_clean(start: Start) -> None:
    worker = start("--slow-load", "60")
    wait_until(lambda: "loading state" in worker.log, timeout_s=90, what="the worker loads")
    assert worker.stop() == 0, worker.log
    assert "Traceback" not in worker.log


def test_worker_whose_commit_does_not_end_is_gone_in_the_time_that_it_has_to_stop(
    settings: Settings, ledger: Ledger, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRS_STOP_TIMEOUT_S", "2")
    worker = start("--slow-commit", "600")
    wait_until(lambda: share(ledger, worker), timeout_s=90, what="the worker owns all")
    produce(settings, "invoices", 10)
    wait_until(lambda: '"records": 10, "queued": 0' in worker.get("/status.json")[1], timeout_s=30, what="it commits")

    assert worker.stop() == 0, worker.log

    assert "the engine does not end" in worker.log
    assert "in _commit_batches" in worker.log  # what kept it, in the dump of its threads
    admin = AdminClient({"bootstrap.servers": settings.kafka})
    assert admin.describe_consumer_groups([settings.group])[settings.group].result(20).members == []
    assert ledger.positions() == {}


def test_worker_pages_say_live_ready_and_what_it_does(settings: Settings, ledger: Ledger, start: Start) -> None:
    worker = start()
    wait_until(lambda: worker.get("/ready")[0] == 200, timeout_s=30, what="the worker is ready")

    assert worker.get("/health")[0] == 200
    status = json.loads(worker.get("/status.json")[1])
    assert status["buckets"] == [0, 1, 2, 3]
    assert status["engine"] == {"records": 0, "queued": 0}
    assert "trs worker" in worker.get("/")[1]


def test_worker_that_loads_state_says_how_far_it_is_and_is_not_ready(
    settings: Settings, ledger: Ledger, start: Start, tmp_path: Path
) -> None:
    worker = start("--slow-load", "9")
    assert worker.get("/ready")[0] == 503
    shown: dict[str, Any] = {}

    def loads() -> bool:
        shown.update(json.loads(worker.get("/status.json")[1]))
        return shown["loading"] is not None and shown["loading"]["share"] > 0

    wait_until(loads, timeout_s=60, what="the worker loads state")
    code, said = worker.get("/ready")
    assert (code, json.loads(said)["phase"], json.loads(said)["ready"]) == (503, "loading state", False)
    assert worker.get("/health")[0] == 200
    assert (shown["phase"], shown["loading"]["stage"], shown["loading"]["share"] < 1) == (
        "loading state",
        "invoices",
        True,
    )
    there = {"TRS_HOME": str(settings.home), "TRS_LAKE": str(tmp_path / "lake"), "TRS_KAFKA": "127.0.0.1:1"}
    told = trs("status", **there).out
    assert f"worker {worker.pid}: loading state, stage invoices, reading rows, " in told
    assert "% of 1,000 rows in" in told

    wait_until(lambda: worker.get("/ready")[0] == 200, timeout_s=30, what="the worker is ready")
    lines = [line for line in worker.log.splitlines() if "loading state" in line]
    first, second = (int(line.split("done=")[1].split("%")[0]) for line in lines)
    assert first < 40 <= second - first, "after a second, and 5 s later"
    assert "folded_rows=900 log_rows=100" in lines[0]
    assert f"worker {worker.pid}: running, 4 buckets" in trs("status", **there).out
    assert worker.stop() == 0
    assert "worker " not in trs("status", **there).out


def test_worker_that_loads_for_a_moment_says_nothing_of_it(settings: Settings, start: Start) -> None:
    worker = start("--slow-load", "0.2")
    wait_until(lambda: worker.get("/ready")[0] == 200, timeout_s=60, what="the worker is ready")
    assert "loading" not in worker.log


def test_worker_unreachable_broker_says_so_in_one_line(settings: Settings, ledger: Ledger) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = settings.model_copy(update={"kafka": f"127.0.0.1:{taken.getsockname()[1]}"})
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "tests.app.recording_engine", str(ledger.file)],
            env=environment(nobody),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 4
    assert len(done.stderr.splitlines()) == 1
    assert nobody.kafka in done.stderr
    assert time.monotonic() - began < 45


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


def test_worker_json_log_is_one_object_per_line(settings: Settings, ledger: Ledger) -> None:
    worker = WorkerProcess(settings.model_copy(update={"log_format": "json"}), ledger, "--fail-after", "0")
    produce(settings, "invoices", 10)
    try:
        assert worker.wait() == 70
    finally:
        worker.kill()
    events = [json.loads(line)["event"] for line in worker.log.splitlines()]
    assert events[0] == "pages"
    assert "a fault of the program" in events


def test_worker_second_sigint_ends_at_once(settings: Settings, ledger: Ledger, start: Start) -> None:
    worker = start("--slow-commit", "30")
    wait_until(lambda: share(ledger, worker), timeout_s=90, what="the worker owns all")
    produce(settings, "invoices", 10)

    def committing() -> bool:
        return bool(json.loads(worker.get("/status.json")[1])["engine"] == {"records": 10, "queued": 0})

    wait_until(committing, timeout_s=30, what="the engine commits the records")

    worker.process.send_signal(signal.SIGINT)
    wait_until(lambda: "stopping" in worker.log, timeout_s=10, what="the worker stops")
    worker.process.send_signal(signal.SIGINT)

    assert worker.wait(5) == 130


def test_upkeep_that_fails_is_told_and_the_worker_goes_on_until_a_round_succeeds(
    settings: Settings, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = settings.home / "lake of upkeep"
    monkeypatch.setenv("TRS_UPKEEP_EVERY", "1s")
    monkeypatch.setenv("TRS_UPKEEP_BUDGET_PERCENT", "100")
    monkeypatch.setenv("TRS_LAKE", str(lake))
    worker = start()

    def upkeep() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(worker.get("/status.json")[1])["upkeep"]
        return found

    wait_until(lambda: upkeep()["failure"] is not None, timeout_s=60, what="a round has failed")
    assert "there is no lake" in upkeep()["failure"]
    assert "upkeep failed; it is tried again" in worker.log
    (told,) = [str(w) for w in local_workers(settings.home) if w.pid == worker.pid]
    assert "upkeep failed: there is no lake" in told
    assert worker.get("/health")[0] == 200
    LakeStore(LakeLocation(str(lake))).create()
    wait_until(lambda: upkeep()["failure"] is None, timeout_s=60, what="a round succeeds")
    assert upkeep()["last_actions"] > 0
    assert worker.stop() == 0


def test_worker_that_is_stopped_ends_a_round_of_upkeep_within_seconds(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The round waits for an object store that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("TRS_UPKEEP_EVERY", "1s")
        monkeypatch.setenv("TRS_LAKE", "s3://bucket/lake")
        monkeypatch.setenv("TRS_AWS_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        for name in ("TRS_AWS_ACCESS_KEY", "TRS_AWS_SECRET_KEY"):
            monkeypatch.setenv(name, "any")
        worker = start()

        def rounds() -> list[int]:
            children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
            return [int(pid) for pid in children if b"maintain" in Path(f"/proc/{pid}/cmdline").read_bytes()]

        wait_until(lambda: bool(rounds()), timeout_s=60, what="a round has begun")
        (running,), seen = rounds(), time.monotonic()
        wait_until(lambda: time.monotonic() - seen > 5, timeout_s=10, what="one that did not wait would have ended")
        assert rounds() == [running]
        began = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - began < 15
        wait_until(lambda: not Path(f"/proc/{running}").exists(), timeout_s=5, what="the round has ended")
