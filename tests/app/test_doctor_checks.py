"""How checks are made: each on its own, none able to end another; and what is judged of settings, topics and clocks."""

import threading
import time
from pathlib import Path

import pytest

from app.doctor.checks import Check, Checked, Finding, Outcome, make_checks, not_looked_at, ok, warning
from app.doctor.kafka import judge_topic
from app.doctor.lake import judge_skew
from app.doctor.machine import look_at_packages, memory_limit_mb, suspicious_values
from app.settings import Settings
from connectors.kafka_facts import TopicFacts
from processors.errors import UnavailableError


def by_name(checked: tuple[Checked, ...]) -> dict[str, Checked]:
    return {c.name: c for c in checked}


def test_a_check_that_crashes_is_failed_and_ends_no_other() -> None:
    def crash() -> list[Finding]:
        raise ZeroDivisionError("by zero")

    def leave() -> list[Finding]:
        raise SystemExit(3)

    def away() -> list[Finding]:
        raise UnavailableError("the broker does not answer", hint="start it")

    made = make_checks(
        [Check("crash", crash), Check("leave", leave), Check("away", away), Check("good", lambda: [ok("it is")])]
    )

    assert [c.outcome.value for c in made] == ["failed", "failed", "failed", "ok"]
    assert "ZeroDivisionError: by zero" in made[0].findings[0].said
    assert (made[2].findings[0].said, made[2].findings[0].advice) == ("the broker does not answer", "start it")


def test_a_check_that_hangs_is_failed_after_its_limit_and_delays_no_other() -> None:
    release, ended = threading.Event(), threading.Event()

    def hang() -> list[Finding]:
        release.wait()
        ended.set()
        return []

    began_s = time.monotonic()
    made = make_checks([Check("hangs", hang, limit_s=0.2), Check("good", lambda: [ok("it is")], limit_s=30)])
    took_s = time.monotonic() - began_s
    release.set()

    assert ended.wait(10)
    assert [(c.outcome.value, c.hangs) for c in made] == [("failed", True), ("ok", False)]
    assert "no answer within" in made[0].findings[0].said
    assert took_s < 10


def test_a_check_that_times_out_by_itself_is_not_told_as_one_over_its_limit() -> None:
    def late() -> list[Finding]:
        raise TimeoutError("read timed out")

    (made,) = make_checks([Check("late", late)])
    assert made.findings[0].said == "the check itself broke down: TimeoutError: read timed out"


def test_checks_run_side_by_side() -> None:
    meeting = threading.Barrier(3, timeout=10)

    def meet() -> list[Finding]:
        meeting.wait()
        return [ok("met")]

    assert {c.outcome for c in make_checks([Check(n, meet) for n in "abc"])} == {Outcome.OK}


def test_what_needs_a_failed_check_is_not_looked_at_nor_is_what_needs_that() -> None:
    looked = []

    def fail() -> list[Finding]:
        raise UnavailableError("away")

    def look() -> list[Finding]:
        looked.append(1)
        return [ok("?")]

    made = by_name(
        make_checks([Check("root", fail), Check("leaf", look, ("root",)), Check("leaf of leaf", look, ("leaf",))])
    )
    assert made["leaf"].findings[0].said == "first see to: root"
    assert made["leaf of leaf"].findings[0].said == "first see to: leaf"
    assert looked == []


def test_what_needs_a_check_with_a_warning_is_looked_at() -> None:
    made = make_checks(
        [Check("root", lambda: [warning("old", "renew it")]), Check("leaf", lambda: [ok("?")], ("root",))]
    )
    assert made[1].outcome is Outcome.OK


def test_the_outcome_of_a_check_is_its_worst_finding() -> None:
    assert Checked("x", (ok("a"), not_looked_at("b"), warning("c", "d")), 0).outcome is Outcome.WARNING


def test_a_listener_that_fails_holds_up_nothing() -> None:
    def broken(_: Checked) -> None:
        raise OSError("the terminal is gone")

    hook = threading.excepthook
    threading.excepthook = lambda _: None
    try:
        assert make_checks([Check("a", lambda: [ok("x")])], made=broken)[0].outcome is Outcome.OK
    finally:
        threading.excepthook = hook


