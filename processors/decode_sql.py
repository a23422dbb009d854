"""The table-speed path of the decoder as SQL: takes the records whose form it can prove, and says which those are.

JSON scalars are extracted as text and must be canonical: the text of the cast value equals the text that was cast.
Whatever is not (7.0 for an integer, a text that looks like a number with a point, a null where none is allowed,
anything that is not JSON) is left to processors/decode_record.py, which judges exactly. Both agree on every record that
this path takes.

Nearly every record begins, to the byte, with an after image that is made of the declared columns in the order in which
the source has them (`layout`). That proves that its texts are texts, and that it has no column beyond the declared
ones. In others undeclared columns are looked for, at last by parsing them a second time.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Final

from processors.decode_raw import LAST_MS, RAW, sql_literal
from processors.decode_values import FIRST_DAY, LAST_DAY, TEXT_BYTES
from processors.order import packed_order_sql
from processors.tables import EXTRA, Column, Kind, Table

_SOURCE_FIELDS = ("name", "ts_ms", "table", "file", "pos", "row")
NUMBER_BOUNDS: Final = {"pos": (0, 10**13), "row": (0, 10**10), "ts_ms": (1, LAST_MS + 1)}
"""The numbers of a source that count: the least that is good, and the first beyond."""
HEAD: Final = '{"before":null,"after":'
"""How the record of a row that was read or made begins, as Debezium and our bootstrapper write it."""
VALID_SQL: Final = f"SELECT coalesce(json_valid(value), false) AS is_json FROM {RAW}"
"""Per record whether DuckDB's JSON reader takes it."""


def _names(table: Table) -> list[tuple[str, str]]:
    """(name in the record, type to extract) per column and alias; JSON where text and number must be told apart."""
    return [
        (name, "JSON" if column.kind is Kind.DECIMAL else "VARCHAR")
        for column in table.columns
        for name in (column.name, *column.aliases)
    ]


def envelope_structure(table: Table) -> dict[str, object]:
    """What is extracted from an envelope, as the structure argument of DuckDB's json_transform."""
    image = dict(_names(table))
    source = dict.fromkeys(_SOURCE_FIELDS, "VARCHAR")
    return {"op": "VARCHAR", "before": image, "after": image, "ts_ms": "VARCHAR", "source": source}


def relaxed_sql(table: Table) -> str:
    """SQL over RAW: what the decoder reads of a value, bare or in a payload, as strict JSON in `value`.

    Null where DuckDB's JSON reader finds no object. It takes what Python's refuses: trailing commas, any depth.
    """
    image = {name: "JSON" for name, _ in _names(table)}
    envelope = {
        "op": "JSON",
        "before": image,
        "after": image,
        "ts_ms": "JSON",
        "source": dict.fromkeys(_SOURCE_FIELDS, "JSON"),
    }
    structure = sql_literal(json.dumps(envelope | {"payload": envelope}))
    return f"SELECT TRY(to_json(json_transform(value, {structure}))) AS value FROM {RAW}"


def extra_sql(table: Table) -> str:
    """SQL over RAW: `extra` of each envelope, bare or in a payload; for values that DuckDB's JSON reader takes."""
    bare, wrapped = (_without_nulls(_undeclared(table, f"$.{path}")) for path in ("after", "payload.after"))
    is_bare = "json_extract_string(value, '$.op') IS NOT NULL"
    return f"SELECT CASE WHEN {is_bare} THEN {bare} ELSE {wrapped} END AS extra FROM {RAW}"


def plain_extra_sql() -> str:
    """SQL over RAW: `extra` as this program writes it, of an object without declared columns."""
    return f"SELECT {_without_nulls('value')} AS extra FROM {RAW}"


def _undeclared(table: Table, path: str) -> str:
    """The object at this path of `value` without its declared columns."""
    declared = sql_literal(json.dumps(dict.fromkeys(name for name, _ in _names(table))))
    return f"json_merge_patch(json_extract(value, '{path}'), {declared}::JSON)"


def _without_nulls(value: str) -> str:
    """A JSON object without nulls, as text; null if it is empty then."""
    return f"nullif(json_merge_patch('{{}}'::JSON, {value})::VARCHAR, '{{}}')"


