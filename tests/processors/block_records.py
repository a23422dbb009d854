"""Records of stage A's topics read back as rows, for tests that look at what was sent."""

from collections.abc import Sequence
from typing import Any

from processors.block_codec import BlockDecoder, BlockKind
from processors.records import RawBatch


def rows_sent(kind: BlockKind, values: Sequence[bytes], *, generation: str) -> list[dict[str, Any]]:
    """The rows of these records, all of which must be of the generation and sound."""
    batch = RawBatch.of("t", 0, [(b"{}", value) for value in values])
    rows, ignored, dead = BlockDecoder(kind, generation=generation).decode([batch])
    assert (dict(ignored), dead.num_rows) == ({}, 0)
    return rows.to_pylist()
