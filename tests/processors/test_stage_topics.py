"""Which stage reads which topic: said once, for the engine, for rewinding, and for who waits for the lake."""

from processors.lake_tables import STAGE_LOGS
from processors.tables import STAGE_TOPICS, TOPICS


def test_every_topic_is_read_by_exactly_one_stage_that_there_is() -> None:
    read = [topic for stage in STAGE_LOGS for topic in STAGE_TOPICS[stage]]
    assert sorted(read) == sorted(TOPICS)
