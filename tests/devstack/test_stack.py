"""The embedded stack's life: up, found, broken, repaired, beside another, down."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from app.settings import load_settings
from devstack import ports, processes
from devstack.mariadb import MariaDb
from devstack.stack import Stack, State, check_room
from processors.errors import FullDiskError
from tests.waiting import wait_until

pytestmark = pytest.mark.stack
NAMES = ["kafka", "mariadb", "s3"]


def trs(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as people call it, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", "from app.cli.main import main; main()", "devstack", *arguments],
        env={**os.environ, "TRS_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )


def pids(stack: Stack) -> dict[str, int | None]:
    return {p.name: p.pid for p in stack.status()}


def lives(pid: int | None) -> bool:
    """Whether the process runs; a zombie, which this test's process has for a child, does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home whose stack is up; each test leaves it up."""
    folder = tmp_path_factory.mktemp("home")
    first = trs(folder, "up")
    assert first.returncode == 0, first.stderr
    yield folder
    Stack(folder).down(wipe=True)


def test_up_leaves_the_temporary_tables_of_other_database_servers_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "temporary"
    shared.mkdir()
    table = shared / "#sql-temptable-cf3-1-2d.MAI"
    table.touch()
    monkeypatch.setenv("TMPDIR", str(shared))
    database = MariaDb(tmp_path, {})
    database.folder.mkdir()
    database.prepare()  # starts a server for its system tables
    assert table.exists()


def test_status_when_up_tells_every_part_with_port_pid_and_memory(home: Path) -> None:
    answer = trs(home, "status", "--json")
    assert answer.returncode == 0
    parts = json.loads(answer.stdout)["parts"]
    assert [p["part"] for p in parts] == NAMES
    assert {p["state"] for p in parts} == {"running"}
    assert all(p["memory_bytes"] > 10_000_000 and psutil.pid_exists(p["pid"]) for p in parts)
    assert len({p["port"] for p in parts}) == len(NAMES)


def test_up_when_all_runs_changes_nothing(home: Path) -> None:
    before = pids(Stack(home))
    again = trs(home, "up")
    assert again.returncode == 0
    assert again.stderr.count("was running") == len(NAMES)
    assert pids(Stack(home)) == before


def test_settings_when_the_stack_is_up_lead_to_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRS_HOME", str(home))
    environment = Stack(home).environment()
    assert environment is not None
    settings = load_settings()
    assert settings.kafka == environment["TRS_KAFKA"]
    assert settings.lake_uri == environment["TRS_LAKE"]
    monkeypatch.setenv("TRS_KAFKA", "elsewhere:9092")
    assert load_settings().kafka == "elsewhere:9092"


def test_env_prints_lines_that_a_shell_takes(home: Path) -> None:
    script = f'{trs(home, "env").stdout}\nprintf %s "$TRS_DATABASE"'
    told = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert told == (Stack(home).environment() or {})["TRS_DATABASE"]


def test_status_when_a_part_was_killed_tells_it_with_its_log_and_up_repairs_it(home: Path) -> None:
    stack = Stack(home)
    before = pids(stack)
    victim = psutil.Process(before["mariadb"])
    os.kill(victim.pid, signal.SIGKILL)
    wait_until(lambda: stack.status()[1].state is State.CRASHED, timeout_s=10, what="the kill is noticed")

    told = trs(home, "status")
    assert told.returncode == 1
    assert "crashed" in told.stdout
    assert "ready for connections" in told.stdout  # of the tail of its log

    repaired = trs(home, "up")
    assert repaired.returncode == 0
    assert "mariadb had crashed" in repaired.stderr
    after = pids(stack)
    assert after["mariadb"] not in (None, before["mariadb"])
    assert (after["kafka"], after["s3"]) == (before["kafka"], before["s3"])


