"""Faults of the user's machine: one line that says where and what to do, and never a traceback."""

import errno
import os
import socket
from pathlib import Path

import duckdb
import pytest

from app.faults import known_fault
from processors.errors import AccessDeniedError, FullDiskError, UnavailableError, UsageError
from tests.app.commands import trs, trs_process


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, FullDiskError),
        (errno.EROFS, AccessDeniedError),
        (errno.EACCES, AccessDeniedError),
        (errno.ENOTDIR, UsageError),
    ],
)
def test_refusal_of_the_system_names_the_place(number: int, kind: type) -> None:
    fault = known_fault(OSError(number, os.strerror(number), "/some/place"))
    assert type(fault) is kind
    assert "/some/place" in str(fault)


def test_worker_that_waits_where_another_program_listens_says_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as closed:
        kafka, port = f"127.0.0.1:{closed.getsockname()[1]}", str(taken.getsockname()[1])
        closed.close()
        answer = trs_process("worker", "--wait", "--web-port", port, TRS_HOME=str(tmp_path), TRS_KAFKA=kafka)
    assert answer.code == 2
    assert "TRS_WEB_PORT" in answer.err
    assert "Traceback" not in answer.err


def test_error_that_may_be_ours_is_left_alone() -> None:
    assert known_fault(FileNotFoundError(errno.ENOENT, "no such file", "/some/place")) is None
    assert known_fault(ValueError("x")) is None


def test_memory_without_room_to_spill_names_the_setting() -> None:
    with duckdb.connect() as con:
        con.execute("SET memory_limit = '20MB'")
        con.execute("SET temp_directory = ''")
        with pytest.raises(duckdb.OutOfMemoryException) as caught:
            con.execute("CREATE TABLE t AS SELECT hash(range) AS a, hash(a) AS b FROM range(10000000)")
    assert "TRS_MEMORY_MB" in str(known_fault(caught.value))


@pytest.mark.parametrize("command", [("devstack", "up"), ("lake", "fold")])
def test_home_that_cannot_be_made_is_one_line(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("")
    answer = trs_process(*command, TRS_HOME=str(tmp_path / "file" / "home"))
    assert (answer.code, len(answer.err.splitlines())) == (2, 1)
    assert f"{tmp_path}/file/home" in answer.err
    assert "TRS_HOME" in answer.err


def test_out_in_a_folder_that_cannot_be_written_is_told_before_any_work() -> None:
    answer = trs("sql", "FROM skus", "--out", "/proc/answer.csv")
    assert answer.code == 5
    assert answer.err.startswith("error: --out /proc/answer.csv: the folder /proc cannot be written")


def test_store_that_gives_nothing_is_not_taken_for_a_fault_of_the_program() -> None:
    text = "Traceback ...\nprocessors.errors.UnavailableError: the object store does not give lake/a.parquet: 500"
    fault = known_fault(duckdb.Error(text))
    assert isinstance(fault, UnavailableError)
    assert fault.message == "the object store does not give lake/a.parquet: 500"
