"""The records of Kafka's record batches (message format v2, KIP-98) as Arrow columns, without an object per record.

After its header a record batch holds `recordsCount` records, compressed as one block. A record is

    length varint | attributes int8 | timestampDelta varlong | offsetDelta varint
    | keyLength varint | key | valueLength varint | value | headersCount varint | headers

where a varint is ZigZag-encoded, seven bits per byte, the least first, and a length of -1 means null. Only the walk
from record to record is a loop; all fields are then read for all records at once. Headers are not read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from aiokafka.codec import gzip_decode, lz4_decode, snappy_decode, zstd_decode
from aiokafka.errors import CorruptRecordException

HEADER_BYTES = 61
_DECOMPRESS: dict[int, Callable[[bytes], bytes]] = {
    0: lambda block: block,
    1: gzip_decode,
    2: snappy_decode,
    3: lz4_decode,
    4: zstd_decode,
}
_COMPRESSION_BITS = 0x07
_LONGEST_VARINT = 10
_BYTES_BEHIND = 64
"""Zeros behind the data, so that the fields of a record that is cut off are read as something, and then refused."""

_MOST_BYTES = 2**31 - 1 - _BYTES_BEHIND
"""An Arrow view names a place by 31 bits. No fetch comes near; what unpacks to more is no data of ours."""
_INLINE_BYTES = 12
"""A value up to this length stands in its view itself (Arrow columnar format, "Variable-size Binary View Layout")."""
_VIEW = np.dtype([("size", "<i4"), ("prefix", "<u4"), ("buffer", "<i4"), ("place", "<i4")])

_Numbers = npt.NDArray[np.int64]
_Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class RecordBlock:
    """What follows the header of one record batch, with the parts of the header that give its records their places.

    Its offsets are in [`base_offset`, `next_offset`).
    `log_append_ms`: the time of all records when the broker stamped them; None: each has its own, from `first_ms` on.
    """

    payload: bytes
    attributes: int
    count: int
    base_offset: int
    next_offset: int
    first_ms: int
    log_append_ms: int | None


@dataclass(frozen=True)
class RecordColumns:
    """Records in order: offsets and timestamps BIGINT, keys LARGE_BINARY, values BINARY_VIEW, null as in Kafka.

    Values are views of what was unpacked: they are not copied. `sizes`: bytes that
    each takes, its headers and the copy of its key among them.
    """

    offsets: pa.Int64Array
    timestamps_ms: pa.Int64Array
    keys: pa.LargeBinaryArray
    values: pa.BinaryViewArray
    sizes: _Numbers

    def slice(self, first: int, count: int) -> "RecordColumns":
        """Some of the records, without a copy."""
        rows = slice(first, first + count)
        offsets, timestamps_ms, keys = self.offsets[rows], self.timestamps_ms[rows], self.keys[rows]
        return RecordColumns(offsets, timestamps_ms, keys, self.values[rows], self.sizes[rows])


def read_blocks(blocks: Sequence[RecordBlock]) -> RecordColumns:
    """The records of all blocks, be they of one partition or of several.

    Raises CorruptRecordException when a block is not exactly its records, with rising offsets within its range.
    """
    payloads: list[bytes] = []
    starts: list[int] = []
    size = 0
    for block in blocks:
        try:
            payload = _DECOMPRESS[block.attributes & _COMPRESSION_BITS](block.payload)
        except KeyError:
            raise CorruptRecordException(f"unknown compression in the batch at {block.base_offset}") from None
        if len(_walk(payload, size, block.count, starts)) != block.count:
            raise CorruptRecordException(f"the batch at {block.base_offset} is not {block.count} whole records")
        payloads.append(payload)
        size += len(payload)
    if not starts:
        nothing = pa.array([], pa.int64())
        none = np.zeros(0, np.int64)
        return RecordColumns(nothing, nothing, pa.array([], pa.large_binary()), pa.array([], pa.binary_view()), none)
    if size > _MOST_BYTES:
        raise CorruptRecordException(f"the batches from {blocks[0].base_offset} on unpack to {size:,} bytes")
    return _read(blocks, _joined(payloads, size), size, np.asarray(starts, np.int64))


def _joined(payloads: Sequence[bytes], size: int) -> _Bytes:
    """The payloads, one behind the other, and zeros."""
    joined = np.empty(size + _BYTES_BEHIND, np.uint8)
    at = 0
    for payload in payloads:
        joined[at : at + len(payload)] = np.frombuffer(payload, np.uint8)
        at += len(payload)
    joined[at:] = 0
    return joined


def _walk(payload: bytes, base: int, count: int, starts: list[int]) -> range:
    """Adds to `starts` where each record begins, `base` being the payload's own place; returns those found."""
    found, at, end = 0, 0, len(payload)
    append = starts.append
    while at < end and found < count:
        append(base + at)
        byte = payload[at]
        if byte < 0x80:
            at += 1 + (byte >> 1)
        else:
            length, shift = byte & 0x7F, 7
            place = at + 1
            while place < end and (byte := payload[place]) >= 0x80:
                length |= (byte & 0x7F) << shift
                shift += 7
                place += 1
            at = place + 1 + ((length | byte << shift) >> 1)
        found += 1
    return range(found if at == end else 0)


