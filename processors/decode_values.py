"""Exact casts from JSON scalars to the columns' types: a value is taken as it is, or refused with a sentence.

Numbers arrive as `Number`, the text that the record holds, so nothing is rounded on the way. Every cast raises
ValueError with the end of a sentence that begins with the column's name and never shows the value: it may be personal.
"""

import re
from datetime import date, timedelta
from decimal import Context, Decimal
from typing import Final

from processors.tables import Column, Kind

EPOCH: Final = date(1970, 1, 1)
FIRST_DAY: Final = (date.min - EPOCH).days
LAST_DAY: Final = (date.max - EPOCH).days
TEXT_BYTES: Final = 65_535
"""MySQL's limit of a TEXT column."""

_RANGES: Final = {Kind.BIGINT: (-(2**63), 2**63 - 1), Kind.INT: (-(2**31), 2**31 - 1)}
_DECIMAL_SCALE: Final = 10
_DECIMAL_BOUND: Final = 10**20
_MAX_DIGITS: Final = 400
# Wide enough for every text that _decimal admits: the default context would round at 28 digits.
_EXACT: Final = Context(prec=3 * _MAX_DIGITS)
_NUMBER: Final = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]{1,6})?", re.ASCII)
_WHOLE: Final = re.compile(r"-?[0-9]+", re.ASCII)
_ISO_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)


class Number(str):
    """A JSON number as it is written in the record."""

    __slots__ = ()


def describe(value: object) -> str:
    """What kind of JSON value it is."""
    if isinstance(value, Number):
        return "a number"
    return {dict: "an object", list: "an array", bool: "a boolean", str: "a text"}.get(type(value), "null")


def cast(value: object, column: Column) -> object:
    """The value as the column's Python type: int, str, Decimal or date."""
    if column.kind is Kind.TEXT:
        return cast_text(value, size=column.size)
    if column.kind is Kind.DECIMAL:
        return cast_decimal(value)
    if column.kind is Kind.DATE:
        return cast_date(value)
    return cast_integer(value, kind=column.kind)


def cast_integer(value: object, *, kind: Kind = Kind.BIGINT) -> int:
    """An integer from a number or text that denotes exactly one in the range of `kind`: 7, "7", 7.0."""
    number = _decimal(value)
    if number != number.to_integral_value():
        raise ValueError("is not a whole number")
    low, high = _RANGES[kind]
    if not low <= number <= high:
        raise ValueError(f"is outside the range of {kind.upper()}")
    return int(number)


def cast_decimal(value: object) -> Decimal:
    """DECIMAL(20,10) from text or number; digits beyond the tenth decimal must be zero."""
    scaled = _decimal(value).scaleb(_DECIMAL_SCALE, context=_EXACT)
    if abs(scaled) >= _DECIMAL_BOUND:
        raise ValueError("has more than 10 digits before the point")
    if scaled != scaled.to_integral_value():
        raise ValueError("has more than 10 significant decimals")
    return Decimal(int(scaled)).scaleb(-_DECIMAL_SCALE, context=_EXACT)


def cast_date(value: object) -> date:
    """A day from days since 1970 (number or text) or from `YYYY-MM-DD`; years 1 to 9999."""
    if isinstance(value, str) and _ISO_DATE.fullmatch(value):
        try:
            return date.fromisoformat(value)
        except ValueError:
            raise ValueError("is not a day of the calendar") from None
    days = cast_integer(value)
    if not FIRST_DAY <= days <= LAST_DAY:
        raise ValueError("is outside 0001-01-01 to 9999-12-31")
    return EPOCH + timedelta(days=days)


def cast_text(value: object, *, size: int | None) -> str:
    """A text of at most `size` characters (None: 65,535 bytes); a whole number becomes its digits."""
    if not isinstance(value, str):
        raise ValueError(f"is {describe(value)}, where a text is due")
    if isinstance(value, Number):
        if not _WHOLE.fullmatch(value):
            raise ValueError("is a number that is not whole, where a text is due")
        value = "0" if value == "-0" else str(value)
    try:
        size_bytes = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError("holds half a surrogate pair, which is no character") from None
    if size is not None and len(value) > size:
        raise ValueError(f"is longer than {size} characters")
    if size is None and size_bytes > TEXT_BYTES:
        raise ValueError(f"is longer than {TEXT_BYTES} bytes")
    return value


def _decimal(value: object) -> Decimal:
    if not isinstance(value, str):
        raise ValueError(f"is {describe(value)}, where a number is due")
    if len(value) > _MAX_DIGITS or not _NUMBER.fullmatch(value):
        raise ValueError("is not a plain number")
    number = Decimal(value)
    if number and abs(number.adjusted()) >= _MAX_DIGITS:
        raise ValueError("is beyond every range")
    return number
