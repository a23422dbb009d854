"""Dead letters: those of producers of ours (the topic PREFIX.dead_letters), and the policy to stop at some."""

import base64
import json
from collections.abc import Sequence, Set
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from processors.decode_raw import dead_letter
from processors.errors import DeadLetterStopError
from processors.reasons import Reason
from processors.records import DEAD_SCHEMA, RawBatch

UNREADABLE = Reason.UNREADABLE
_NAMED = ["topic", "partition", "row_offset", "reason"]
_WHERE = ("file", "line", "topic", "partition", "offset", "table", "run")
Place = tuple[str, int, int]
"""Topic, partition, offset."""


def dead_from_producer(batches: Sequence[RawBatch]) -> pa.Table:
    """One row of DEAD_SCHEMA per record, whatever it holds; place and time are those of the record in the topic.

    A record of ours is JSON `{"origin", "file", "line", "table", "raw", "reason", "detail", "run", "ts_ms"}`, with
    `topic`, `partition`, `offset` in place of file and line if it was refused in Kafka: its raw text becomes the row's
    value (raw JSON that is not a text: its JSON; `raw_base64` in its place: those bytes), where it stood goes into the
    detail. Anything else is kept whole as `unreadable_dead_letter`.
    """
    rows = [_row(batch, place) for batch in batches for place in range(len(batch))]
    return pa.Table.from_pylist(rows, schema=DEAD_SCHEMA)


def refused_for(reasons: Set[str], dead: Sequence[pa.Table]) -> pa.Table:
    """Of records of DEAD_SCHEMA those that were refused for one of the reasons: places and reasons, in their order."""
    letters = pa.concat_tables([d.select(_NAMED) for d in dead])
    return letters.filter(pc.is_in(letters["reason"], pa.array(sorted(reasons), pa.string())))


def stop_at(letters: pa.Table, *, dealt_with: Set[Place]) -> None:
    """Raises DeadLetterStopError that names the first of the letters whose place is not among `dealt_with`."""
    for topic, partition, offset, reason in zip(*(letters[name].to_pylist() for name in _NAMED), strict=True):
        if (topic, partition, offset) not in dealt_with:
            place = f"{topic} {partition} {offset}"
            raise DeadLetterStopError(
                f"{topic}-{partition} offset {offset}: refused for {reason}, at which TRS_DEAD_LETTER_STOP stops",
                hint=f"`trs dead-letters show {place}`; every start stops there until the cause is mended,"
                f" or `trs dead-letters discard {place} --note WHY` lets the worker pass this record,"
                f" or {reason} is taken out of the setting",
            )


def _row(batch: RawBatch, place: int) -> dict[str, Any]:
    try:
        letter = json.loads(batch.values[place].as_py() or b"")
        reason, detail = letter["reason"], letter["detail"]
        if not isinstance(reason, str) or not isinstance(detail, str):
            raise TypeError("reason and detail are texts")
        where = ", ".join(f"{k} {letter[k]}" for k in _WHERE if letter.get(k) is not None)
        detail = f"{detail} ({where})" if where else detail
        # Half a surrogate pair is JSON but no text: encoding finds it here, where the record can still be kept whole.
        for text in (reason, detail):
            text.encode()
        value = _raw(letter)
    except (ValueError, TypeError, KeyError, RecursionError):
        return dead_letter(batch, place, UNREADABLE, "not a dead letter of our producers")
    return dead_letter(batch, place, reason, detail) | {"record_value": value}


def _raw(letter: dict[str, Any]) -> bytes:
    """What the letter is about. Raises KeyError, TypeError or ValueError where it does not say it."""
    if "raw" in letter:
        raw = letter["raw"]
        return (raw if isinstance(raw, str) else json.dumps(raw)).encode()
    return base64.b64decode(letter["raw_base64"], validate=True)
