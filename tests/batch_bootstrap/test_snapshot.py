"""A snapshot on the real broker and database: nothing left out after a kill, one run at a time, rejects told."""

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest

from app.settings import Settings
from app.wiring import kafka_config
from batch_bootstrap.generate import Generated
from batch_bootstrap.snapshot import SnapshotConfig, SnapshotSummary, run_snapshot
from batch_bootstrap.source import open_source
from connectors.kafka import ensure_topics, partition_counts
from connectors.mysql import DatabaseUrl, connect, current_position, ddl, execute, load_rows
from processors.errors import CdcOpenError, SourceError, UsageError
from processors.order import RowOrder, file_number
from processors.ports import OpenRun
from processors.tables import TABLES, all_topics
from tests.exports import rows_of as read_rows
from tests.exports import write_export
from tests.murmur2 import murmur2
from tests.stack_helpers import environment
from tests.topics import Record, read_topic
from tests.waiting import wait_until

INVOICES_MADE = 3_000


class Register:
    """Runs in memory, numbered as the control log numbers them."""

    def __init__(self) -> None:
        self.opened: list[OpenRun] = []
        self.closed: dict[int, Mapping[str, Any]] = {}

    def open_run(self, source_name: str, detail: Mapping[str, Any]) -> int:
        self.opened.append(OpenRun(len(self.opened) + 1, source_name, dict(detail)))
        return len(self.opened)

    def close_run(self, run: int, detail: Mapping[str, Any]) -> None:
        self.closed.setdefault(run, detail)

    def open_runs(self) -> list[OpenRun]:
        return [run for run in self.opened if run.run not in self.closed]

    def generation(self) -> str:
        return "0123456789abcdef"


@pytest.fixture
def generated(tmp_path: Path) -> Path:
    """Synthetic extracts."""
    folder = tmp_path / "csv"
    folder.mkdir()
    with Generated(INVOICES_MADE, seed=3) as data:
        for table in TABLES:
            data.write_csv(table, folder)
    return folder


@pytest.fixture
def register() -> Register:
    return Register()


def send(settings: Settings, spec: str, register: Register, **options: Any) -> SnapshotSummary:
    source = open_source(spec, chunk_rows=options.pop("chunk_rows", 2_000), tables=options.pop("tables", None))
    config = SnapshotConfig(
        settings.topic_prefix, settings.partitions, settings.source_names, settings.home / "bootstrap"
    )
    try:
        return run_snapshot(
            source,
            config,
            kafka=kafka_config(settings),
            open_registry=lambda: register,
            newest_order=options.pop("newest_order", lambda: -1),
            **options,
        )
    finally:
        source.close()


def records(settings: Settings, table: str) -> list[Record]:
    return read_topic(settings, f"{settings.topic_prefix}.{table}")


def events(settings: Settings, table: str) -> list[dict[str, Any]]:
    return [json.loads(r.value) for r in records(settings, table)]


def rows_of(spec: str, table_name: str) -> list[dict[str, Any]]:
    source = open_source(spec)
    source.preflight()
    table = next(t for t in source.tables() if t.name == table_name)
    return [row for chunk in source.chunks(table) for row in chunk.rows.to_pylist()]


def test_snapshot_of_extracts_sends_each_row_once_in_order_of_chunks(
    stack_settings: Settings, generated: Path, register: Register
) -> None:
    summary = send(stack_settings, f"csv:{generated}", register)
    assert summary.finished
    assert set(partition_counts(kafka_config(stack_settings), all_topics(stack_settings.topic_prefix)).values()) == {8}
    places = []
    for table in TABLES:
        sent = records(stack_settings, table.name)
        rows = rows_of(f"csv:{generated}", table.name)
        assert len(sent) == len(rows) == summary.progress.tables[table.name].rows
        for record in sent:
            value = json.loads(record.value)
            key = {name: value["after"][name] for name in table.event_key}
            assert record.key == json.dumps(key, separators=(",", ":"), ensure_ascii=False).encode()
            assert record.partition == murmur2(record.key) % 8
        values = [json.loads(r.value) for r in sent]
        assert {tuple(str(v["after"][k]) for k in table.key) for v in values} == {
            tuple(str(row[k]) for k in table.key) for row in rows
        }
        assert {(v["op"], v["source"]["name"], v["source"]["table"]) for v in values} == {
            ("r", "trs-batch", table.name)
        }
        places.append({(file_number(v["source"]["file"]), v["source"]["pos"], v["source"]["row"]) for v in values})
        assert len(places[-1]) == len(values)
    assert all(max(earlier) < min(later) for earlier, later in pairwise(places))
    assert summary.progress.tables["invoice_line_items"].returns > 0
    assert register.open_runs() == []
    assert not list((stack_settings.home / "bootstrap").glob("*.json"))


