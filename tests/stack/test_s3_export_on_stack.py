"""A first load and a later diff from exports of a snapshot on the S3 server: the lake is the batch over the export."""

import json
import signal
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pytest

from app.settings import Settings
from batch_bootstrap.generate import Generated
from batch_bootstrap.source import open_source
from processors.features.declarations import FEATURE_SETS
from processors.order import BATCH_SOURCE_NAME
from processors.tables import TABLES
from tests.app.commands import trs as trs_here
from tests.exports import exported, rows_of, write_export
from tests.stack_helpers import batch_features, environment, query, trs
from tests.topics import read_topic
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def settings(stack_settings: Settings) -> Settings:
    """Prices are today's, which is all that an export knows."""
    return stack_settings.model_copy(update={"price_at": "current"})


@pytest.fixture
def store(settings: Settings) -> pafs.S3FileSystem:
    secrets = (settings.aws_access_key, settings.aws_secret_key)
    access, secret = (None if s is None else s.get_secret_value() for s in secrets)
    return pafs.S3FileSystem(
        endpoint_override=settings.aws_endpoint, access_key=access, secret_key=secret, region=settings.aws_region
    )


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, pa.Table]:
    """Synthetic rows of all tables."""
    with Generated(600, seed=8) as data:
        for table in TABLES:
            data.write_csv(table, tmp_path)
    return rows_of(open_source(f"csv:{tmp_path}"))


def assert_lake_is_the_batch_over(settings: Settings, source: str, folder: Path) -> None:
    trs(settings, "worker", "--until-caught-up")
    for features in FEATURE_SETS:
        expected = batch_features(settings, source, features, folder).to_pylist()
        names = ", ".join(features.column_names)
        found = query(settings, f"SELECT {names} FROM {features.name} ORDER BY {features.entity_key[0]}")
        assert found.to_pylist() == expected
        assert expected


@pytest.fixture
def folder(settings: Settings) -> str:
    """Where the test's exports are, in the bucket of the lake."""
    return f"{settings.lake_uri.removeprefix('s3://').split('/')[0]}/exports-{uuid.uuid4().hex[:8]}"


def test_lake_follows_the_exports_of_a_database(
    settings: Settings, store: pafs.S3FileSystem, folder: str, tables: dict[str, pa.Table], tmp_path: Path
) -> None:
    first = f"s3-export:s3://{write_export(store, folder, tables, name='first')}"
    trs(settings, "bootstrap", "snapshot", "--source", first, "--chunk-rows", "500")
    assert_lake_is_the_batch_over(settings, first, tmp_path)

    invoices, lines = tables["invoices"], tables["invoice_line_items"]
    paid = pc.if_else(pc.equal(invoices["invoice_id"], 7), pa.scalar(20_000, pa.int32()).cast(pa.date32()), None)
    changed = tables | {
        "invoices": invoices.set_column(3, "payment_dates", pc.coalesce(paid, invoices["payment_dates"])),
        "invoice_line_items": lines.slice(2),
    }
    second = f"s3-export:s3://{write_export(store, folder, changed, name='second')}"
    told = json.loads(trs(settings, "bootstrap", "diff", "--source", second, "--json").stdout)
    counts = {t: (c["created"], c["updated"], c["deleted"]) for t, c in told["tables"].items()}
    assert counts == {"skus": (0, 0, 0), "accounts": (0, 0, 0), "invoices": (0, 1, 0), "invoice_line_items": (0, 0, 2)}
    assert_lake_is_the_batch_over(settings, second, tmp_path)


def line_chunks(settings: Settings) -> int:
    """How many chunks of lines the one unfinished run says it has sent."""
    for file in (settings.home / "bootstrap").glob("*.json"):
        return int(json.loads(file.read_text())["tables"].get("invoice_line_items", {}).get("chunks", 0))
    return 0


def test_load_that_was_killed_goes_on_and_a_bad_row_is_told_with_its_place(
    settings: Settings, store: pafs.S3FileSystem, folder: str, tables: dict[str, pa.Table]
) -> None:
    invoices = exported(tables["invoices"])
    bad = invoices.slice(0, 1).set_column(2, "date_issued", pa.array(["2018-02-30"]))
    place = write_export(store, folder, tables | {"invoices": pa.concat_tables([bad, invoices])})
    command = ["bootstrap", "snapshot", "--source", f"s3-export:s3://{place}", "--chunk-rows", "20", "--json"]
    python = [sys.executable, "-m", "app.cli.main"]
    process = subprocess.Popen([*python, *command], env=environment(settings), stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: line_chunks(settings) >= 5, timeout_s=90, what="some chunks of lines are sent")
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    summary = json.loads(trs(settings, *command).stdout)
    assert (summary["finished"], summary["resumed"], summary["sent"] < summary["rows"]) == (True, True, True)

    for table in TABLES:
        events = [json.loads(r.value) for r in read_topic(settings, f"{settings.topic_prefix}.{table.name}")]
        assert {e["source"]["name"] for e in events} == {BATCH_SOURCE_NAME}
        sent = Counter(
            (*(str(e["after"][k]) for k in table.key), e["source"]["pos"], e["source"]["row"]) for e in events
        )
        keys = [tuple(str(row[k]) for k in table.key) for row in tables[table.name].select(list(table.key)).to_pylist()]
        assert sorted(key[: len(table.key)] for key in sent) == sorted(keys)  # sent twice: with the same order
    (letter,) = (json.loads(r.value) for r in read_topic(settings, f"{settings.topic_prefix}.dead_letters"))
    assert (letter["origin"], letter["table"], letter["reason"], letter["line"]) == (
        "s3-export",
        "invoices",
        "bad_value",
        1,
    )
    assert letter["file"] == "trs/trs.invoices/1/part-00000-5f0c0.gz.parquet"


@pytest.mark.parametrize("command", ["snapshot", "diff"])
def test_mistyped_address_is_one_line_that_says_what_to_name(
    settings: Settings, store: pafs.S3FileSystem, folder: str, tables: dict[str, pa.Table], command: str
) -> None:
    write_export(store, folder, {"skus": tables["skus"]}, name="nightly", parts=1)
    variables = {name: value for name, value in environment(settings).items() if name.startswith("TRS_")}
    for place, told in (
        (f"s3://{folder}/nighty", "is not an export: it has no export_info_*.json"),
        (f"s3://{folder}", "exports are below it: nightly"),
        (f"s3://no-bucket-{uuid.uuid4().hex}/nightly", "no such bucket or object"),
        ("s3://", "names no bucket and no folder"),
    ):
        done = trs_here("bootstrap", command, "--source", f"s3-export:{place}", **variables)
        assert done.code != 0
        assert told in done.err
        assert "Traceback" not in done.err
