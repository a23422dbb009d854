"""Dead letters: those of producers of ours (the topic PREFIX.dead_letters), and the policy to stop at some."""

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
Place = tuple[str, int, int]
"""Topic, partition, offset."""


def dead_from_producer(batches: Sequence[RawBatch]) -> pa.Table:
    """One row of DEAD_SCHEMA per record, whatever it holds; place and time are those of the record in the topic.

    A record of ours is JSON `{"origin", "file", "line", "table", "raw", "reason", "detail", "run", "ts_ms"}`: its raw
    text becomes the row's value (raw JSON that is not a text: its JSON), file and line go into the detail. Anything
    else is kept whole as `unreadable_dead_letter`.
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
        reason, detail, raw = letter["reason"], letter["detail"], letter["raw"]
        if not isinstance(reason, str) or not isinstance(detail, str):
            raise TypeError("reason and detail are texts")
        where = ", ".join(f"{k} {letter[k]}" for k in ("file", "line", "table", "run") if letter.get(k) is not None)
        detail = f"{detail} ({where})" if where else detail
        value = raw if isinstance(raw, str) else json.dumps(raw)
        # Half a surrogate pair is JSON but no text: encoding finds it here, where the record can still be kept whole.
        for text in (reason, detail, value):
            text.encode()
    except (ValueError, TypeError, KeyError, RecursionError):
        return dead_letter(batch, place, UNREADABLE, "not a dead letter of our producers")
    return dead_letter(batch, place, reason, detail) | {"record_value": value.encode()}