def test_snapshot_of_a_database_carries_the_position_of_each_chunk(
    stack_settings: Settings, fresh_database: str, register: Register
) -> None:
    fill(fresh_database)
    summary = send(stack_settings, fresh_database, register, chunk_rows=3_000)
    assert summary.finished
    for table in TABLES:
        sent = events(stack_settings, table.name)
        assert len(sent) == len(rows_of(fresh_database, table.name))
        assert {(e["source"]["name"], e["source"]["row"], e["op"]) for e in sent} == {("aurora", 0, "r")}
    first = summary.progress.first_position
    assert first is not None
    assert register.closed[1]["position"] == {"file": first.file, "pos": first.pos}


def test_snapshot_killed_in_the_middle_resumes_without_gaps(stack_settings: Settings, generated: Path) -> None:
    command = [sys.executable, "-m", "app.cli.main", "bootstrap", "snapshot"]
    command += ["--source", f"csv:{generated}", "--chunk-rows", "150", "--json"]
    own = environment(stack_settings)
    state = stack_settings.home / "bootstrap"
    killed = subprocess.Popen(command, env=own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: chunks_saved(state, "invoice_line_items") >= 5, timeout_s=90, what="some line chunks are sent")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    before = chunks_saved(state, "invoice_line_items")
    again = subprocess.run(command, env=own, capture_output=True, text=True, check=False, timeout=120)
    assert again.returncode == 0, again.stderr
    summary = json.loads(again.stdout)
    assert (summary["finished"], summary["resumed"], summary["run"]) == (True, True, 1)
    assert summary["sent"] < summary["rows"]
    assert "was not finished: it goes on" in again.stderr
    for table in TABLES:
        sent = Counter(
            (tuple(str(e["after"][k]) for k in table.key), e["source"]["pos"], e["source"]["row"])
            for e in events(stack_settings, table.name)
        )
        rows = rows_of(f"csv:{generated}", table.name)
        assert {key for key, _, _ in sent} == {tuple(str(row[k]) for k in table.key) for row in rows}
        assert len(sent) == len(rows)  # a chunk sent twice has the same order both times
        assert sum(sent.values()) <= len(rows) + 150
    assert before < summary["tables"]["invoice_line_items"]["chunks"]


def test_snapshot_stopped_between_chunks_goes_on_later(
    stack_settings: Settings, fresh_database: str, register: Register
) -> None:
    fill(fresh_database)
    asked = iter([False] * 4 + [True] * 100)
    stopped = send(stack_settings, fresh_database, register, chunk_rows=500, stopped=lambda: next(asked))
    assert (stopped.finished, stopped.resumed) == (False, False)
    assert [run.run for run in register.open_runs()] == [1]
    rest = send(stack_settings, fresh_database, register, chunk_rows=500)
    assert (rest.finished, rest.resumed, rest.run) == (True, True, 1)
    assert stopped.sent > 0
    for table in TABLES:
        keys = [tuple(e["after"][k] for k in table.key) for e in events(stack_settings, table.name)]
        assert len(keys) == len(set(keys)) == len(rows_of(fresh_database, table.name))


