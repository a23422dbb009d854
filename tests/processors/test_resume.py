"""Where a partition is read on: every row of the truth table."""

import pytest

from processors.errors import OffsetGapError
from processors.ports import StoredPosition
from processors.resume import PartitionLog, start_offset, start_offset_accepting_gap


def held(start: int, end: int, topic_id: str = "id-1") -> PartitionLog:
    return PartitionLog("aurora.trs.skus", 3, start, end, topic_id)


@pytest.mark.parametrize(
    ("stored", "log", "offset"),
    [
        (None, held(0, 0), 0),
        (None, held(0, 50), 0),
        (StoredPosition(0, "id-1"), held(0, 50), 0),
        (StoredPosition(20, "id-1"), held(20, 50), 20),
        (StoredPosition(50, "id-1"), held(20, 50), 50),
    ],
)
def test_start_offset_nothing_missing_is_the_lakes_entry_or_the_beginning(
    stored: StoredPosition | None, log: PartitionLog, offset: int
) -> None:
    assert start_offset(stored, log) == offset
    assert start_offset_accepting_gap(stored, log) == offset


@pytest.mark.parametrize(
    ("stored", "log", "words"),
    [
        (None, held(1, 50), "offsets [0, 1) are gone"),
        (StoredPosition(19, "id-1"), held(20, 50), "offsets [19, 20) are gone"),
        (StoredPosition(51, "id-1"), held(20, 50), "the broker lost records"),
        (StoredPosition(30, "id-0"), held(20, 50), "made anew with id id-1"),
    ],
)
def test_start_offset_gap_stops_with_place_and_offsets_unless_accepted(
    stored: StoredPosition | None, log: PartitionLog, words: str
) -> None:
    with pytest.raises(OffsetGapError) as raised:
        start_offset(stored, log)
    assert words in str(raised.value)
    assert "aurora.trs.skus-3" in str(raised.value)
    assert "--accept-gap" in str(raised.value)
    assert start_offset_accepting_gap(stored, log) == log.start