def settings(**values: object) -> Settings:
    return Settings(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, []),
        ({"kafka": "b-1.msk:9094,b-2.msk:9094", "lake": "s3://b/l", "kafka_security": "ssl", "replication": 3}, []),
        ({"kafka": "b-1.msk:9092", "lake": "s3://b/l", "kafka_security": "ssl"}, ["TRS_REPLICATION=1"]),
        ({"kafka": "b-1.msk:9092", "lake": "s3://b/l", "replication": 3}, ["TRS_KAFKA_SECURITY=plaintext"]),
        ({"kafka": "b-1.msk:9092", "kafka_security": "ssl", "replication": 3}, ["the lake is a folder"]),
        ({"source_names": ()}, ["TRS_SOURCE_NAMES is empty"]),
        ({"source_names": "a,b,a"}, ["TRS_SOURCE_NAMES has a name twice"]),
        ({"aws_access_key": "k", "aws_secret_key": "s"}, ["TRS_AWS_ACCESS_KEY is set"]),
        ({"aws_access_key": "k", "aws_endpoint": "http://s3"}, ["only one is set"]),
        ({"session_timeout_s": 5}, ["TRS_SESSION_TIMEOUT_S=5"]),
        ({"reconcile_every": "1h"}, ["TRS_RECONCILE_EVERY is set"]),
        ({"reconcile_every": "60s", "database": "mysql://u:p@h/d"}, ["TRS_RECONCILE_EVERY=60s"]),
    ],
)
def test_suspicious_settings_are_told_and_usual_ones_are_not(
    values: dict[str, object], expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = list(suspicious_values(settings(**values)))
    assert len(found) == len(expected)
    assert all(word in f.said and f.advice for word, f in zip(expected, found, strict=True))


def test_secrets_that_others_can_read_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / ".env"
    file.write_text("TRS_KAFKA_PASSWORD=x")
    file.chmod(0o644)
    assert [f.advice for f in suspicious_values(settings())] == [f"chmod 600 {file}"]
    file.chmod(0o600)
    assert list(suspicious_values(settings())) == []


def topic(**values: object) -> TopicFacts:
    usual = {"name": "t", "topic_id": "id", "partitions": 8, "replicas": 3, "behind": (), "leaderless": ()}
    usual |= {"cleanup_policy": "delete", "retention_ms": 7 * 86_400_000, "retention_bytes": -1}
    usual |= {"min_in_sync": 2, "timestamp_type": "CreateTime"}
    return TopicFacts(**{**usual, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, []),
        ({"retention_ms": -1}, []),
        ({"partitions": 16}, [("failed", "16 partitions, TRS_PARTITIONS is 8")]),
        ({"cleanup_policy": "compact,delete"}, [("failed", "compacted")]),
        ({"leaderless": (1, 4)}, [("failed", "partitions 1, 4 have no leader")]),
        ({"behind": tuple(range(20))}, [("warning", "7, … (20)")]),
        ({"replicas": 2}, [("warning", "2 copies")]),
        ({"min_in_sync": 1}, [("warning", "min.insync.replicas is 1")]),
        ({"retention_ms": 3_600_000}, [("warning", "1 h")]),
        ({"retention_bytes": 10**9}, [("warning", "1,000,000,000 bytes")]),
    ],
)
def test_topics_are_judged(values: dict[str, object], expected: list[tuple[str, str]]) -> None:
    found = list(judge_topic(topic(**values), settings(replication=3)))
    assert len(found) == len(expected)
    assert all(f.outcome.value == o and word in f.said for (o, word), f in zip(expected, found, strict=True))


@pytest.mark.parametrize(
    ("ahead_s", "outcome", "said"),
    [(0.4, "ok", "within 1.0 s"), (-8, "warning", "8.0 s behind"), (300, "failed", "300.0 s ahead")],
)
def test_clocks_are_judged(ahead_s: float, outcome: str, said: str) -> None:
    found = judge_skew("S3", ahead_s, resolution_s=1.0)
    assert (found.outcome.value, said in found.said) == (outcome, True)


def test_a_containers_memory_limit_counts_before_the_machines(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:       16384000 kB\nMemFree: 1 kB\n")
    assert memory_limit_mb(tmp_path) == (16_777, "the machine")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    limit = tmp_path / "sys/fs/cgroup/memory.max"
    limit.write_text("max\n")
    assert memory_limit_mb(tmp_path) == (16_777, "the machine")
    limit.write_text("2000000000\n")
    assert memory_limit_mb(tmp_path) == (2_000, "the container")


def test_the_packages_of_this_environment_are_new_enough() -> None:
    assert {f.outcome for f in look_at_packages()} == {Outcome.OK}
