"""`trs doctor` of Kafka Connect, the binlog and the lake's feature sets; and where nothing answers at all."""

import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from app.doctor.checks import Finding
from app.doctor.examine import REACH_LIMIT_S
from app.doctor.lake import look_at_buckets, look_at_format
from app.doctor.source import look_at_capture, look_at_connect
from app.settings import Settings, load_settings
from connectors.delta_lake import DeltaLake
from connectors.lake import LakeLocation
from devstack import ports, processes
from devstack.declared import DATABASE, DATABASE_PASSWORD, DATABASE_USER
from devstack.mariadb import MariaDb
from devstack.stack import start_part
from processors.errors import UnavailableError
from processors.features.declarations import FEATURE_SETS
from processors.lake_tables import SKU_LOG, changes_name
from tests.app.commands import trs_process
from tests.small_connect import Kept, SmallConnect
from tests.small_lake import SmallLake

CONFIG = {"connector.class": "io.debezium.connector.mysql.MySqlConnector", "topic.prefix": "aurora"}


def told(findings: Sequence[Finding]) -> list[tuple[str, str]]:
    return [(f.outcome.value, f.said) for f in findings]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallConnect]:
    """A Kafka Connect that TRS_CONNECT names."""
    made = SmallConnect()
    monkeypatch.setenv("TRS_CONNECT", made.url)
    monkeypatch.setenv("TRS_CONNECTOR", "c")
    yield made
    made.server_close()


@pytest.mark.parametrize(
    ("kept", "outcome", "said"),
    [
        (None, "not looked at", "has no connector c"),
        (Kept(CONFIG, position={"file": "binlog.000007", "pos": 4}), "ok", 'connector c runs, at {"file": "binlog'),
        (Kept(CONFIG), "ok", "connector c runs, no position noted yet"),
        (
            Kept(CONFIG, failure="a.B: the binlog is gone\n\tat x"),
            "failed",
            "connector c failed: a.B: the binlog is gone",
        ),
        (Kept(CONFIG, state="PAUSED"), "warning", "connector c does not run: PAUSED"),
    ],
)
def test_the_connector_in_kafka_connect_is_judged_by_its_state(
    server: SmallConnect, kept: Kept | None, outcome: str, said: str
) -> None:
    server.world.connectors = {"other": Kept(CONFIG)} if kept is None else {"c": kept}
    answers, judged = told(look_at_connect(load_settings()))
    assert answers[0] == "ok"
    assert "MySqlConnector 3" in answers[1]
    assert judged[0] == outcome
    assert said in judged[1]


