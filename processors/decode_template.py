"""Templates: the records of a producer are alike to the byte, but for the row and some numbers.

    {"before":null,"after": ROW ,"source":{… "pos": HOLE ,"row":0},"op":"r","ts_ms": HOLE }

A template is taken from a few records of a slice, which name the numbers that differ. Its statement
(`decode_sql.template_sql`) extracts these and the row alone, half of the work, and proves each record to the byte. What
it does not take is decoded as if there were no template.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from processors.decode_record import file_number
from processors.decode_sql import HEAD, NUMBER_BOUNDS
from processors.tables import Kind, Table

_SAMPLES = 8
"""Records that a template is taken from, spread over the slice."""
_REST: Final = re.compile(r',"source":\{[^{}\\]*\}(,"\w+":(null|-?\d+|"[^"{}\\]*"))*\}', re.ASCII)
"""What follows the row, where it holds neither an escape nor anything nested but the source."""
_NUMBER: Final = re.compile(r'"(\w+)":(\d+)(?=[,}])', re.ASCII)
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Template:
    """`layout`: names of the row's columns in order. `holes`: the numbers that differ, `source.NAME` or `NAME`.

    `escaped`: whether texts of the row have escapes. `parameters`: those of `template_sql`.
    """

    layout: tuple[str, ...]
    holes: tuple[str, ...]
    escaped: bool
    parameters: tuple[str | int, ...]


def template_of(table: Table, values: pa.BinaryViewArray, epochs: Mapping[str, int]) -> Template | None:
    """The template of which these records seem to be, None where they are not alike or not rows that were read or made.

    `epochs`: source epoch by source name.
    """
    if any(column.kind is Kind.DECIMAL for column in table.columns):
        return None
    places = sorted({place * (len(values) - 1) // (_SAMPLES - 1) for place in range(_SAMPLES)})
    parted = [_parted(values[place].as_py()) for place in places]
    samples = [sample for sample in parted if sample is not None]
    if len(samples) < len(places):
        return None
    layout, rest = samples[0].layout, samples[0].rest
    declared = {column.name for name in layout if (column := table.column(name)) is not None}
    alike = {_NUMBER.sub(r'"\1":', sample.rest) for sample in samples}
    if len(declared) < len(layout) or len(alike) > 1 or not _REST.fullmatch(rest):
        return None
    numbers = [_NUMBER.findall(sample.rest) for sample in samples]
    within = len(_NUMBER.findall(rest[: rest.index("}") + 1]))
    names = [f"source.{name}" if place < within else str(name) for place, (name, _) in enumerate(numbers[0])]
    differ = [len({found[place][1] for found in numbers}) > 1 for place in range(len(names))]
    constants = _constants(table, rest, epochs)
    if constants is None or len(set(names)) < len(names):
        return None
    pieces, at = [], 0
    for found, is_hole in zip(_NUMBER.finditer(rest), differ, strict=True):
        if is_hole:
            pieces.append(rest[at : found.start(2)])
            at = found.end(2)
    holes = tuple(name for name, is_hole in zip(names, differ, strict=True) if is_hole)
    epoch, file, counted = constants
    kept = (number for name, number in counted.items() if f"source.{name}" not in holes)
    escaped = any(sample.escaped for sample in samples)
    return Template(layout, holes, escaped, (*pieces, rest[at:], epoch, file, *kept))


@dataclass(frozen=True)
class _Sample:
    """One record: the names of its row, whether there is an escape in it, and the text behind it."""

    layout: tuple[str, ...]
    escaped: bool
    rest: str


def _parted(value: bytes | None) -> _Sample | None:
    try:
        text = "" if value is None else value.decode()
        if not text.startswith(HEAD + "{"):
            return None
        row, end = _DECODER.raw_decode(text, len(HEAD))
    except (ValueError, RecursionError):
        return None
    return _Sample(tuple(row), "\\" in text[len(HEAD) : end], text[end:])


def _constants(table: Table, rest: str, epochs: Mapping[str, int]) -> tuple[int, int, dict[str, int]] | None:
    """Source epoch, number of the file, and the source's numbers that count; None where any cannot be."""
    try:
        envelope = json.loads("{" + rest[1:], object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None
    source = envelope["source"]
    name, file, row = source.get("name"), file_number(source.get("file")), source.get("row")
    if not isinstance(name, str) or name not in epochs or file is None:
        return None
    if envelope.get("op") not in ("c", "r") or source.get("table") != table.name:
        return None
    numbers = {number: source.get(number) for number in NUMBER_BOUNDS} | ({"row": 0} if row is None else {})
    for number, (low, bound) in NUMBER_BOUNDS.items():
        if type(numbers[number]) is not int or not low <= numbers[number] < bound:  # True is an int, too
            return None
    return epochs[name], file, numbers


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice")
    return found
