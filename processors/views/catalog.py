"""Every name that a query of the lake may use: the tables, the states of keyed tables, and the views on these.

`<x>_states` are the current rows of a keyed table, tombstones included (processors/keyed_table.py); the plain names
(`invoices`, `invoice_features`, …) are live rows only; `<feature set>_history` has every change.

The SQL of views is what DuckDB, Trino and Athena have in common, but for one thing: `UNNEST_ROWS(list) AS t (fields…)`
stands for the rows of a list of structs, which each writes in its own way. A view's columns are told once: each has a
comment above it in the SQL file, or is the declared column of the table or feature set that it shows.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

import duckdb
import pyarrow as pa

from processors.errors import SettingsError
from processors.features.declarations import FEATURE_SETS, FOLDER_VARIABLE, SETS_BY_ARTICLE, FeatureSet
from processors.features.versions import until_sql
from processors.keyed_table import KeyedTable, current_sql
from processors.lake_tables import (
    ACCOUNTS_KEYED,
    INVOICES_KEYED,
    ITEMS_KEYED,
    LAKE_TABLES,
    SKUS_KEYED,
    changes_name,
    feature_keyed,
    reconstructed_name,
)

Dialect = Literal["duckdb", "trino"]
"""Athena speaks Trino's."""

_UNNEST_ROWS = re.compile(r"UNNEST_ROWS\(([^()]+)\)")
_UNNEST: dict[Dialect, str] = {
    "duckdb": r"LATERAL (SELECT unnest(\1, max_depth := 2))",
    "trino": r"UNNEST(\1)",
}


@dataclass(frozen=True)
class View:
    """One view: the relations that its SQL reads (tables or other views) and the SQL.

    `comments`: what each column holds. `internal`: a step on the way to other views, not for people.
    """

    name: str
    doc: str
    reads: tuple[str, ...]
    text: str
    comments: tuple[str, ...]
    internal: bool = False

    def sql(self, dialect: Dialect = "duckdb") -> str:
        """The query."""
        return _UNNEST_ROWS.sub(_UNNEST[dialect], self.text)

    @property
    def schema(self) -> pa.Schema:
        """Columns with their types; what each holds is its metadata's `comment`, as in `LakeTable.schema`."""
        return _schemas()[self.name]


@cache
def _schemas() -> dict[str, pa.Schema]:
    """The views' columns, with the types that DuckDB gives them over empty tables."""
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        for table in LAKE_TABLES.values():
            con.register(f"empty_{table.name}", table.schema.empty_table())
        create_views(con, VIEWS, lambda names: {name: f"empty_{name}" for name in names})
        schemas = {}
        for view in VIEWS.values():
            found = con.sql(f"FROM {view.name} LIMIT 0").to_arrow_table().schema
            comments = zip(found, view.comments, strict=True)
            schemas[view.name] = pa.schema([pa.field(f.name, f.type, metadata={"comment": c}) for f, c in comments])
        return schemas


def _from_file(name: str, doc: str, *reads: str, internal: bool = False) -> View:
    text = files("processors.views").joinpath(f"{name}.sql").read_text(encoding="utf-8")
    return View(name, doc, reads, text, _column_comments(text), internal)


def _column_comments(text: str) -> tuple[str, ...]:
    """The comments above the columns of the outermost SELECT: lines that are indented by two."""
    columns = re.split(r"^SELECT$", text, flags=re.MULTILINE)[-1].split("\nFROM ")[0]
    found = re.findall(r"((?:^  -- .*\n)+)", columns, flags=re.MULTILINE)
    return tuple(" ".join(line.strip().removeprefix("-- ") for line in lines.splitlines()) for lines in found)


def _comments_of(schema: pa.Schema) -> tuple[str, ...]:
    return tuple(field.metadata[b"comment"].decode() for field in schema)


def _states(name: str, keyed: KeyedTable) -> View:
    schema = LAKE_TABLES[keyed.log].schema
    names = tuple(schema.names)
    rows = current_sql(keyed, columns=names, log=keyed.log, folded=keyed.folded)
    return View(
        name,
        f"Current rows of {keyed.log}, tombstones included.",
        (keyed.log, keyed.folded),
        f"SELECT {', '.join(names)} FROM {rows} AS states",
        _comments_of(schema),
        internal=True,
    )


def states_name(feature_set: FeatureSet) -> str:
    """The view of a feature set's current rows, tombstones included."""
    return f"{feature_set.name}_states"


def history_name(feature_set: FeatureSet) -> str:
    """The view of a feature set's changes."""
    return f"{feature_set.name}_history"


_ABOUT_CHANGES = (
    "valid_from",
    "known_from",
    "dated_on",
    "deleted",
    "document_version",
    "epoch",
    "bucket",
    "known_date",
)


