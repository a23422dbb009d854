"""Columns of a row that are not declared: found and kept as one JSON object (`extra`), whatever the source adds.

The text is what DuckDB writes of the parsed values, on both paths of the decoder: keys in the source's order, whole
numbers exact, others as doubles; Debezium sends decimals as texts.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import duckdb
import pyarrow as pa

from processors.decode_raw import RawScan
from processors.decode_record import Row
from processors.decode_sql import VALID_SQL, extra_sql
from processors.decode_values import Number
from processors.tables import EXTRA, Table

_AFTER: Final = re.compile(rb'"after":(\{.*?\}),"source":', re.DOTALL)
"""The after image of an envelope as Debezium writes it."""


def layout_of(table: Table, value: bytes) -> tuple[str, ...]:
    """The names in the order of the value's after image, if all are declared, else the declared order.

    Most records of a slice look like its first; those that do not are read all the same.
    """
    found = _AFTER.search(value)
    try:
        image = json.loads(found[1]) if found else None
    except ValueError:
        image = None
    names = tuple(image) if isinstance(image, dict) else ()
    declared = {column.name for name in names if (column := table.column(name)) is not None}
    return names if names and len(declared) == len(names) else table.column_names


class Extras:
    """Fills `extra` of events that were decoded one by one, with one statement for all of them."""

    def __init__(self, scan: RawScan, table: Table) -> None:
        self._scan = scan
        self._table = table
        self._waiting: list[tuple[dict[str, Any], Row, bytes]] = []
        self.must_look = False
        """Whether the record was rewritten without its undeclared columns."""

    def look_later(self, event: dict[str, Any], row: Row, value: bytes) -> None:
        """Notes an event whose record may hold more than the declared columns."""
        if row.undeclared or (self.must_look and not row.is_delete):
            self._waiting.append((event, row, value))

    def look(self) -> None:
        """Fills in `extra` of the noted events."""
        if not self._waiting:
            return
        values = pa.array([value for _, _, value in self._waiting], pa.large_binary())
        for (event, _, _), text in zip(self._waiting, self._texts(values), strict=True):
            event[EXTRA] = text

    def _texts(self, values: pa.LargeBinaryArray) -> list[str | None]:
        name, sql = f"{self._table.name}, extra", extra_sql(self._table)
        try:
            return list(self._scan.run(name, sql, values)["extra"].to_pylist())
        except (duckdb.InvalidInputException, UnicodeDecodeError):
            # Half a surrogate pair in one of them: Python reads that, DuckDB does not.
            valid = self._scan.run("valid", VALID_SQL, values)["is_json"].to_pylist()
            return [
                self._texts(pa.array([value.as_py()], pa.large_binary()))[0]
                if ok
                else json_text(row.undeclared) or None
                for value, ok, (_, row, _) in zip(values, valid, self._waiting, strict=True)
            ]


def json_text(value: object) -> str:
    """JSON of what decode_record reads, in ASCII, numbers as they were written."""
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{json.dumps(name)}:{json_text(v)}" for name, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(json_text, value)) + "]"
    return json.dumps(value)
