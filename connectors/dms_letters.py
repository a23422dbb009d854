"""Refused records of AWS DMS as messages of the topic PREFIX.dead_letters (read by processors/dead_letters.py)."""

import base64
import json
from typing import Final

from connectors.kafka_group import Record
from processors.decode_record import BadRecordError

_MOST_BYTES: Final = 900_000
"""Brokers take records of a million bytes unless they are told otherwise."""
_SURE_BYTES: Final = 100_000
"""So many fit however they are written in JSON."""


def dead_letter_value(record: Record, error: BadRecordError, *, ts_ms: int) -> bytes:
    """One JSON document: the record's value, where it stood, and why it was refused.

    Bytes that are no UTF-8 go in base64. Of a record that is too large for the topic only the beginning goes.
    """
    raw = record.value or b""
    letter = _letter(record, raw, error.reason, error.detail, ts_ms)
    if len(letter) > _MOST_BYTES:
        detail = f"{error.detail}; of {len(raw)} bytes only the first {_SURE_BYTES} are kept"
        letter = _letter(record, raw[:_SURE_BYTES], error.reason, detail, ts_ms)
    return letter


def _letter(record: Record, raw: bytes, reason: str, detail: str, ts_ms: int) -> bytes:
    fields: dict[str, object] = {
        "origin": "dms",
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
    }
    try:
        fields["raw"] = raw.decode()
    except UnicodeDecodeError:
        fields["raw_base64"] = base64.b64encode(raw).decode()
    fields |= {"reason": str(reason), "detail": detail, "ts_ms": ts_ms}
    return json.dumps(fields, ensure_ascii=False).encode()
