"""Feature sets read from files: `NAME.sql` beside `NAME.toml`.

    doc = "One row per article and month of issue."
    version = 1
    grain = "article"                     # or "account", "invoice"
    entity_key = ["item_id", "month"]
    owner_column = "item_id"
    month_column = "month"                # may be left out

    [columns]                             # in the order of the SQL's
    item_id = { type = "VARCHAR", doc = "The article." }
    month = { type = "DATE", doc = "First day of the month." }

Whatever is wrong is one SettingsError that names the file.
"""

import re
import tomllib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from processors.errors import SettingsError
from processors.features.derive import derive_sql
from processors.features.feature_set import COLUMN_TYPES, INPUTS, INPUTS_OF, FeatureColumn, FeatureSet

_NAME = re.compile(r"[a-z][a-z0-9_]{0,59}")
_KINDS: dict[str, type] = {
    "doc": str,
    "version": int,
    "grain": str,
    "entity_key": list,
    "owner_column": str,
    "columns": dict,
    "window_days": int,
    "month_column": str,
}
_OPTIONAL = ("window_days", "month_column")
_KIND_NAMES = {str: "a text", int: "a whole number", list: "a list", dict: "a table"}
_OURS = frozenset(
    (
        *("bucket", "epoch", "entity_bucket", "document_version", "deleted", "feature_version", "valid_from"),
        *(
            "known_from",
            "known_date",
            "dated_on",
            "is_mark",
            "mark_bucket",
            "mark_date",
            "origin",
            "unknowns",
            "backfilled_at",
        ),
        *("watermark", "run_id", "source_ts", "change", "rank_in_key", "rank_in_entity"),
    )
)
"""Columns that the lake's tables have beside a set's own."""


def read_feature_sets(
    folder: Path, *, what: str, taken: Collection[str] = (), check_sql: bool = False
) -> tuple[FeatureSet, ...]:
    """The sets of a folder by name; other files in it do not matter. Raises SettingsError, which names `what`.

    `taken`: names that are in use already. `check_sql`: also run each SQL over empty relations.
    """
    if not folder.is_dir():
        raise SettingsError(f"{what}: there is no folder {folder}", hint="it holds NAME.sql and NAME.toml of each set")
    declared, written = ({p.stem for p in folder.glob(f"*.{kind}")} for kind in ("toml", "sql"))
    for stem in sorted(declared ^ written):
        there, lacking = ("toml", "sql") if stem in declared else ("sql", "toml")
        raise SettingsError(f"{what}: {folder} has {stem}.{there} and no {stem}.{lacking}")
    sets = []
    for name in sorted(declared):
        try:
            found = _read(folder, name)
            if name in taken:
                raise _Wrong("a shipped set has this name")
            if check_sql:
                _check_sql(found)
        except _Wrong as error:
            raise SettingsError(f"{what}: {folder / name}.toml: {error}", hint="see docs/feature_sets.md") from None
        sets.append(found)
    return tuple(sets)


class _Wrong(Exception):  # noqa: N818 - becomes a SettingsError that names the file
    """What is wrong with a declaration, as the end of a sentence."""


def _read(folder: Path, name: str) -> FeatureSet:
    if not _NAME.fullmatch(name):
        raise _Wrong("a name is of lower-case letters, digits and underscores, 60 at most")
    try:
        declared = tomllib.loads((folder / f"{name}.toml").read_text(encoding="utf-8"))
        sql = (folder / f"{name}.sql").read_text(encoding="utf-8")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _Wrong(f"not readable: {error}") from None
    _check_fields(declared)
    columns = tuple(_column(column, told) for column, told in declared["columns"].items())
    found = FeatureSet(
        name=name,
        doc=declared["doc"],
        version=declared["version"],
        grain=declared["grain"],
        entity_key=tuple(declared["entity_key"]),
        owner_column=declared["owner_column"],
        columns=columns,
        sql=sql,
        window_days=declared.get("window_days"),
        month_column=declared.get("month_column"),
    )
    for complaint in _complaints(found):
        raise _Wrong(complaint)
    return found