def test_a_kafka_connect_that_was_named_and_is_not_there_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("TRS_CONNECT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(UnavailableError, match="Connection refused"):
            look_at_connect(load_settings())


@pytest.fixture
def lake(tmp_path: Path) -> DeltaLake:
    """A lake of two buckets whose rows were computed by the feature sets as declared."""
    made = DeltaLake(LakeLocation(str(tmp_path / "lake")))
    for bucket in (0, 1):
        SmallLake(tmp_path / "lake").epoch("accounts", bucket, 1, "2024-05-01")
    for feature_set in FEATURE_SETS:
        versions = {f"version:{bucket}": feature_set.version for bucket in (0, 1)}
        made.fenced(changes_name(feature_set)).open(versions, {}, seen={})
    return made


@pytest.mark.parametrize(
    ("declared", "outcome", "said"),
    [
        (0, "ok", "2 of 4 buckets have commits; feature sets as declared"),
        (1, "warning", "the lake has version 1"),
        (-1, "failed", "workers from here leave its buckets alone"),
    ],
)
def test_versions_of_feature_sets_are_compared_with_the_lakes(
    lake: DeltaLake, declared: int, outcome: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = FEATURE_SETS
    first = replace(first, version=first.version + declared)
    monkeypatch.setattr("app.doctor.lake.FEATURE_SETS", (first, *others))
    (found,) = told(look_at_buckets(Settings(lake=lake.store.location.uri, partitions=4)))
    assert found[0] == outcome
    assert said in found[1]


def test_fewer_partitions_than_the_lake_has_buckets_are_told(lake: DeltaLake) -> None:
    (found,) = told(look_at_buckets(Settings(lake=lake.store.location.uri, partitions=1)))
    assert found == ("failed", "the lake has 2 buckets, TRS_PARTITIONS is 1")


def test_a_column_that_a_start_adds_is_told_from_one_that_none_adds(tmp_path: Path) -> None:
    schema = SKU_LOG.schema
    lacks = pa.schema([f for f in schema if f.name not in ("item_name", *SKU_LOG.added)])
    write_deltalake(tmp_path / "lake" / SKU_LOG.name, lacks.empty_table())
    found = [f for f in told(look_at_format(Settings(lake=str(tmp_path / "lake")))) if "lacks columns" in f[1]]
    assert found == [
        ("warning", f"sku_log lacks columns {', '.join(SKU_LOG.added)}"),
        ("failed", "sku_log lacks columns item_name, and no version of the program adds them"),
    ]


class OtherMariaDb(MariaDb):
    """A server with further options."""

    options: Sequence[str] = ()

    def prepare(self) -> list[str | Path]:
        return [*super().prepare(), *self.options]


@pytest.mark.long
def test_a_binlog_that_is_off_or_holds_too_little_or_goes_too_soon_is_told(tmp_path: Path) -> None:
    part = OtherMariaDb(tmp_path, ports.assign(tmp_path / "ports.json", needed=MariaDb.port_names, in_use=()))
    url = f"mysql://{DATABASE_USER}:{DATABASE_PASSWORD}@127.0.0.1:{part.port}/{DATABASE}?tls=off"

    def looked(*options: str, rights: str | None = None) -> list[str]:
        part.options = options
        start_part(part)
        try:
            findings = look_at_capture(Settings(database=url))
        finally:
            processes.stop(part.record, timeout_s=part.stop_timeout_s)
        assert {f.outcome.value for f in findings} <= {"ok", "warning"}
        return [f.said for f in findings]

    (good,) = looked()
    assert good == "the binlog holds whole rows, may be read, and is kept for a day or more"
    (off,) = looked("--skip-log-bin")
    assert "the binlog is off" in off
    image, soon = looked("--binlog-row-image=MINIMAL", "--binlog-expire-logs-seconds=3600")
    assert "binlog_row_image is MINIMAL: set it to FULL" in image
    assert "the binlog is kept for 1.0 h only" in soon


@pytest.mark.long
def test_where_nothing_answers_everything_is_told_in_time_and_no_thread_holds_up_the_end(tmp_path: Path) -> None:
    with socket.socket() as silent:  # takes connections and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        kept: list[socket.socket] = []
        threading.Thread(target=lambda: [kept.append(silent.accept()[0]) for _ in range(1000)], daemon=True).start()
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        began_s = time.monotonic()
        answer = trs_process(
            "doctor",
            "--json",
            TRS_HOME=str(tmp_path),
            TRS_KAFKA=place,
            TRS_LAKE="s3://bucket/lake",
            TRS_AWS_ENDPOINT=f"http://{place}",
            TRS_DATABASE=f"mysql://u:p@{place}/trs?tls=off",
            TRS_CONNECT=f"http://{place}",
        )
        took_s = time.monotonic() - began_s
    checks = {c["name"]: c for c in json.loads(answer.out)["checks"]}
    assert {checks[name]["outcome"] for name in ("kafka", "lake", "source", "kafka connect")} == {"failed"}
    assert max(c["seconds"] for c in checks.values()) < REACH_LIMIT_S + 1
    assert (answer.code, "nanobind" in answer.err) == (1, False)
    assert took_s < 30  # and a loaded machine's start and end