def _read(blocks: Sequence[RecordBlock], data: _Bytes, size: int, starts: _Numbers) -> RecordColumns:
    counts = [block.count for block in blocks]
    ends = np.append(starts[1:], size)
    _, at = _varints(data, starts)
    deltas_ms, at = _varints(data, at + 1)  # the attributes of a record have no meaning
    offset_deltas, at = _varints(data, at)
    key_sizes, key_starts, key_ends = _field(data, at, ends)
    value_sizes, value_starts, _ = _field(data, key_ends, ends)
    offsets = np.repeat([b.base_offset for b in blocks], counts) + offset_deltas
    beyond = offsets >= np.repeat([b.next_offset for b in blocks], counts)
    rises = np.diff(offsets) > 0
    rises[np.cumsum(counts)[:-1] - 1] = True  # from block to block it may be another partition
    if (offset_deltas < 0).any() or beyond.any() or not rises.all():
        raise CorruptRecordException(f"offsets out of order in the batches from {blocks[0].base_offset} on")
    timestamps = np.repeat([b.first_ms for b in blocks], counts) + deltas_ms
    for block, last in zip(blocks, np.cumsum(counts), strict=True):
        if block.log_append_ms is not None:
            timestamps[last - block.count : last] = block.log_append_ms
    return RecordColumns(
        offsets=pa.array(offsets),
        timestamps_ms=pa.array(timestamps),
        keys=_views(data, key_starts, key_sizes).cast(pa.large_binary()),
        values=_views(data, value_starts, value_sizes),
        sizes=ends - starts + np.maximum(key_sizes, 0),
    )


def _varints(data: _Bytes, at: _Numbers) -> tuple[_Numbers, _Numbers]:
    """The signed varints at these places, and the places behind them."""
    byte = data[at].astype(np.int64)
    value = byte & 0x7F
    behind = at + 1
    going_on = np.flatnonzero(byte >= 0x80)
    shift = 7
    while going_on.size and shift < 7 * _LONGEST_VARINT:
        byte = data[behind[going_on]].astype(np.int64)
        value[going_on] |= (byte & 0x7F) << shift
        behind[going_on] += 1
        going_on = going_on[byte >= 0x80]
        shift += 7
    unsigned = value.view(np.uint64)
    return (unsigned >> np.uint64(1)).view(np.int64) ^ -(value & 1), behind


def _field(data: _Bytes, at: _Numbers, ends: _Numbers) -> tuple[_Numbers, _Numbers, _Numbers]:
    """Size (-1: null), first byte and end of the keys or values whose size stands at these places."""
    sizes, starts = _varints(data, at)
    if (sizes >= ends - starts).any() or (sizes < -1).any():
        raise CorruptRecordException("a key or a value reaches beyond its record")
    return sizes, starts, starts + np.maximum(sizes, 0)


def _views(data: _Bytes, starts: _Numbers, sizes: _Numbers) -> pa.BinaryViewArray:
    """The pieces of `data` that begin at `starts`, without a copy; a size below 0 means null."""
    views = np.zeros(len(starts), _VIEW)
    views["size"] = np.maximum(sizes, 0)
    views["place"] = starts
    for byte in range(4):
        views["prefix"] |= data[starts + byte].astype(np.uint32) << np.uint32(8 * byte)
    short = np.flatnonzero(sizes <= _INLINE_BYTES)
    if short.size:
        within = np.arange(_INLINE_BYTES)
        inline = np.where(within < sizes[short, None], data[starts[short, None] + within], 0).astype(np.uint8)
        views.view(np.uint8).reshape(-1, _VIEW.itemsize)[short, 4:] = inline
    validity = None
    if (sizes < 0).any():
        validity = pa.py_buffer(np.packbits(sizes >= 0, bitorder="little"))
    buffers = [validity, pa.py_buffer(views), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.binary_view(), len(starts), buffers)
