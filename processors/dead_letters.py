"""Records that producers of ours rejected, as dead letters: the topic PREFIX.dead_letters."""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from processors.decode_raw import dead_letter
from processors.records import DEAD_SCHEMA, RawBatch

UNREADABLE = "unreadable_dead_letter"


def dead_from_producer(batches: Sequence[RawBatch]) -> pa.Table:
    """One row of DEAD_SCHEMA per record, whatever it holds; place and time are those of the record in the topic.

    A record of ours is JSON `{"origin", "file", "line", "table", "raw", "reason", "detail", "run", "ts_ms"}`: its raw
    text becomes the row's value (raw JSON that is not a text: its JSON), file and line go into the detail. Anything
    else is kept whole as `unreadable_dead_letter`.
    """
    rows = [_row(batch, place) for batch in batches for place in range(len(batch))]
    return pa.Table.from_pylist(rows, schema=DEAD_SCHEMA)


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
