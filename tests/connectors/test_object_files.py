"""Reading Delta tables with DuckDB, from a folder and from an S3 server."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from pathlib import Path

import obstore
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from connectors.object_files import LakeReader
from processors.lake_tables import EPOCHS, LAKE_TABLES
from tests.moto_s3 import s3_server

DAYS = (date(2024, 1, 1), date(2024, 1, 2))
NO_OPTIONS: Mapping[str, str] = {}


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """Options of an S3 server with the bucket `lake`."""
    with s3_server("lake") as options:
        yield options


def epochs(day: date, count: int, *, without: str | None = None) -> pa.Table:
    """Rows of the table `epochs` with numbers 0 … count-1 that do not compress well."""
    row = dict.fromkeys(EPOCHS.schema.names)
    at = datetime(day.year, day.month, day.day, tzinfo=UTC)
    rows = [
        {**row, "stage": "skus", "bucket": 1, "epoch": i, "known_through": at, "known_date": day, "writer": f"{i * i}"}
        for i in range(count)
    ]
    table = pa.Table.from_pylist(rows, schema=EPOCHS.schema)
    return table if without is None else table.drop_columns([without])


def write(uri: str, table: pa.Table, options: Mapping[str, str] = NO_OPTIONS) -> None:
    write_deltalake(
        f"{uri}/epochs",
        table,
        mode="append",
        partition_by=["known_date"],
        schema_mode="merge",
        storage_options=dict(options) or None,
    )


def test_relation_of_a_folder_with_odd_characters_reads_typed_partitions(tmp_path: Path) -> None:
    uri = f"{tmp_path}/it's a lake"
    for day in DAYS:
        write(uri, epochs(day, 3))
    with LakeReader(uri) as reader:
        con = reader.connect()
        rows = con.sql(
            f"SELECT known_date, count(*), min(known_through) FROM {reader.relation('epochs')} GROUP BY 1 ORDER BY 1"
        )
        assert rows.fetchall() == [(d, 3, datetime(d.year, d.month, d.day, tzinfo=UTC)) for d in DAYS]
        assert reader.version("epochs") == 1


def test_relation_of_rows_without_a_newer_column_shows_null_there(tmp_path: Path) -> None:
    write(str(tmp_path), epochs(DAYS[0], 1, without="writer"))
    with LakeReader(str(tmp_path)) as reader:
        assert reader.connect().sql(f"SELECT writer FROM {reader.relation('epochs')}").fetchall() == [(None,)]
        write(str(tmp_path), epochs(DAYS[1], 1))
        assert reader.connect().sql(
            f"SELECT writer FROM {reader.relation('epochs')} ORDER BY known_date"
        ).fetchall() == [(None,), ("0",)]


@pytest.mark.parametrize("name", sorted(LAKE_TABLES))
def test_relation_of_a_missing_table_is_empty_with_the_declared_columns(tmp_path: Path, name: str) -> None:
    with LakeReader(str(tmp_path)) as reader:
        result = reader.connect().sql(f"FROM {reader.relation(name)}").to_arrow_table()
        assert reader.files(name) == []
        assert reader.version(name) is None
    assert result.num_rows == 0
    assert result.schema.names == LAKE_TABLES[name].schema.names


def test_relation_on_s3_fetches_only_the_columns_and_partitions_named(
    s3: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = "s3://lake/some prefix"
    for day in DAYS:
        write(uri, epochs(day, 100_000), s3)
    fetched: list[tuple[str, int]] = []
    real = obstore.get_range

    def counted(store: object, path: str, *, start: int, end: int) -> obstore.Bytes:
        fetched.append((path, end - start))
        return real(store, path, start=start, end=end)  # type: ignore[arg-type]

    monkeypatch.setattr(obstore, "get_range", counted)
    with LakeReader(uri, s3) as reader:
        con = reader.connect()
        sizes = {f: reader._s3._size(f) for f in reader.files("epochs")} if reader._s3 else {}
        query = f"SELECT sum(epoch), min(known_date) FROM {reader.relation('epochs')} WHERE known_date = '2024-01-02'"
        assert con.sql(query).fetchall() == [(4999950000, DAYS[1])]
    assert len(sizes) == 2
    by_day = {d: sum(size for path, size in fetched if f"known_date={d}" in path) for d in DAYS}
    assert by_day[DAYS[0]] <= 64 * 1024
    assert by_day[DAYS[1]] < 0.7 * sizes[next(f for f in sizes if "2024-01-02" in f)]


def test_relation_on_s3_of_files_from_elsewhere_asks_for_their_size(s3: dict[str, str]) -> None:
    uri = "s3://lake/follow"
    write(uri, epochs(DAYS[0], 5), s3)
    with LakeReader(uri, s3) as reader:
        files = reader.files("epochs")
    with LakeReader(uri, s3) as fresh:
        rows = fresh.connect().sql(f"SELECT count(*), max(writer) FROM {fresh.relation('epochs', files)}").fetchall()
    assert rows == [(5, "9")]


def test_reader_that_is_closed_leaves_nothing_to_print_at_exit(tmp_path: Path) -> None:
    write(str(tmp_path), epochs(DAYS[0], 5))
    program = (
        "import sys; from connectors.object_files import LakeReader\n"
        "with LakeReader(sys.argv[1]) as reader:\n"
        "    con = reader.connect()\n"
        "    print(con.sql(f'SELECT count(*) FROM {reader.relation(\"epochs\")}').fetchall())\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[(5,)]\n", "")