def decode_sql(table: Table, epochs: Mapping[str, int], *, in_payload: bool, layout: Sequence[str]) -> str:
    """SQL over RAW, one row per record in order; fails when a value is not JSON: looking first costs a fifth.

    `in_payload`: takes envelopes in the payload of a value with schema, else bare ones. `layout`: names or aliases of
    declared columns, as an after image has them in nearly all records; others cost more time.
    Columns: `taken` (false: judge it by decode_record), `is_json`, `row_order`, `is_delete`, `is_create`, `source_ts`,
    the table's columns, `extra`, `key_changed`, `old_<column>` per key column (set where an update changed the key).
    """
    image, escaped = (_image(table, layout, escaped=e, behind=',"source":') for e in (False, True))
    proven = f"op IN ('c', 'r') AND starts_with(value, concat({sql_literal(HEAD)}, {image}))"
    structure = envelope_structure(table)
    if in_payload:
        structure = {"op": "VARCHAR", "payload": structure}
    extract = f"json_transform(value, {sql_literal(json.dumps(structure))})"
    columns = table.columns
    key_columns = [c for c in columns if c.name in table.key]
    images = ",\n    ".join(
        f"CASE WHEN op = 'd' THEN {_either('j.before', c)} ELSE {_either('j.after', c)} END AS t_{c.name}"
        for c in columns
    )
    old_texts = ",\n    ".join(f"j.before.{_quoted(c.name)} AS o_{c.name}" for c in key_columns)
    typed = ",\n    ".join(f"{_cast(f't_{c.name}', c)} AS c_{c.name}" for c in columns)
    old_typed = ",\n    ".join(
        f"CASE WHEN op = 'u' THEN {_cast(f'o_{c.name}', c)} END AS old_{c.name}" for c in key_columns
    )
    epoch = " ".join(f"WHEN {sql_literal(name)} THEN {number}" for name, number in epochs.items())
    order = packed_order_sql(epoch="source_epoch", file="file_number", pos="pos_number", row="row_number")

    def within(name: str, number: str) -> str:
        low, bound = NUMBER_BOUNDS[name]
        return f"{number} BETWEEN {low} AND {bound - 1}"

    sound = "\n    AND ".join(
        [
            "op IN ('c', 'r', 'u', 'd')",
            f"source_table = {sql_literal(table.name)}",
            "source_epoch IS NOT NULL",
            "file_number IS NOT NULL",
            f"{within('pos', 'pos_number')} AND pos_number::VARCHAR = pos",
            f"(row IS NULL OR row = '0' OR ({within('row', 'row_number')} AND row_number::VARCHAR = row))",
            f"{within('ts_ms', 'ts_number')} AND ts_number::VARCHAR = ts",
            *(_sound(f"t_{c.name}", f"c_{c.name}", c, required=c.name in table.key) for c in columns),
            *(
                f"(op <> 'u' OR o_{c.name} IS NULL OR {_canonical(f'o_{c.name}', f'old_{c.name}', c)})"
                for c in key_columns
            ),
        ]
    )
    differs = " OR ".join(f"old_{c.name} <> c_{c.name}" for c in key_columns)
    complete = " AND ".join(f"old_{c.name} IS NOT NULL" for c in key_columns)
    return f"""
WITH extracted AS (
  SELECT value, {extract} AS read, likely_file, likely_number FROM {RAW}
), envelopes AS (
  SELECT
    {"CASE WHEN read.op IS NULL THEN read.payload END" if in_payload else "read"} AS j,
    value,
    read IS NOT NULL AS is_json,
    likely_file,
    likely_number
  FROM extracted
), texts AS (
  SELECT
    value,
    likely_file,
    likely_number,
    is_json,
    j.op AS op,
    j.source.name AS source_name,
    j.source."table" AS source_table,
    j.source.file AS file,
    j.source.pos AS pos,
    j.source."row" AS "row",
    coalesce(j.source.ts_ms, j.ts_ms) AS ts,
    {images},
    {old_texts}
  FROM envelopes
), numbers AS (
  SELECT
    *,
    CASE source_name {epoch} END AS source_epoch,
    CASE
      WHEN file = likely_file THEN likely_number
      WHEN regexp_full_match(file, '(?s)(.*[A-Za-z].*\\.)?[0-9]{{1,10}}') THEN split_part(file, '.', -1)::BIGINT
    END AS file_number,
    TRY_CAST(pos AS BIGINT) AS pos_number,
    coalesce(TRY_CAST("row" AS BIGINT), 0) AS row_number,
    TRY_CAST(ts AS BIGINT) AS ts_number,
    {typed},
    {old_typed},
    coalesce({proven}, false) AS proven
  FROM texts
), judged AS (
  SELECT *, coalesce({sound}, false) AS is_sound FROM numbers
), undeclared AS (
  SELECT
    *,
    CASE
      WHEN NOT is_sound OR proven OR op = 'd' THEN NULL
      WHEN contains(value, concat('"after":', {image})) THEN NULL
      WHEN contains(value, concat('"after":', {escaped})) THEN NULL
      ELSE {_undeclared(table, "$.payload.after" if in_payload else "$.after")}
    END AS others
  FROM judged
), complete AS (
  SELECT
    *,
    CASE
      WHEN others IS NULL THEN is_sound
      ELSE is_sound AND len(list_distinct(json_keys(others))) = len(json_keys(others))
    END AS taken
  FROM undeclared
)
SELECT
  taken,
  is_json,
  CASE WHEN taken THEN {order} END AS row_order,
  op = 'd' AS is_delete,
  op IN ('c', 'r') AS is_create,
  CASE WHEN taken THEN make_timestamptz(ts_number * 1000) END AS source_ts,
  {", ".join(f"c_{c.name} AS {_quoted(c.name)}" for c in columns)},
  CASE WHEN others IS NOT NULL THEN {_without_nulls("others")} END AS {EXTRA},
  coalesce(taken AND op = 'u' AND {complete} AND ({differs}), false) AS key_changed,
  {", ".join(f"old_{c.name}" for c in key_columns)}
FROM complete
"""


