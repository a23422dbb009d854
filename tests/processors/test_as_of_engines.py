"""The SQL of point-in-time questions in the dialect of each engine, as sqlglot's parsers know them."""

from datetime import UTC, datetime, timedelta, timezone

import duckdb
import pytest
import sqlglot
from sqlglot import exp

from processors.features.as_of import ENGINES, Axis, Engine, as_of_statement, moment_sql
from processors.features.declarations import FEATURE_SETS, INVOICE_FEATURES, FeatureSet
from processors.features.versions import history_rows_sql, until_sql
from processors.lake_tables import LAKE_TABLES, changes_name, reconstructed_name

TIME = datetime(2024, 5, 31, 18, 0, 0, 250_000, tzinfo=UTC)
NOT_SHARED = (exp.Qualify, exp.Anonymous, exp.ArgMax, exp.Struct, exp.Star)
"""What at least one engine lacks, writes otherwise, or (a function that sqlglot does not know) may lack; `*` is of
`SELECT r.*` only, see below."""


@pytest.mark.parametrize("axis", ["known", "valid"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("feature_set", FEATURE_SETS, ids=lambda f: f.name)
@pytest.mark.parametrize("time", [TIME, None], ids=["at", "latest"])
def test_statement_is_of_the_engines_dialect(
    feature_set: FeatureSet, engine: Engine, axis: Axis, time: datetime | None
) -> None:
    statement = as_of_statement(feature_set, time=time, axis=axis, engine=engine)
    tree = sqlglot.parse_one(statement, dialect=engine)
    tables = {table.name for table in tree.find_all(exp.Table)}
    assert tables == {changes_name(feature_set)} | ({reconstructed_name(feature_set)} if axis == "valid" else set())
    odd = [node.sql() for node in tree.find_all(*NOT_SHARED) if not isinstance(node, exp.Star)]
    assert odd == []
    assert tree.named_selects == list(feature_set.column_names)
    unnamed = [s for s in tree.find_all(exp.Subquery) if isinstance(s.parent, exp.From | exp.Join) and not s.alias]
    assert unnamed == [], "Spark and Trino do without, others do not"


@pytest.mark.parametrize("engine", ENGINES)
def test_intervals_are_of_the_engines_dialect(engine: Engine) -> None:
    rows = history_rows_sql(INVOICE_FEATURES, changes="c", reconstructed="p")
    for axis in ("known", "valid"):
        tree = sqlglot.parse_one(f"SELECT {until_sql(INVOICE_FEATURES, axis)} FROM {rows} AS h", dialect=engine)
        assert list(tree.find_all(exp.Qualify, exp.Anonymous, exp.ArgMax, exp.Struct)) == []


def test_statements_differ_between_engines_in_the_word_of_the_literal_alone() -> None:
    words = {
        e: as_of_statement(INVOICE_FEATURES, time=TIME, engine=e).replace("TIMESTAMPTZ", "TIMESTAMP") for e in ENGINES
    }
    assert len(set(words.values())) == 1


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo"])
def test_moment_is_the_same_in_every_session_zone(zone: str) -> None:
    with duckdb.connect() as con:
        con.execute(f"SET TimeZone = '{zone}'")
        literal = moment_sql(TIME.astimezone(timezone(timedelta(hours=5.5))))
        assert con.sql(f"SELECT to_timestamp({TIME.timestamp()}) = {literal}").fetchall() == [(True,)]


@pytest.mark.parametrize("axis", ["known", "valid"])
def test_statement_runs_over_the_tables_by_their_names(axis: Axis) -> None:
    with duckdb.connect() as con:
        for name in (changes_name(INVOICE_FEATURES), reconstructed_name(INVOICE_FEATURES)):
            con.register(name, LAKE_TABLES[name].schema.empty_table())
        assert con.sql(as_of_statement(INVOICE_FEATURES, time=TIME, axis=axis)).fetchall() == []
