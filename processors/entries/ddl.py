"""The statements by which people make the entries themselves, where they may not write to Glue but have an engine.

Athena has two dialects: Hive's with backticks makes tables, its own with double quotes makes views. It takes the
columns of a Delta table from the table's log, and keeps no comments of views. Trino takes the comments of a Delta table
from the log too; to set them there would write to the table, so only those of views for people are set.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Literal

from processors.entries.entry import Entry

DdlEngine = Literal["athena", "trino"]
CATALOG = "awsdatacatalog"
"""Athena's own catalogue; a Trino that calls its Glue so reads the same views."""


def ddl(
    entries: Iterable[Entry], *, engine: DdlEngine, lake_uri: str, database: str, catalog: str = CATALOG
) -> Iterator[str]:
    """Statements without semicolons that make database, tables and views; `entries` name what they read before.

    Run again they change nothing in Athena; Trino refuses to register a table that is there. `catalog` is Trino's.
    """
    if engine == "athena":
        yield f"CREATE DATABASE IF NOT EXISTS `{database}`"
        for entry in entries:
            yield _athena_table(entry, lake_uri, database) if entry.query is None else _athena_view(entry, database)
        return
    schema = f"{_quoted(catalog)}.{_quoted(database)}"
    yield f"CREATE SCHEMA IF NOT EXISTS {schema}"
    for entry in entries:
        if entry.query is None:
            yield _trino_table(entry, lake_uri, database, catalog)
        else:
            yield from _trino_view(entry, schema)


def _athena_table(entry: Entry, lake_uri: str, database: str) -> str:
    return f"""CREATE EXTERNAL TABLE IF NOT EXISTS `{database}`.`{entry.name}`
LOCATION {_literal(f"{lake_uri}/{entry.name}/")}
TBLPROPERTIES ('table_type' = 'DELTA')"""


def _athena_view(entry: Entry, database: str) -> str:
    schema = _quoted(database)
    return f"CREATE OR REPLACE VIEW {schema}.{_quoted(entry.name)} AS\n{_qualified(entry, schema)}"


def _trino_table(entry: Entry, lake_uri: str, database: str, catalog: str) -> str:
    return f"""CALL {_quoted(catalog)}.system.register_table(
  schema_name => {_literal(database)},
  table_name => {_literal(entry.name)},
  table_location => {_literal(f"{lake_uri}/{entry.name}")}
)"""


def _trino_view(entry: Entry, schema: str) -> Iterator[str]:
    name = f"{schema}.{_quoted(entry.name)}"
    yield f"""CREATE OR REPLACE VIEW {name}
COMMENT {_literal(entry.doc)}
SECURITY INVOKER AS
{_qualified(entry, schema)}"""
    for column in () if entry.internal else entry.columns:
        yield f"COMMENT ON COLUMN {name}.{_quoted(column.name)} IS {_literal(column.comment)}"


def _qualified(entry: Entry, schema: str) -> str:
    """The view's query with its tables and views named in full, whatever schema the session is in."""
    names = "|".join(map(re.escape, entry.reads))
    return re.sub(rf"\b(FROM|JOIN)(\s+)({names})\b", rf'\1\2{schema}."\3"', entry.query or "")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
