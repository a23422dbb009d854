"""Rows of AWS DMS's JSON as Debezium's JSON converter would have written them: images and message keys, as text.

Numbers keep the digits that DMS wrote: a fraction is never a float on the way. What does not cast to its column is
written as it came, so that the worker's decoder refuses it with its own reason; only a key must cast, because it
decides the partition.
"""

import json
import re
from collections.abc import Callable, Mapping
from datetime import date
from functools import lru_cache
from json.encoder import encode_basestring  # the one of json.dumps, in C
from typing import Any, Final

from processors.decode_record import BadRecordError
from processors.decode_values import Number, cast_integer
from processors.reasons import Reason
from processors.tables import Column, Kind, Table

Image = Mapping[str, Any]
"""A row as `read_json` gives it: texts, ints, Numbers (all other numbers), None, and whatever DMS may nest."""

_Column = tuple[str, Callable[[Any], str]]
_DAY: Final = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[T ]00:00(?::00(?:\.0+)?)?Z?)?", re.ASCII)
"""A day, alone or as the midnight that begins it."""
_EPOCH_ORDINAL: Final = date(1970, 1, 1).toordinal()
_AS_CONNECT: Final = re.compile("[\\x00-\\x1f\\U00010000-\\U0010ffff]")
_SHORT: Final = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}


def read_json(text: str) -> Any:
    """The value of a JSON text, numbers exact. Raises ValueError, and RecursionError for what is nested too deeply."""
    return _DECODER.decode(text)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_DECODER: Final = json.JSONDecoder(parse_float=Number, parse_constant=_no_constant)


class RowWriter:
    """Writes the rows of one table. Columns that the table does not declare are written as they came."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._columns: dict[str, _Column] = {
            name: (f'"{name}":', _WRITERS[column.kind])
            for column in table.columns
            for name in (column.name, *column.aliases)
        }
        self._key_columns = tuple(c for c in table.columns if c.name in table.key)
        self._event_key = tuple((c, f'"{c.name}":') for c in table.columns if c.name in table.event_key)

    def image(self, row: Image) -> str:
        """The row as a JSON object."""
        columns = self._columns
        parts = []
        for name, value in row.items():
            head, write = columns.get(name) or self._undeclared(name)
            parts.append(f"{head}null" if value is None else head + write(value))
        return "{" + ",".join(parts) + "}"

    def _undeclared(self, name: str) -> "_Column":
        return f"{encode_basestring(name)}:", _as_it_came

    def message_key(self, row: Image) -> str:
        """The Kafka message key. Raises BadRecordError for a row without the columns that it is made of."""
        return "{" + ",".join([head + _key_text(column, row) for column, head in self._event_key]) + "}"

    def with_whole_key(self, before: Image, after: Image) -> Image:
        """The image before an update, with the key columns that DMS left out because they did not change."""
        missing = {c.name: after[c.name] for c in self._key_columns if before.get(c.name) is None and c.name in after}
        return {**before, **missing} if missing else before


def _key_text(column: Column, row: Image) -> str:
    value = row.get(column.name)
    if value is None:
        reason = Reason.NULL_VALUE if column.name in row else Reason.MISSING_COLUMN
        raise BadRecordError(reason, f"{column.name} is {'null' if column.name in row else 'missing'}")
    if type(value) is int:
        return str(value)
    try:
        if column.kind is not Kind.TEXT or isinstance(value, Number):
            return str(cast_integer(value, kind=column.kind if column.kind is not Kind.TEXT else Kind.BIGINT))
        if not isinstance(value, str):
            raise ValueError("is no text")
    except ValueError as error:
        raise BadRecordError(Reason.BAD_VALUE, f"{column.name} {error}") from None
    text: str = encode_basestring(value)
    return text if text.isascii() and "\\u" not in text else _connect_text(value)


def _connect_text(value: str) -> str:
    """A JSON text byte for byte as Kafka Connect's converter writes it."""
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_AS_CONNECT.sub(_escaped, quoted)}"'


def _escaped(match: re.Match[str]) -> str:
    character = match.group()
    if character in _SHORT:
        return _SHORT[character]
    raw = character.encode("utf-16-be")
    return "".join(f"\\u{raw[i]:02X}{raw[i + 1]:02X}" for i in range(0, len(raw), 2))


def _as_it_came(value: Any) -> str:
    if type(value) is str:
        text: str = encode_basestring(value)
        return text
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, list):
        return "[" + ",".join(map(_as_it_came, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{encode_basestring(n)}:{_as_it_came(v)}" for n, v in value.items()) + "}"
    return json.dumps(value)


def _integer(value: Any) -> str:
    """7 for 7, 7.0 and "7": DMS writes large integers as doubles or texts unless it is told not to."""
    if type(value) is int:
        return str(value)
    try:
        return str(cast_integer(value))
    except ValueError:
        return _as_it_came(value)


def _decimal(value: Any) -> str:
    """The digits as they are written, in quotes."""
    if type(value) is int or isinstance(value, Number):
        return f'"{value}"'
    return _as_it_came(value)


def _date(value: Any) -> str:
    """Days since 1970."""
    if isinstance(value, str):
        days = _days(value)
        if days is not None:
            return days
    return _as_it_came(value)


@lru_cache(65_536)
def _days(text: str) -> str | None:
    found = _DAY.fullmatch(text)
    if found is None:
        return None
    try:
        return str(date.fromisoformat(found[1]).toordinal() - _EPOCH_ORDINAL)
    except ValueError:
        return None


_WRITERS: Final[dict[Kind, Callable[[Any], str]]] = {
    Kind.BIGINT: _integer,
    Kind.INT: _integer,
    Kind.TEXT: _as_it_came,
    Kind.DECIMAL: _decimal,
    Kind.DATE: _date,
}
