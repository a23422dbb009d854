"""Every name that a query of the lake may use: the tables, the states of keyed tables, and the views on these.

`<x>_states` are the current rows of a keyed table, tombstones included (processors/keyed_table.py); the plain names
(`invoices`, `invoice_features`, …) are live rows only; `<feature set>_history` has every change.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files

import duckdb

from processors.features.declarations import FEATURE_SETS, FeatureSet
from processors.keyed_table import KeyedTable, current_sql
from processors.lake_tables import (
    ACCOUNTS_KEYED,
    INVOICES_KEYED,
    LAKE_TABLES,
    SKUS_KEYED,
    changes_name,
    feature_keyed,
    reconstructed_name,
)


@dataclass(frozen=True)
class View:
    """One view: the relations that its SQL reads (tables or other views) and the SQL."""

    name: str
    doc: str
    reads: tuple[str, ...]
    sql: str


def _from_file(name: str, doc: str, *reads: str) -> View:
    return View(name, doc, reads, files("processors.views").joinpath(f"{name}.sql").read_text(encoding="utf-8"))


def _states(name: str, keyed: KeyedTable) -> View:
    columns = tuple(LAKE_TABLES[keyed.log].schema.names)
    return View(
        name,
        f"Current rows of {keyed.log}, tombstones included.",
        (keyed.log, keyed.folded),
        f"FROM {current_sql(keyed, columns=columns, log=keyed.log, folded=keyed.folded)}",
    )


def states_name(feature_set: FeatureSet) -> str:
    """The view of a feature set's current rows, tombstones included."""
    return f"{feature_set.name}_states"


def history_name(feature_set: FeatureSet) -> str:
    """The view of a feature set's changes."""
    return f"{feature_set.name}_history"


def _of_features(feature_set: FeatureSet) -> tuple[View, ...]:
    columns = ", ".join(feature_set.column_names)
    states = states_name(feature_set)
    return (
        _states(states, feature_keyed(feature_set)),
        View(feature_set.name, feature_set.doc, (states,), f"SELECT {columns} FROM {states} WHERE NOT deleted"),
        View(
            history_name(feature_set),
            f"Every change of {feature_set.name}; of an entity the greatest (document_version, epoch) counts. Rows of"
            " origin 'reconstructed' lie before the lake and have no known_from.",
            (changes_name(feature_set), reconstructed_name(feature_set)),
            f"SELECT {columns}, valid_from, known_from, deleted, document_version, epoch, bucket, known_date,"
            f" 'observed' AS origin FROM {changes_name(feature_set)}"
            f" UNION ALL SELECT {columns}, valid_from, NULL, false, NULL, NULL, NULL, NULL, origin"
            f" FROM {reconstructed_name(feature_set)}",
        ),
    )


VIEWS: dict[str, View] = {
    view.name: view
    for view in (
        _states("sku_states", SKUS_KEYED),
        _states("invoice_states", INVOICES_KEYED),
        _states("account_states", ACCOUNTS_KEYED),
        _from_file("skus", "Live articles with their latest prices.", "sku_states"),
        _from_file("invoices_mirror", "Invoices as the source has them, undeclared columns too.", "invoice_states"),
        _from_file(
            "invoice_line_items_mirror", "Lines as the source has them, undeclared columns too.", "invoice_states"
        ),
        _from_file("sku_prices", "Every retail price ever seen.", "sku_states"),
        _from_file("accounts", "Live accounts, without personal data.", "account_states"),
        _from_file("live_documents", "Live invoices with their charged lines as a list.", "account_states"),
        _from_file("invoices", "Live invoices: header and totals.", "live_documents"),
        _from_file("invoice_lines", "Lines of live invoices with the price charged.", "live_documents"),
        *(view for feature_set in FEATURE_SETS for view in _of_features(feature_set)),
    )
}


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
        body = f"FROM {tables[name]}" if name in tables else VIEWS[name].sql
        con.execute(f"CREATE VIEW {name} AS\n{body}")
