"""A store that fails amid something ends as one of our errors, whatever the library makes of it."""

import socket
from pathlib import Path

import duckdb
import pytest
from obstore.exceptions import GenericError

from connectors.control_log import ControlLog
from connectors.lake import KnownIds, LakeLocation, LakeStore, wrap_error, wrapped_errors
from connectors.object_files import LakeReader, read_error
from processors.errors import RetryableError, UnavailableError

RESET = "Generic S3 error\n  \x1b[31m↳\x1b[0m error sending request\n   \x1b[31m↳\x1b[0m connection closed"


class LostTable:
    """A handle whose store went away after it was opened."""

    table_uri = "s3://bucket/lake/sku_log"
    _storage_options = None

    def version(self) -> int:
        return 3


def test_application_ids_that_cannot_be_read_are_an_unavailable_store(monkeypatch: pytest.MonkeyPatch) -> None:
    def reset(*_: object) -> None:
        raise GenericError(RESET)

    monkeypatch.setattr("connectors.delta_log.obstore.get", reset)
    with pytest.raises(UnavailableError, match="sku_log: the object store does not answer"):
        KnownIds().read(LostTable(), ["epoch:skus:0"])  # type: ignore[arg-type]


def test_error_of_several_lines_is_told_in_one_without_colours() -> None:
    text = "Generic S3 error\n  \x1b[31m↳\x1b[0m Server returned\n   \x1b[31m↳\x1b[0m 500 Internal Server Error"
    told = wrap_error(OSError(text), "table t")
    assert isinstance(told, RetryableError)
    assert told.message == "table t: Generic S3 error Server returned 500 Internal Server Error"


def test_control_log_whose_file_cannot_be_read_is_a_passing_fault(tmp_path: Path) -> None:
    control = ControlLog(LakeStore(LakeLocation(str(tmp_path))))
    LakeStore(LakeLocation(str(tmp_path))).create()
    control.ensure_generation()
    for file in (tmp_path / "control_log").glob("*.parquet"):
        file.unlink()
    with pytest.raises(RetryableError, match=r"^control_log: "):
        control.entries()


def test_error_that_is_not_the_stores_passes_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError), wrapped_errors("table t"):
        raise ZeroDivisionError


def test_read_that_duckdb_could_not_make_is_an_unavailable_store() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{probe.getsockname()[1]}"
        options = {"AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
        options |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        with LakeReader("s3://bucket/lake", options) as reader, pytest.raises(duckdb.Error) as failed:
            relation = reader.relation("control_log", ["s3://bucket/lake/control_log/a.parquet"])
            reader.connect().sql(f"SELECT count(entry) FROM {relation}").fetchall()
    told = read_error(failed.value)
    assert isinstance(told, UnavailableError)
    assert told.message.startswith("the object store does not give lake/control_log/a.parquet: ")
    assert "Traceback" not in told.message


def test_error_of_a_query_is_not_taken_for_one_of_the_store() -> None:
    with duckdb.connect() as con, pytest.raises(duckdb.Error) as failed:
        con.sql("SELECT * FROM nowhere")
    assert read_error(failed.value) is None
