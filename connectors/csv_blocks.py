"""Reads one CSV file (RFC 4180, UTF-8) in blocks of text cells, each row with its physical line number.

Blocks without a quote, which is what large extracts consist of, are split by Arrow; the others by the `csv` module,
which keeps records that span lines. A record that cannot be parsed costs its first line only: reading goes on with the
next one, so that a lost quote does not swallow the rows below it.
"""

import csv
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from processors.errors import SourceError
from processors.reasons import Reason

BLOCK_BYTES = 4 * 1024 * 1024
MAX_CELL_CHARS = 131_072
"""More than any declared column takes, so that a lost quote is noticed early."""


@dataclass(frozen=True)
class BadLine:
    """A line at which no record could be parsed. `reason` is `malformed` or `encoding`."""

    line: int
    raw: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Block:
    """Consecutive records: `cells` has a text column per header field (c0, c1, …), `lines` where each record starts."""

    cells: pa.Table
    lines: list[int]
    text: bytes
    first_line: int
    bad: list[BadLine]

    @cached_property
    def _text_lines(self) -> list[bytes]:
        return self.text.split(b"\n")

    @cached_property
    def _record_lines(self) -> list[int]:
        return sorted((*self.lines, *(b.line for b in self.bad)))

    def raw(self, line: int) -> str:
        """The text of the record that starts at a line."""
        later = bisect_right(self._record_lines, line)
        end = self._record_lines[later] - self.first_line if later < len(self._record_lines) else None
        record = b"\n".join(self._text_lines[line - self.first_line : end])
        return record.rstrip(b"\r\n").decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class Header:
    """The fields of the first record, without white space around them, and how many physical lines it takes."""

    fields: list[str]
    lines: int


def read_header(path: Path) -> Header:
    """The first record of a file; a byte order mark is dropped. An empty file has no fields. Raises SourceError."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="\n") as file:
        reader = csv.reader(file)
        try:
            return Header([name.strip() for name in next(reader, [])], reader.line_num)
        except csv.Error as error:
            raise SourceError(f"{path}: line 1 is not readable as CSV: {error}", hint="is it a CSV file?") from None


def read_blocks(path: Path, header: Header, *, block_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
    """All records after the header, in file order."""
    width = len(header.fields)
    with path.open("rb") as file:
        for _ in range(header.lines):
            file.readline()
        line, rest = header.lines + 1, b""
        while True:
            read = file.read(block_bytes)
            text = rest + read
            cut = text.rfind(b"\n") + 1 if read else len(text)
            text, rest = text[:cut], text[cut:]
            if text:
                block, unread = _split_plain(text, line, width), b""
                if block is None:
                    block, unread = _parse(text, line, width, final=not read)
                line += text.count(b"\n") - unread.count(b"\n")
                rest = unread + rest
                if block.lines or block.bad:
                    yield block
            if not read:
                return


def _split_plain(text: bytes, first_line: int, width: int) -> Block | None:
    """A block in which each line is a record; None when it is not that simple."""
    if b'"' in text or text.count(b"\r") != text.count(b"\r\n"):
        return None
    names = [f"c{i}" for i in range(width)]
    try:
        cells = pyarrow.csv.read_csv(
            pa.BufferReader(text),
            read_options=pyarrow.csv.ReadOptions(column_names=names, use_threads=False, block_size=len(text) + 1),
            parse_options=pyarrow.csv.ParseOptions(quote_char=False, ignore_empty_lines=False),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid:
        return None
    if cells.num_rows != text.count(b"\n") + (not text.endswith(b"\n")):
        return None
    return Block(cells, list(range(first_line, first_line + cells.num_rows)), text, first_line, [])


def _parse(text: bytes, first_line: int, width: int, *, final: bool) -> tuple[Block, bytes]:
    """The block's records, and the bytes of a last record that goes on in the next block."""
    lines = _lines(text)
    rows: list[list[str]] = []
    starts: list[int] = []
    bad: list[BadLine] = []
    index, end = 0, len(lines)
    csv.field_size_limit(MAX_CELL_CHARS)
    while index < end:
        reader = csv.reader(map(lines.__getitem__, range(index, end)), strict=True)
        base = index
        try:
            for fields in reader:
                start, index = index, base + reader.line_num
                problem = _problem(fields, width)
                if problem is None:
                    rows.append(fields)
                    starts.append(first_line + start)
                elif fields:
                    # one line only: what a lost quote pulled in is read again
                    bad.append(BadLine(first_line + start, _raw(lines[start]), *problem))
                    if index > start + 1:
                        index = start + 1
                        break
        except csv.Error as error:
            if not final and base + reader.line_num >= end and "unexpected end" in str(error):
                unread = "".join(lines[index:]).encode("utf-8", "surrogateescape")
                return _block(rows, starts, width, text, first_line, bad), unread
            bad.append(
                BadLine(first_line + index, _raw(lines[index]), Reason.MALFORMED, f"not readable as CSV: {error}")
            )
            index += 1
    return _block(rows, starts, width, text, first_line, bad), b""


def _lines(text: bytes) -> list[str]:
    """Lines with their ends; only a line feed ends one."""
    lines = [line + "\n" for line in text.decode("utf-8", "surrogateescape").split("\n")]
    last = lines.pop()[:-1]
    return [*lines, last] if last else lines


def _problem(fields: list[str], width: int) -> tuple[str, str] | None:
    if len(fields) != width:
        return Reason.MALFORMED, f"{len(fields)} fields instead of {width}"
    if any("\ud800" <= char <= "\udfff" for field in fields if not field.isascii() for char in field):
        return Reason.ENCODING, "not UTF-8"
    return None


def _raw(line: str) -> str:
    return line.rstrip("\r\n").encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _block(
    rows: Sequence[list[str]], starts: list[int], width: int, text: bytes, first_line: int, bad: list[BadLine]
) -> Block:
    columns = list(zip(*rows, strict=True)) or [()] * width
    cells = pa.table({f"c{i}": pa.array(column, pa.string()) for i, column in enumerate(columns)})
    return Block(cells, starts, text, first_line, bad)