def _check_fields(declared: dict[str, Any]) -> None:
    for field, value in declared.items():
        if field not in _KINDS:
            raise _Wrong(f"unknown field `{field}`; there are {', '.join(_KINDS)}")
        if type(value) is not _KINDS[field]:
            raise _Wrong(f"`{field}` is not {_KIND_NAMES[_KINDS[field]]}")
    for field in _KINDS:
        if field not in declared and field not in _OPTIONAL:
            raise _Wrong(f"`{field}` is missing")
    if not all(type(column) is str for column in declared["entity_key"]):
        raise _Wrong("`entity_key` is not a list of columns")


def _column(name: str, told: Any) -> FeatureColumn:
    if not _NAME.fullmatch(name) or name in _OURS:
        raise _Wrong(f"column `{name}`: the name is not of lower-case letters, digits and _, or the lake's own")
    if not isinstance(told, dict) or told.keys() != {"type", "doc"} or not all(type(v) is str for v in told.values()):
        raise _Wrong(f'column `{name}`: write it as {name} = {{ type = "BIGINT", doc = "What it holds." }}')
    if told["type"] not in COLUMN_TYPES:
        raise _Wrong(f"column `{name}`: type `{told['type']}` is none of {', '.join(COLUMN_TYPES)}")
    return FeatureColumn(name, told["type"], told["doc"])


def _complaints(found: FeatureSet) -> Iterator[str]:
    types = {c.name: c.sql_type for c in found.columns}
    if found.grain not in INPUTS_OF:
        yield f"`grain` is none of {', '.join(INPUTS_OF)}"
    if found.version < 1:
        yield "`version` is below 1"
    if not found.doc.strip() or not all(c.doc.strip() for c in found.columns):
        yield "a `doc` is empty"
    if not found.entity_key or len(set(found.entity_key)) < len(found.entity_key):
        yield "`entity_key` is empty or names a column twice"
    for column in (*found.entity_key, found.owner_column, found.month_column or found.owner_column):
        if column not in types:
            yield f"`{column}` is none of the columns"
    owner = "VARCHAR" if found.grain == "article" else "BIGINT"
    if types[found.owner_column] != owner:
        yield f"`{found.owner_column}` names the owner: of grain {found.grain} its type is {owner}"
    if found.per_invoice and (len(found.entity_key) > 1 or found.owner_column in found.entity_key):
        yield "of grain invoice the key is the invoice's id alone"
    if found.per_invoice and types[found.entity_key[0]] != "BIGINT":
        yield f"`{found.entity_key[0]}` is the invoice's id: its type is BIGINT"
    if not found.per_invoice and found.owner_column not in found.entity_key:
        yield f"`entity_key` lacks `{found.owner_column}`: rows of two owners could have one key"
    if found.window_days is not None and (not found.per_invoice or found.window_days < 1):
        yield "`window_days` is a number above 0, of grain invoice only"
    if found.month_column is not None:
        if found.grain != "article":
            yield "`month_column` is of grain article only"
        if found.month_column not in found.entity_key or types[found.month_column] != "DATE":
            yield f"`{found.month_column}` must be a DATE and in `entity_key`"


def _check_sql(found: FeatureSet) -> None:
    """Runs the SQL over empty relations: its columns must be those declared, in their order."""
    import duckdb  # most processes have no further sets to check

    with duckdb.connect() as con:
        con.execute("SET enable_external_access = false")
        for relation in INPUTS_OF[found.grain]:
            con.execute(f"CREATE TABLE {relation} ({INPUTS[relation]})")
        try:
            names = tuple(row[0] for row in con.sql(f"DESCRIBE (\n{found.sql}\n)").fetchall())
            if names != found.column_names:
                raise _Wrong(
                    f"the SQL gives the columns {', '.join(names)}, declared are {', '.join(found.column_names)}"
                )
            con.sql(f"FROM {derive_sql(found)}").fetchall()
        except duckdb.Error as error:
            raise _Wrong(f"the SQL does not run: {' '.join(str(error).split())[:300]}") from None
