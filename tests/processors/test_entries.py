"""Entries of other engines' catalogues, and the statements that make them by hand."""

import pyarrow as pa
import pytest
import sqlglot
from sqlglot import exp

from processors.entries.ddl import ddl
from processors.entries.entry import declared_schemas, lake_entries, view_query, with_all_read
from processors.entries.types import hive_type, trino_type
from processors.errors import InvariantError
from processors.lake_tables import LAKE_TABLES, PERSONAL_TABLES, SKU_LOG
from processors.views.catalog import VIEWS

LAKE = "s3://bucket/lake"
ENTRIES = lake_entries(declared_schemas())


def test_every_table_and_view_has_an_entry_after_what_it_reads() -> None:
    names = [entry.name for entry in ENTRIES]
    assert sorted(names) == sorted([*LAKE_TABLES, *VIEWS])
    for place, entry in enumerate(ENTRIES):
        assert set(entry.reads) <= set(names[:place]), entry.name
    assert {entry.name for entry in ENTRIES if entry.personal} == PERSONAL_TABLES


def test_views_whose_tables_are_missing_have_no_entry() -> None:
    schemas = {name: schema for name, schema in declared_schemas().items() if name != "account_log_folded"}
    names = {entry.name for entry in lake_entries(schemas)}
    assert "invoices" not in names
    assert "receivables_ageing" not in names
    assert "skus" in names


def test_entry_shows_the_columns_that_the_table_has_with_declared_comments() -> None:
    had = SKU_LOG.schema.remove(0).append(pa.field("later", pa.string(), metadata={"comment": "Added by somebody."}))
    bare = pa.schema([pa.field(f.name, f.type) if f.name == "item_id" else f for f in had])
    (entry,) = [e for e in lake_entries({"sku_log": bare}) if e.query is None]
    assert [c.name for c in entry.columns] == [*SKU_LOG.schema.names[1:], "later"]
    comments = {c.name: c.comment for c in entry.columns}
    assert (comments["item_id"], comments["later"]) == ("Identifies the article.", "Added by somebody.")


def test_no_view_has_a_time_with_a_zone() -> None:
    for view in VIEWS.values():
        query = sqlglot.parse_one(view_query(view), dialect="trino")
        assert query.named_selects == view.schema.names, view.name
    casts = view_query(VIEWS["sku_states"])
    assert "CAST(source_ts AS timestamp(3)) AS source_ts" in casts
    assert "source_ts timestamp(3)))) AS prices" in casts
    assert "CAST" not in view_query(VIEWS["invoice_features"])


def test_types_that_a_catalogue_cannot_show_are_refused() -> None:
    assert hive_type(pa.list_(pa.struct([("a", pa.binary()), ("b", pa.float64())]))) == (
        "array<struct<a:binary,b:double>>"
    )
    assert trino_type(pa.list_(pa.struct([("a", pa.timestamp("us", "UTC"))])), zone=True) == (
        "array(row(a timestamp(3) with time zone))"
    )
    for kind in (pa.duration("s"), pa.uint64(), pa.list_(pa.float16())):
        with pytest.raises(InvariantError, match="no catalogue entry"):
            hive_type(kind)


def test_athenas_statements_are_of_its_two_dialects() -> None:
    first, *others = ddl(ENTRIES, engine="athena", lake_uri=LAKE, database="shop")
    assert first == "CREATE DATABASE IF NOT EXISTS `shop`"
    made = {}
    for statement, entry in zip(others, ENTRIES, strict=True):
        tree = sqlglot.parse_one(statement, dialect="hive" if entry.query is None else "trino")
        assert isinstance(tree, exp.Create)
        made[tree.this.name] = tree.kind
        assert tree.this.db == "shop"
        if entry.query is None:
            assert statement.startswith(f"CREATE EXTERNAL TABLE IF NOT EXISTS `shop`.`{entry.name}`\n")
            (location,) = tree.find_all(exp.LocationProperty)
            assert location.this.name == f"{LAKE}/{entry.name}/"
            assert "TBLPROPERTIES ('table_type' = 'DELTA')" in statement
            assert '"' not in statement
        else:
            assert "`" not in statement
            assert not [name for name in unqualified(tree) if name in made], entry.name
    assert made == {entry.name: "TABLE" if entry.query is None else "VIEW" for entry in ENTRIES}


def unqualified(tree: exp.Expression) -> set[str]:
    """Names without a schema that a statement reads; those of its own WITH clauses left out."""
    own = {cte.alias for cte in tree.find_all(exp.CTE)}
    return {table.name for table in tree.find_all(exp.Table) if not table.db} - own


def test_trinos_statements_register_tables_and_comment_views_but_never_tables() -> None:
    statements = list(ddl(ENTRIES, engine="trino", lake_uri=LAKE, database="shop", catalog="my glue"))
    assert statements[0] == 'CREATE SCHEMA IF NOT EXISTS "my glue"."shop"'
    calls = [s for s in statements if s.startswith("CALL")]
    assert len(calls) == len(LAKE_TABLES)
    assert all('"my glue".system.register_table(' in call for call in calls)
    commented = {sqlglot.parse_one(s, dialect="trino").this.table for s in statements if s.startswith("COMMENT")}
    assert commented == {view.name for view in VIEWS.values() if not view.internal}
    (told,) = [s for s in statements if s.startswith('CREATE OR REPLACE VIEW "my glue"."shop"."invoice_features_h')]
    assert "COMMENT 'Every change of invoice_features; " in told
    assert "origin ''reconstructed'' lie" in told


def test_statements_of_one_view_are_those_of_what_it_reads_and_no_more() -> None:
    entries = with_all_read(ENTRIES, ("sku_prices",))
    assert [entry.name for entry in entries] == ["sku_log", "sku_log_folded", "sku_states", "sku_prices"]
