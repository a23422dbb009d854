"""Rejected rows as messages of the topic PREFIX.dead_letters (read by processors/dead_letters.py)."""

import json
from collections.abc import Sequence

from connectors.source_rows import Reject


def dead_letter_values(rejects: Sequence[Reject], *, origin: str, run: int, ts_ms: int) -> list[bytes]:
    """One JSON document per reject; `origin` is 'csv' or 'mysql'."""
    return [
        json.dumps(
            {
                "origin": origin,
                "file": reject.file,
                "line": reject.line,
                "table": reject.table,
                "raw": reject.raw,
                "reason": reject.reason,
                "detail": reject.detail,
                "run": run,
                "ts_ms": ts_ms,
            },
            ensure_ascii=False,
        ).encode()
        for reject in rejects
    ]
