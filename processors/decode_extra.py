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
from processors.decode_sql import extra_sql, plain_extra_sql
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
    """Fills `extra` of events that were decoded one by one, with few statements for all of them."""

    def __init__(self, scan: RawScan, table: Table) -> None:
        self._scan = scan
        self._table = table
        self._read: list[tuple[dict[str, Any], str]] = []
        self._unread: list[tuple[dict[str, Any], bytes]] = []
        self.must_look = False
        """Whether the record was rewritten without its undeclared columns."""

    def look_later(self, event: dict[str, Any], row: Row, value: bytes) -> None:
        """Notes an event whose record may hold more than the declared columns."""
        if row.is_delete:
            return
        try:
            text = json_text(row.undeclared)
        except RecursionError:
            self.must_look, text = True, ""
        if self.must_look:
            self._unread.append((event, value))
        elif row.undeclared:
            self._read.append((event, text))

    def look(self) -> None:
        """Fills in `extra` of the noted events."""
        if self._unread:
            values = pa.array([value for _, value in self._unread], pa.binary_view())
            found = self._scan.run(f"{self._table.name}, extra", extra_sql(self._table), values)[EXTRA].to_pylist()
            for (event, _), text in zip(self._unread, found, strict=True):
                event[EXTRA] = text
        if self._read:
            found = self._plain([text for _, text in self._read])
            for (event, _), text in zip(self._read, found, strict=True):
                event[EXTRA] = text

    def _plain(self, found: list[str]) -> list[str | None]:
        """The texts as DuckDB writes them; one that it cannot read (half a surrogate pair) stays as it is."""
        values = pa.array([text.encode() for text in found], pa.binary_view())
        try:
            return list(self._scan.run("extra", plain_extra_sql(), values)[EXTRA].to_pylist())
        except (duckdb.Error, UnicodeDecodeError):
            return [found[0]] if len(found) == 1 else [self._plain([text])[0] for text in found]


def json_text(value: object) -> str:
    """JSON of what decode_record reads, in ASCII, numbers as they were written.

    It reads members from the last to the first, so that of equal names the first counts: here they turn round again.
    """
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, Mapping):
        members = [f"{json.dumps(name)}:{json_text(v)}" for name, v in value.items()]
        return "{" + ",".join(reversed(members)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(json_text, value)) + "]"
    return json.dumps(value)
