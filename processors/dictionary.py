"""The data dictionary, docs/data.md, written from the declarations: `python -m processors.dictionary > docs/data.md`.

`make check` compares the file with what the declarations say.
"""

import sys
from collections.abc import Iterable

import pyarrow as pa

from processors.features.declarations import FEATURE_SETS
from processors.lake_tables import LAKE_TABLES, LakeTable
from processors.tables import TABLES, Table
from processors.views.catalog import VIEWS, View

_HEAD = """\
# Data dictionary

Written by `python -m processors.dictionary > docs/data.md` from the declarations in the code; do not edit it by hand.
`trs sql` lists the same names, `trs lake describe TABLE` shows one of them in a lake, `trs lake register` puts the
comments into Glue. Money is decimal, times are UTC. Types are Arrow's.

Who reads wants the [views](#views) and the [feature sets](#feature-sets); the [tables](#tables-of-the-lake) are what
the program keeps, and what views are made of.
"""


def markdown() -> str:
    """The whole page."""
    parts = [
        _HEAD,
        "## Views\n",
        *(_section(v.name, v.doc, v.schema) for v in _views(internal=False)),
        "## Feature sets\n",
        *(_section(f.name, f.doc, VIEWS[f.name].schema) for f in FEATURE_SETS),
        "Their histories, of which each has `valid_from`, `known_from` and until when a version counted:\n",
        *(_section(v.name, v.doc, v.schema) for v in VIEWS.values() if v.name.endswith("_history")),
        "## Tables at the source\n",
        *(_source(table) for table in TABLES),
        "## Tables of the lake\n",
        *(_section(t.name, _table_doc(t), t.schema) for t in LAKE_TABLES.values() if not t.name.endswith("_folded")),
        "A `…_folded` table has the columns of its log and three more: `is_mark`, `mark_bucket`, `mark_date`.\n",
        "## Steps on the way to views\n",
        *(_section(v.name, v.doc, v.schema) for v in _views(internal=True)),
    ]
    return "\n".join(parts)


def _views(*, internal: bool) -> Iterable[View]:
    sets = {f.name for f in FEATURE_SETS}
    others = (v for v in VIEWS.values() if v.name not in sets and not v.name.endswith("_history"))
    return (v for v in others if v.internal is internal)


def _table_doc(table: LakeTable) -> str:
    return table.doc + (" **Personal data.**" if table.personal else "")


def _section(name: str, doc: str, schema: pa.Schema) -> str:
    rows = [(f.name, str(f.type), _comment(f)) for f in schema]
    return f"### {name}\n{doc}\n\n{_rows(rows)}"


def _source(table: Table) -> str:
    rows = [
        (c.name, c.mysql_type, c.doc + (" Personal." if c.personal else "") + (" May be null." if c.nullable else ""))
        for c in table.columns
    ]
    return f"### {table.name} (source)\n{table.doc} Key: {', '.join(table.key)}.\n\n{_rows(rows)}"


def _comment(field: pa.Field) -> str:
    return field.metadata[b"comment"].decode() if field.metadata and b"comment" in field.metadata else ""


def _rows(rows: Iterable[tuple[str, str, str]]) -> str:
    lines = [f"| `{name}` | {kind.replace('|', '/')} | {doc.replace('|', '/')} |" for name, kind, doc in rows]
    return "\n".join(["| column | type | holds |", "| --- | --- | --- |", *lines, ""])


if __name__ == "__main__":
    sys.stdout.write(markdown())
