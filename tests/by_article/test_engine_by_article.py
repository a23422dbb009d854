"""The engine with a feature set by article: lines in, rows of `sku_demand_features` out, equal to the batch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connectors.delta_lake import DeltaLake
from connectors.lake import LakeLocation
from connectors.object_files import LakeReader
from processors.features.batch import LAKE_VIEWS, inputs_from_lake
from processors.features.declarations import feature_set
from processors.features.derive import derive_sql
from processors.views.catalog import create_views
from tests.feature_set_example import NAME
from tests.processors.test_engine import INVOICE, LINE, SKU, Shell, Topics, event

Demand = dict[tuple[str, str], tuple[Any, ...]]


@pytest.fixture
def location(tmp_path: Path) -> LakeLocation:
    return LakeLocation(str(tmp_path / "lake"))


@pytest.fixture
def topics() -> Topics:
    """Two articles, two invoices of January 2019 and one of March, with lines of both."""
    made = Topics()
    made.add("skus", event("skus", "r", 1, SKU), event("skus", "r", 2, SKU | {"item_id": "b"}))
    for number, day in ((1, 17_897), (2, 17_900), (3, 17_960)):
        made.add("invoices", event("invoices", "c", 10 * number, INVOICE | {"invoice_id": number, "date_issued": day}))
        for place, item in enumerate("ab" if number < 3 else "a"):
            row = LINE | {"invoice_id": number, "item_id": item}
            made.add("invoice_line_items", event("invoice_line_items", "c", 10 * number + 1 + place, row))
    return made


@pytest.fixture
def shell(location: LakeLocation, topics: Topics, tmp_path: Path) -> Iterator[Shell]:
    one = Shell(DeltaLake(location), topics, tmp_path / "spill")
    yield one
    one.engine.stop()


def look(location: LakeLocation) -> tuple[Demand, Demand]:
    """The current rows of the stream, and those of the batch over the logs."""
    declared = feature_set(NAME)
    assert declared is not None
    reader = LakeReader(location.uri, location.storage_options)
    con = reader.connect()
    create_views(con, [NAME, *LAKE_VIEWS], reader.relations)
    inputs_from_lake(con, price_at="creation")
    found: list[Demand] = []
    for rows in (NAME, derive_sql(declared)):
        table = con.sql(f"FROM {rows}").fetchall()
        found.append({(item, str(month)): tuple(values) for item, month, *values in table})
        assert len(found[-1]) == len(table), "a key twice"
    reader.close()
    return found[0], found[1]


def test_lines_become_rows_by_article_and_month_as_the_batch_has_them(shell: Shell, location: LakeLocation) -> None:
    shell.settle()
    stream, batch = look(location)
    assert stream == batch
    assert stream.keys() == {("a", "2019-01-01"), ("b", "2019-01-01"), ("a", "2019-03-01")}
    assert stream["a", "2019-01-01"][2] == 8


def test_invoice_that_moves_to_another_month_takes_its_lines_along(
    shell: Shell, topics: Topics, location: LakeLocation
) -> None:
    shell.settle()
    moved = INVOICE | {"invoice_id": 3, "date_issued": 17_990, "account_id": 8}
    topics.add("invoices", event("invoices", "u", 100, moved))
    shell.settle()
    stream, batch = look(location)
    assert stream == batch
    assert stream.keys() == {("a", "2019-01-01"), ("b", "2019-01-01"), ("a", "2019-04-01")}


def test_deleted_invoice_ends_the_rows_that_only_it_had(shell: Shell, topics: Topics, location: LakeLocation) -> None:
    shell.settle()
    topics.add("invoices", event("invoices", "d", 100, INVOICE | {"invoice_id": 3}))
    topics.add("invoice_line_items", event("invoice_line_items", "d", 101, LINE | {"invoice_id": 1, "item_id": "b"}))
    shell.settle()
    stream, batch = look(location)
    assert stream == batch
    assert stream.keys() == {("a", "2019-01-01"), ("b", "2019-01-01")}
    assert stream["b", "2019-01-01"][2] == 4