def template_sql(table: Table, *, layout: Sequence[str], holes: Sequence[str], escaped: bool) -> str:
    """SQL over RAW like `decode_sql`, one row per record in order, that takes records of one template alone.

    A record is written anew from its row and the numbers `holes` (`source.NAME` or `NAME`), and taken if that is it to
    the byte. `escaped`: texts are written with escapes where they need one, which costs more. No column is a decimal.

    Parameters: the pieces of text before, between and behind the holes; then the source epoch, the number of the file,
    and those of the source's `pos`, `row` and `ts_ms` that are no holes.
    """
    names = {column.name: name for name in layout if (column := table.column(name)) is not None}
    paths = [
        *(f'$.after."{name}"' for name in names.values()),
        *("$." + ".".join(f'"{name}"' for name in hole.split(".")) for hole in holes),
    ]
    extracted = {column: f"x[{place}]" for place, column in enumerate(names, 1)}
    texts = [f"{extracted.get(c.name, 'NULL::VARCHAR')} AS t_{c.name}" for c in table.columns]
    texts += [f"x[{len(names) + place}] AS hole_{place}" for place in range(1, len(holes) + 1)]
    rest = ", ".join(["$1::VARCHAR", *(f"hole_{place}, ${place + 1}::VARCHAR" for place in range(1, len(holes) + 1))])
    written = f"concat({sql_literal(HEAD)}, {_image(table, layout, escaped=escaped, behind='')}, {rest})"
    parameters = (f"${place}::BIGINT" for place in itertools.count(len(holes) + 2))
    epoch, file = next(parameters), next(parameters)
    typed = ", ".join(f"{_cast(f't_{c.name}', c, is_number=True)} AS c_{c.name}" for c in table.columns)
    numbers, canonical = [], []
    for name, (low, bound) in NUMBER_BOUNDS.items():
        if (path := f"source.{name}") in holes:
            text = f"hole_{holes.index(path) + 1}"
            numbers.append(f"TRY_CAST({text} AS BIGINT) AS {name}_number")
            canonical.append(f"{name}_number BETWEEN {low} AND {bound - 1} AND {name}_number::VARCHAR = {text}")
        else:
            numbers.append(f"{next(parameters)} AS {name}_number")
    sound = [
        *canonical,
        *(_sound(f"t_{c.name}", f"c_{c.name}", c, required=c.name in table.key, is_number=True) for c in table.columns),
    ]
    order = packed_order_sql(epoch="source_epoch", file="file_number", pos="pos_number", row="row_number")
    old = ", ".join(f"NULL::{c.duckdb_type} AS old_{c.name}" for c in table.columns if c.name in table.key)
    return f"""
WITH extracted AS (
  SELECT value, json_extract_string(value, {paths}) AS x FROM {RAW}
), texts AS (
  SELECT value, {", ".join(texts)} FROM extracted
), judged AS (
  SELECT
    *,
    'c' AS op,
    {epoch} AS source_epoch,
    {file} AS file_number,
    {", ".join(numbers)},
    {typed},
    coalesce(value = {written}, false) AS proven
  FROM texts
), complete AS (
  SELECT *, coalesce(proven AND {" AND ".join(sound)}, false) AS taken FROM judged
)
SELECT
  taken,
  CASE WHEN taken THEN {order} END AS row_order,
  false AS is_delete,
  true AS is_create,
  CASE WHEN taken THEN make_timestamptz(ts_ms_number * 1000) END AS source_ts,
  {", ".join(f"c_{c.name} AS {_quoted(c.name)}" for c in table.columns)},
  NULL::VARCHAR AS {EXTRA},
  false AS key_changed,
  {old}
FROM complete
"""


