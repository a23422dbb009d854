"""A first load and a later diff from exports of a snapshot on the S3 server: the lake is the batch over the export."""

import json
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pytest

from app.settings import Settings
from batch_bootstrap.generate import Generated
from batch_bootstrap.source import open_source
from processors.features.declarations import FEATURE_SETS
from processors.tables import TABLES
from tests.exports import rows_of, write_export
from tests.stack_helpers import batch_features, query, trs

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


def test_lake_follows_the_exports_of_a_database(
    settings: Settings, store: pafs.S3FileSystem, tables: dict[str, pa.Table], tmp_path: Path
) -> None:
    folder = f"{settings.lake_uri.removeprefix('s3://').split('/')[0]}/exports-{uuid.uuid4().hex[:8]}"
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
