"""The policy to stop at some reasons: the letter is kept, the log stays before it, every start stops there again."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from connectors.delta_lake import DeltaLake
from connectors.lake import LakeLocation
from connectors.results import append_results
from processors.dead_letters import refused_for, stop_at
from processors.decode import Decoder
from processors.errors import DeadLetterStopError
from processors.inbox import Chunk
from processors.lake_tables import DEAD_LETTER_ACTIONS
from processors.reasons import Reason, parse_reasons
from processors.records import RawBatch
from processors.stage import StageContext
from processors.stages import SkuStage
from processors.state import open_state
from tests.processors.decode_records import GOOD_ROWS, SKUS, SOURCE_NAMES, encode, envelope

TOPICS = ("test.skus", "test.dead_letters")
STOP = frozenset({"not_json"})


def good(item: str) -> bytes:
    return encode(envelope(SKUS, after=GOOD_ROWS["skus"] | {"item_id": item}))


RECORDS = [good("a"), b"bad", good("b"), encode(envelope(SKUS, op="x")), good("c")]


@pytest.fixture
def lake(tmp_path: Path) -> DeltaLake:
    return DeltaLake(LakeLocation(str(tmp_path / "lake")))


def open_stage(
    lake: DeltaLake, spill: Path, stop: frozenset[str] = frozenset(), topic_id: str = "first"
) -> tuple[SkuStage, int]:
    """A stage that has just started, and the offset that it reads next."""
    con = open_state(spill=spill, memory_mb=200, threads=1)
    lake.prepare(con)
    context = StageContext(lake=lake, topic_ids=dict.fromkeys(TOPICS, topic_id), writer="test", dead_letter_stop=stop)
    stage = SkuStage(context, con, TOPICS)
    stored = stage.assign(frozenset({0}))[TOPICS[0], 0]
    return stage, 0 if stored is None else stored.next_offset


def chunk(values: Sequence[bytes], start: int) -> Chunk:
    batch = RawBatch.of(TOPICS[0], 0, [(b"k", v) for v in values], start_offset=start)
    decoder = Decoder(source_names=SOURCE_NAMES)
    decoded = decoder.decode(SKUS, [batch])
    decoder.close()
    return Chunk(TOPICS[0], decoded.events, len(batch), {0: batch.next_offset}, dead=decoded.dead)


def act(lake: DeltaLake, action: str, place: tuple[int, int], *, at: datetime) -> None:
    """What `trs dead-letters` records about the letter at (partition, offset)."""
    partition, offset = place
    row = {"topic": TOPICS[0], "partition": partition, "row_offset": offset, "action": action, "who": "test"}
    row |= {"known_from": at, "known_date": at.date()}
    append_results(lake.store, DEAD_LETTER_ACTIONS, pa.Table.from_pylist([row], schema=DEAD_LETTER_ACTIONS.schema))


def letters(lake: DeltaLake) -> list[tuple[int, str]]:
    with duckdb.connect() as con:
        lake.prepare(con)
        query = f"SELECT row_offset, reason FROM {lake.relation('dead_letters')} ORDER BY 1"
        found: list[tuple[int, str]] = con.sql(query).fetchall()
        return found


def test_stage_keeps_the_letter_stops_before_it_and_stops_there_again(lake: DeltaLake, tmp_path: Path) -> None:
    for _ in range(2):
        stage, offset = open_stage(lake, tmp_path, STOP)
        assert offset == 0
        with pytest.raises(DeadLetterStopError, match=r"test\.skus-0 offset 1: refused for not_json") as stopped:
            stage.run_epoch([chunk(RECORDS, 0)])
        assert stopped.value.exit_code == 11
        assert letters(lake) == [(1, "not_json"), (3, "unknown_op")]

    stage, offset = open_stage(lake, tmp_path)
    assert stage.run_epoch([chunk(RECORDS, offset)]).log_rows == 3
    assert letters(lake) == [(1, "not_json"), (3, "unknown_op")]
    assert open_stage(lake, tmp_path)[1] == len(RECORDS)


def test_stage_goes_on_at_reasons_that_the_policy_does_not_name(lake: DeltaLake, tmp_path: Path) -> None:
    stage, offset = open_stage(lake, tmp_path, frozenset({"null_key"}))
    assert stage.run_epoch([chunk(RECORDS, offset)]).dead.total() == 2


def test_stage_with_smaller_epochs_after_the_stop_writes_no_letter_twice(lake: DeltaLake, tmp_path: Path) -> None:
    stage, _ = open_stage(lake, tmp_path, STOP)
    with pytest.raises(DeadLetterStopError):
        stage.run_epoch([chunk(RECORDS, 0)])
    stage, _ = open_stage(lake, tmp_path)
    for start in range(len(RECORDS)):
        stage.run_epoch([chunk(RECORDS[start : start + 1], start)])
    assert letters(lake) == [(1, "not_json"), (3, "unknown_op")]


def test_stop_names_the_first_letter_of_a_named_reason_only() -> None:
    dead: list[dict[str, Any]] = [
        {"topic": "t", "partition": 2, "row_offset": 7, "reason": "bad_value"},
        {"topic": "t", "partition": 2, "row_offset": 9, "reason": "null_key"},
    ]
    table = pa.Table.from_pylist(dead)
    assert refused_for(set(), [table]).num_rows == 0
    assert refused_for({Reason.NOT_JSON}, [table]).num_rows == 0
    refused = refused_for({Reason.NULL_KEY}, [table.slice(0, 1), table])
    with pytest.raises(DeadLetterStopError, match="t-2 offset 9") as stopped:
        stop_at(refused, dealt_with={("t", 2, 7), ("t", 1, 9)})
    assert "`trs dead-letters discard t 2 9 --note WHY` lets the worker pass" in str(stopped.value)
    stop_at(refused, dealt_with={("t", 2, 9)})


@pytest.mark.parametrize("action", ["discarded", "replayed"])
def test_stage_passes_the_record_whose_letter_was_dealt_with_and_stops_at_the_next(
    lake: DeltaLake, tmp_path: Path, action: str
) -> None:
    records = [*RECORDS, b"bad too", good("d")]

    def stops_at(offset: int) -> None:
        stage, start = open_stage(lake, tmp_path, STOP)
        with pytest.raises(DeadLetterStopError, match=rf"test\.skus-0 offset {offset}: "):
            stage.run_epoch([chunk(records, start)])

    stops_at(1)
    act(lake, action, (0, 1), at=datetime.now(UTC) - timedelta(days=1))  # of a letter that stood there before
    act(lake, action, (0, 3), at=datetime.now(UTC))
    act(lake, action, (1, 1), at=datetime.now(UTC))
    stops_at(1)
    act(lake, action, (0, 1), at=datetime.now(UTC))
    stops_at(5)
    act(lake, action, (0, 5), at=datetime.now(UTC))
    stage, start = open_stage(lake, tmp_path, STOP)
    assert (start, stage.run_epoch([chunk(records, start)]).log_rows) == (0, 4)
    assert letters(lake) == [(1, "not_json"), (3, "unknown_op"), (5, "not_json")]
    assert open_stage(lake, tmp_path, STOP)[1] == len(records)


def test_stage_stops_at_a_record_of_a_topic_made_anew_though_its_place_was_dealt_with(
    lake: DeltaLake, tmp_path: Path
) -> None:
    stage, start = open_stage(lake, tmp_path, STOP)
    with pytest.raises(DeadLetterStopError):
        stage.run_epoch([chunk(RECORDS, start)])
    act(lake, "discarded", (0, 1), at=datetime.now(UTC))
    stage, start = open_stage(lake, tmp_path, STOP)
    stage.run_epoch([chunk(RECORDS, start)])
    stage, _ = open_stage(lake, tmp_path, STOP, topic_id="made anew")
    with pytest.raises(DeadLetterStopError, match="offset 1: "):
        stage.run_epoch([chunk(RECORDS, 0)])


def test_reasons_of_the_setting_are_declared_ones() -> None:
    assert parse_reasons(" not_json, null_key,,not_json") == (Reason.NOT_JSON, Reason.NULL_KEY)
    assert parse_reasons("") == ()
    with pytest.raises(ValueError, match=r"nul_key: no reason of a dead letter; there are .*null_key"):
        parse_reasons("nul_key")