def _image(table: Table, layout: Sequence[str], *, escaped: bool, behind: str) -> str:
    """The arguments of a concat that writes the after image of this layout from the extracted texts, and `behind`.

    Not `escaped`: texts as they are, which is right for those without quotes, backslashes and control characters.
    """
    arguments, literal = [], "{"
    for place, name in enumerate(layout):
        column = table.column(name)
        if column is None:
            raise ValueError(f"{name} is no column of {table.name}")
        text, quote = f"t_{column.name}", ""
        literal += f'{"," if place else ""}"{name}":'
        if column.kind is Kind.TEXT and escaped:
            text = f"to_json({text})::VARCHAR"
        elif column.kind is Kind.TEXT and not column.nullable:
            quote = '"'
        elif column.kind is Kind.TEXT:
            text = f"""'"' || {text} || '"'"""
        if column.nullable:
            text = f"coalesce({text}, 'null')"
        arguments += [sql_literal(literal + quote), text]
        literal = quote
    return ", ".join([*arguments, sql_literal(literal + "}" + behind)])


def _either(image: str, column: Column) -> str:
    names = [f"{image}.{_quoted(name)}" for name in (column.name, *column.aliases)]
    return names[0] if len(names) == 1 else f"coalesce({', '.join(names)})"


def _cast(text: str, column: Column, *, is_number: bool = False) -> str:
    """The typed value. `is_number`: of a date only days are looked for."""
    if column.kind is Kind.TEXT:
        return text
    if column.kind is Kind.DECIMAL:
        return f"TRY_CAST(trim({text}, '\"') AS DECIMAL(20,10))"
    if column.kind is Kind.DATE:
        days = f"TRY_CAST({text} AS INTEGER)"
        other = "NULL" if is_number else f"TRY_CAST({text} AS DATE)"
        return f"CASE WHEN {days} BETWEEN {FIRST_DAY} AND {LAST_DAY} THEN DATE '1970-01-01' + {days} ELSE {other} END"
    return f"TRY_CAST({text} AS {column.duckdb_type})"


def _canonical(text: str, value: str, column: Column, *, proven: str = "false", is_number: bool = False) -> str:
    """True where `value` is exactly what `text` says, decided so that no other reading of the record is possible.

    `proven`: where it holds, the record shows by other means that a text is a text.
    """
    if column.kind is Kind.DECIMAL:
        return f"""regexp_full_match({text}, '"-?[0-9]{{1,10}}([.][0-9]{{1,10}})?"|-?[0-9]{{1,10}}')"""
    if column.kind is Kind.DATE:
        if is_number:
            return f"({value} IS NOT NULL AND TRY_CAST({text} AS INTEGER)::VARCHAR = {text})"
        iso = f"regexp_full_match({text}, '[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}')"
        as_days = f"({value} - DATE '1970-01-01')::VARCHAR = {text}"
        return f"({value} BETWEEN DATE '0001-01-01' AND DATE '9999-12-31' AND ({as_days} OR {iso}))"
    if column.kind is Kind.TEXT:
        fits = f"strlen({text}) <= {TEXT_BYTES}" if column.size is None else f"length({text}) <= {column.size}"
        # Extracted, a boolean, an object or a number looks like a text of these forms; whole numbers read the same.
        perhaps_no_text = r"^(true$|false$|[{\[]|-?[0-9]+[.eE][0-9.eE+-]*$|-?(?i:nan|inf))"
        looks_like_text = f"NOT regexp_matches({text}, {sql_literal(perhaps_no_text)})"
        return f"({fits} AND CASE WHEN {proven} THEN true ELSE {looks_like_text} END)"
    return f"{value}::VARCHAR = {text}"


def _sound(text: str, value: str, column: Column, *, required: bool, is_number: bool = False) -> str:
    canonical = _canonical(text, value, column, proven="proven", is_number=is_number)
    if required:
        return canonical
    absent = f"{text} IS NULL" if column.nullable or column.optional else f"({text} IS NULL AND op = 'd')"
    return f"({absent} OR {canonical})"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