@pytest.mark.long
def test_up_with_connect_adds_it_until_the_stack_is_ended(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRS_HOME", str(home))
    stack = Stack(home)
    added = trs(home, "up", "--with", "connect")
    assert added.returncode == 0, added.stderr
    assert added.stderr.count("was running") == len(NAMES)
    assert "connect started" in added.stderr
    address = load_settings().connect.get_secret_value()
    assert f"TRS_CONNECT={address}" in added.stdout
    assert [p["state"] for p in json.loads(trs(home, "status", "--json").stdout)["parts"]] == ["running"] * 4
    with urllib.request.urlopen(f"{address}/connector-plugins", timeout=10) as answer:
        assert {p["class"].rsplit(".", 1)[1] for p in json.load(answer)} == {"MariaDbConnector", "MySqlConnector"}

    os.kill(pids(stack)["connect"] or 0, signal.SIGKILL)
    wait_until(lambda: stack.status()[3].state is State.CRASHED, timeout_s=10, what="the kill is noticed")
    assert trs(home, "status").returncode == 1
    repaired = trs(home, "up")  # what crashed belongs to the stack, also without being named
    assert repaired.returncode == 0
    assert "connect had crashed" in repaired.stderr
    assert load_settings().connect.get_secret_value() == address

    victim = pids(stack)["connect"]
    assert trs(home, "down").stdout.startswith("ended: connect, kafka")
    assert not lives(victim)
    assert trs(home, "up").returncode == 0
    assert [p.name for p in stack.status()] == NAMES
    assert "TRS_CONNECT" not in (stack.environment() or {})


@pytest.mark.long
def test_down_ends_its_own_stack_and_leaves_the_other(home: Path, tmp_path: Path) -> None:
    other = Stack(tmp_path / "other")
    try:
        other.up()
        assert not {p.port for p in other.status()} & {p.port for p in Stack(home).status()}
        mine = pids(other)

        ended = trs(tmp_path / "other", "down", "--wipe")

        assert ended.returncode == 0
        assert not any(lives(pid) for pid in mine.values())
        assert not other.environment_file.exists()
        assert {p.state for p in other.status()} == {State.STOPPED}
        assert not any((other.folder / name).exists() for name in NAMES)
        assert {p.state for p in Stack(home).status()} == {State.RUNNING}
    finally:
        other.down(wipe=True)


@pytest.mark.long
def test_data_of_all_parts_survives_down_and_up_even_on_other_ports(tmp_path: Path) -> None:
    import boto3
    import pymysql
    from confluent_kafka.admin import AdminClient, NewTopic

    stack = Stack(tmp_path / "kept")

    def clients() -> tuple[AdminClient, object, pymysql.Connection]:
        settings = load_settings(home=tmp_path / "kept")
        s3 = boto3.client("s3", endpoint_url=settings.aws_endpoint, aws_access_key_id="x", aws_secret_access_key="x")
        database = pymysql.connect(
            host="127.0.0.1", port=stack.status()[1].port or 0, user="trs", password="trs-devstack", database="trs"
        )
        return AdminClient({"bootstrap.servers": settings.kafka, "log_level": 0}), s3, database

    try:
        stack.up()
        admin, s3, database = clients()
        admin.create_topics([NewTopic("kept", 3, 1)])["kept"].result(10)
        s3.put_object(Bucket="trs-lake", Key="kept", Body=b"content")
        with database, database.cursor() as cursor:
            cursor.execute("CREATE TABLE kept (id INT PRIMARY KEY)")
        stack.down(wipe=False)
        (stack.folder / "ports.json").unlink()  # as if somebody else had taken them

        stack.up()
        admin, s3, database = clients()
        assert len(admin.list_topics("kept", timeout=10).topics["kept"].partitions) == 3
        assert s3.get_object(Bucket="trs-lake", Key="kept")["Body"].read() == b"content"
        with database, database.cursor() as cursor:
            cursor.execute("SHOW TABLES")
            assert cursor.fetchall() == (("kept",),)
    finally:
        stack.down(wipe=True)


def test_up_when_a_part_cannot_start_names_it_and_shows_its_log(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    data = stack.folder / "mariadb" / "data" / "mysql"
    data.mkdir(parents=True)  # looks installed, is not
    try:
        told = trs(tmp_path, "up")
        assert told.returncode == 4
        assert "error: mariadb ended while it started" in told.stderr
        assert "mysql" in told.stderr.partition("error:")[0]
        assert "Traceback" not in told.stderr
    finally:
        stack.down(wipe=True)


def test_down_when_nothing_was_started_says_so(tmp_path: Path) -> None:
    told = trs(tmp_path, "down")
    assert told.returncode == 0
    assert "nothing was running" in told.stdout


def test_record_of_a_recycled_pid_is_not_taken_for_ours(tmp_path: Path) -> None:
    record = tmp_path / "process.json"
    me = psutil.Process()
    record.write_text(json.dumps({"pid": me.pid, "create_time": me.create_time() - 60}))
    assert processes.find(record) is None
    assert processes.stop(record, timeout_s=1) is False  # and this test still lives
    assert not record.exists()


def test_ports_when_somebody_else_took_one_are_chosen_anew(tmp_path: Path) -> None:
    import socket

    file = tmp_path / "ports.json"
    first = ports.assign(file, needed=("a", "b"), in_use=())
    assert ports.assign(file, needed=("a", "b"), in_use=()) == first
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", first["a"]))
        stranger.listen()
        second = ports.assign(file, needed=("a", "b"), in_use=())
        assert second["a"] != first["a"]
        assert second["b"] == first["b"]
        assert ports.remembered(file) == second


def test_disk_without_room_is_told_before_anything_starts(tmp_path: Path) -> None:
    check_room(tmp_path, 1)
    with pytest.raises(FullDiskError, match=rf"{tmp_path}: \d+ MB are free, a start needs 1000000000000"):
        check_room(tmp_path, 10**18)