def test_snapshot_of_changed_files_does_not_continue_a_run(
    stack_settings: Settings, fresh_database: str, generated: Path, register: Register
) -> None:
    asked = iter([False] * 2 + [True] * 100)
    send(stack_settings, f"csv:{generated}", register, stopped=lambda: next(asked))
    with (generated / "skus.csv").open("a") as file:
        file.write("new,n,d,1,1\n")
    with pytest.raises(UsageError, match="run 1 began with other files"):
        send(stack_settings, f"csv:{generated}", register)
    fill(fresh_database)
    with pytest.raises(UsageError, match=r"run 1 of csv:.* is open"):
        send(stack_settings, fresh_database, register)
    restarted = send(stack_settings, f"csv:{generated}", register, restart=True)
    assert (restarted.run, restarted.finished) == (2, True)
    assert register.closed[1] == {"abandoned": True}


def test_snapshot_rejects_go_to_the_dead_letters_with_file_and_line(
    stack_settings: Settings, generated: Path, register: Register
) -> None:
    with (generated / "skus.csv").open("a") as file:
        file.write("bad,n,d,one,1\n")
    summary = send(stack_settings, f"csv:{generated}", register, tables=["skus"])
    assert summary.progress.tables["skus"].rejects == 1
    (letter,) = events(stack_settings, "dead_letters")
    assert (letter["origin"], letter["file"], letter["table"], letter["run"]) == ("csv", "skus.csv", "skus", 1)
    assert (letter["line"], letter["reason"], letter["raw"]) == (62, "bad_value", "bad,n,d,one,1")


@pytest.mark.parametrize("kind", ["csv", "s3-export"])
def test_snapshot_without_positions_after_cdc_is_refused_before_anything_is_sent(
    stack_settings: Settings, generated: Path, register: Register, tmp_path: Path, kind: str
) -> None:
    spec = f"csv:{generated}"
    if kind == "s3-export":
        spec = f"s3-export:{write_export(pafs.LocalFileSystem(), str(tmp_path), read_rows(open_source(spec)))}"
    with pytest.raises(CdcOpenError, match="no binlog positions"):
        send(stack_settings, spec, register, newest_order=lambda: RowOrder(1, 0, 0, 0).packed())
    assert register.opened == []
    assert partition_counts(kafka_config(stack_settings), all_topics(stack_settings.topic_prefix)) == {}


def test_snapshot_of_a_server_that_was_restored_is_refused_before_anything_is_sent(
    local_settings: Settings, register: Register
) -> None:
    assert local_settings.database is not None
    url = local_settings.database.get_secret_value()
    with connect(DatabaseUrl.parse(url)) as connection:
        for table in TABLES:
            execute(connection, ddl(table))
        position = current_position(connection)
    assert position is not None

    def order(ahead: int) -> int:
        return RowOrder(1, file_number(position.file), position.pos + ahead, 0).packed()

    with pytest.raises(SourceError, match="was restored or reset"):
        send(local_settings, url, register, newest_order=lambda: order(10**6))
    assert register.opened == []
    assert send(local_settings, url, register, newest_order=lambda: order(0)).finished


def test_snapshot_onto_topics_with_other_partitions_is_refused(
    stack_settings: Settings, generated: Path, register: Register
) -> None:
    ensure_topics(kafka_config(stack_settings), [f"{stack_settings.topic_prefix}.skus"], 3)
    with pytest.raises(SourceError, match="has 3 partitions, not 8"):
        send(stack_settings, f"csv:{generated}", register)
    assert register.opened == []


def fill(url: str) -> None:
    """Loads synthetic rows into a database."""
    with Generated(INVOICES_MADE, seed=5) as data, connect(DatabaseUrl.parse(url), autocommit=False) as connection:
        for table in TABLES:
            execute(connection, ddl(table))
            for rows in data.rows(table):
                load_rows(connection, table, rows)


def chunks_saved(state: Path, table: str) -> int:
    """How many chunks of a table the one run's progress file tells of."""
    for file in state.glob("*.json"):
        return int(json.loads(file.read_text())["tables"].get(table, {}).get("chunks", 0))
    return 0


def test_snapshot_whose_progress_cannot_be_kept_does_not_begin_a_run(
    stack_settings: Settings, generated: Path, register: Register, tmp_path: Path
) -> None:
    (tmp_path / "home").write_text("a file where a folder should be", encoding="utf-8")
    settings = stack_settings.model_copy(update={"home": tmp_path / "home"})
    with pytest.raises(NotADirectoryError):
        send(settings, f"csv:{generated}", register)
    assert register.opened == []
