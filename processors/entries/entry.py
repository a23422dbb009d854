"""Entries: what a catalogue shall say of each table and view of the lake."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from processors.entries.types import has_moment, trino_type
from processors.lake_tables import LAKE_TABLES
from processors.views.catalog import VIEWS, View

_COMMENT_LINE = re.compile(r"^\s*--.*\n?", re.MULTILINE)


@dataclass(frozen=True)
class Column:
    """A column of an entry. `comment` is empty where nothing is known."""

    name: str
    kind: pa.DataType
    comment: str


@dataclass(frozen=True)
class Entry:
    """A table of the lake, or a view on them. `query`: the view's SQL for Trino and Athena; None for a table.

    `reads`: the entries that the query names. `personal`: the table holds personal data. `internal`: a view that is a
    step on the way to others, not for people.
    """

    name: str
    doc: str
    columns: tuple[Column, ...]
    query: str | None = None
    reads: tuple[str, ...] = ()
    personal: bool = False
    internal: bool = False


def declared_schemas() -> dict[str, pa.Schema]:
    """The columns of every table of a lake that this version made."""
    return {table.name: table.schema for table in LAKE_TABLES.values()}


def lake_entries(schemas: Mapping[str, pa.Schema]) -> list[Entry]:
    """An entry per table, with the columns that it has, and per view that can be read from these tables.

    `schemas`: the lake's tables. Each view comes after all that it reads.
    """
    entries = {name: _table_entry(name, schema) for name, schema in schemas.items()}
    for view in VIEWS.values():  # each stands after what it reads
        if all(name in entries for name in view.reads):
            entries[view.name] = _view_entry(view)
    return list(entries.values())


def with_all_read(entries: list[Entry], names: tuple[str, ...]) -> list[Entry]:
    """The named entries and what they read, in the order given."""
    by_name = {entry.name: entry for entry in entries}
    wanted: set[str] = set()

    def visit(name: str) -> None:
        if name not in wanted:
            wanted.add(name)
            for read in by_name[name].reads:
                visit(read)

    for name in names:
        visit(name)
    return [entry for entry in entries if entry.name in wanted]


def view_query(view: View) -> str:
    """The view's SQL in Trino's dialect, without comments, whose times are UTC without a zone.

    Athena refuses to make a view with a column that has a time zone. What comes from Delta is in UTC.
    """
    query = _COMMENT_LINE.sub("", view.sql("trino")).strip()
    if not any(has_moment(field.type) for field in view.schema):
        return query
    columns = ",\n  ".join(
        f"CAST({f.name} AS {trino_type(f.type, zone=False)}) AS {f.name}" if has_moment(f.type) else f.name
        for f in view.schema
    )
    indented = query.replace("\n", "\n  ")
    return f"SELECT\n  {columns}\nFROM (\n  {indented}\n) AS with_zones"


def _table_entry(name: str, schema: pa.Schema) -> Entry:
    table = LAKE_TABLES[name]
    told = {field.name: _comment(field) for field in table.schema}
    columns = tuple(Column(f.name, f.type, told.get(f.name) or _comment(f)) for f in schema)
    return Entry(name, table.doc, columns, personal=table.personal)


def _view_entry(view: View) -> Entry:
    columns = tuple(Column(field.name, field.type, _comment(field)) for field in view.schema)
    return Entry(view.name, view.doc, columns, view_query(view), view.reads, internal=view.internal)


def _comment(field: pa.Field) -> str:
    return str((field.metadata or {}).get(b"comment", b"").decode())