def _of_features(feature_set: FeatureSet) -> tuple[View, ...]:
    columns = ", ".join(feature_set.column_names)
    comments = tuple(c.doc for c in feature_set.columns)
    states, changes, reconstructed = (
        states_name(feature_set),
        changes_name(feature_set),
        reconstructed_name(feature_set),
    )
    about = pa.schema([LAKE_TABLES[changes].schema.field(name) for name in _ABOUT_CHANGES])
    return (
        _states(states, feature_keyed(feature_set)),
        View(
            feature_set.name,
            feature_set.doc,
            (states,),
            f"SELECT {columns} FROM {states} WHERE NOT deleted",
            comments,
        ),
        View(
            history_name(feature_set),
            f"Every change of {feature_set.name}; of an entity the greatest (document_version, epoch) counts. Rows of"
            " origin 'reconstructed' lie before the lake and have no known_from.",
            (changes, reconstructed),
            f"SELECT {columns}, {', '.join(_ABOUT_CHANGES)}, origin,"
            f" {until_sql(feature_set, 'known')} AS known_until, {until_sql(feature_set, 'valid')} AS valid_until"
            f" FROM (SELECT {columns}, {', '.join(_ABOUT_CHANGES)}, CAST('observed' AS VARCHAR) AS origin"
            f" FROM {changes}"
            f" UNION ALL SELECT {columns}, valid_from, NULL, NULL, false, NULL, NULL, NULL, NULL, origin"
            f" FROM {reconstructed}) AS h",
            (
                *comments,
                *_comments_of(about),
                "'observed' by the lake, or 'reconstructed' (docs/history.md).",
                "When a greater version was known; null: it counts still; known_from: it never counted.",
                "When a greater version was valid, as known today; null: it holds still; valid_from: it never held.",
            ),
        ),
    )


_DECLARED: tuple[View, ...] = (
    _states("sku_states", SKUS_KEYED),
    _states("invoice_states", INVOICES_KEYED),
    _states("account_states", ACCOUNTS_KEYED),
    *((_states("item_states", ITEMS_KEYED),) if SETS_BY_ARTICLE else ()),
    _from_file("skus", "Live articles with their latest prices.", "sku_states"),
    _from_file("invoices_mirror", "Invoices as the source has them, undeclared columns too.", "invoice_states"),
    _from_file("invoice_line_items_mirror", "Lines as the source has them, undeclared columns too.", "invoice_states"),
    _from_file("sku_prices", "Every retail price ever seen, with the time for which it held.", "sku_states"),
    _from_file("accounts", "Live accounts, without personal data.", "account_states"),
    _from_file("live_documents", "Live invoices with their charged lines as a list.", "account_states", internal=True),
    _from_file("invoices", "Live invoices: header, totals, payment.", "live_documents"),
    _from_file("invoice_lines", "Lines of live invoices with the price charged.", "live_documents"),
    _from_file("receivables_ageing", "What accounts owe today, by how long it is overdue.", "invoices", "accounts"),
    _from_file("monthly_revenue", "What was invoiced per month of issue.", "invoices"),
    _from_file(
        "days_sales_outstanding", "Receivables at month ends, and the days of sales they stand for.", "invoices"
    ),
    _from_file("freshness", "Through when the lake is complete.", "epochs"),
    *(view for feature_set in FEATURE_SETS for view in _of_features(feature_set)),
)
VIEWS: dict[str, View] = {view.name: view for view in _DECLARED}
if len(VIEWS) < len(_DECLARED) or VIEWS.keys() & LAKE_TABLES.keys():
    raise SettingsError(f"{FOLDER_VARIABLE}: a feature set has a name of which views or tables of the lake are made")


def documented_names() -> dict[str, str]:
    """Every name that a query may use and what it holds: views first, then tables."""
    return {v.name: v.doc for v in VIEWS.values()} | {t.name: t.doc for t in LAKE_TABLES.values()}


def create_views(
    con: duckdb.DuckDBPyConnection, names: Iterable[str], relations: Callable[[list[str]], Mapping[str, str]]
) -> None:
    """Makes the named tables and views, with what they read, visible on the connection; what it has, stays.

    `relations` gives SQL in parentheses for names of lake tables. Only tables that are needed are asked for.
    """
    present = {row[0] for row in con.sql("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()}
    ordered: dict[str, None] = {}

    def visit(name: str) -> None:
        if name not in ordered and name not in present:
            for read in VIEWS[name].reads if name in VIEWS else ():
                visit(read)
            ordered[name] = None

    for name in names:
        visit(name)
    tables = relations([n for n in ordered if n in LAKE_TABLES])
    for name in ordered:
        body = f"FROM {tables[name]}" if name in tables else VIEWS[name].sql()
        con.execute(f"CREATE VIEW {name} AS\n{body}")
