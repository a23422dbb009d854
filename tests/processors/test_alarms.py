"""Which refused records raise an alarm, and when it ends."""

import pyarrow as pa
import pytest

from processors.alarms import Alarm, StructureWatch
from processors.inbox import Chunk
from processors.records import DEAD_SCHEMA, event_schema
from processors.tables import ACCOUNTS, SKUS, Table


def refused(table: Table, *letters: tuple[str, str]) -> Chunk:
    rows = [{"topic": table.name, "reason": reason, "detail": detail} for reason, detail in letters]
    return Chunk(table.name, None, len(rows), {}, dead=pa.Table.from_pylist(rows, schema=DEAD_SCHEMA))


def good(table: Table, *, is_delete: bool) -> Chunk:
    rows = pa.Table.from_pylist([{"bucket": 0, "is_delete": is_delete}], schema=event_schema(table))
    return Chunk(table.name, rows, 1, {})


def told(alarms: list[Alarm]) -> list[tuple[str, str]]:
    return [(alarm.subject, alarm.message) for alarm in alarms]


LOST = ("missing_column", "company_name is missing")


def test_alarm_is_raised_once_and_counts_the_records_that_wait() -> None:
    watch = StructureWatch()
    one = ("accounts", "1 record waits in the dead letters: company_name is missing")
    three = ("accounts", "3 records wait in the dead letters: company_name is missing")
    assert told(watch.look([refused(ACCOUNTS, LOST)])) == [one]
    assert told(watch.look([refused(ACCOUNTS, LOST, LOST)])) == []
    assert told(watch.alarms) == [three]
    assert "trs dead-letters replay --reason missing_column" in str(watch.alarms[0])


@pytest.mark.parametrize("good_first", [True, False])
def test_alarm_stands_though_another_partition_has_good_rows_in_the_same_epoch(good_first: bool) -> None:
    watch = StructureWatch()
    chunks = [refused(ACCOUNTS, LOST), good(ACCOUNTS, is_delete=False)]
    assert len(watch.look(reversed(chunks) if good_first else chunks)) == 1
    assert len(watch.alarms) == 1


def test_each_column_and_topic_has_an_alarm_of_its_own() -> None:
    watch = StructureWatch()
    other = ("missing_column", "joining_date is missing")
    raised = watch.look([refused(ACCOUNTS, LOST, other), refused(SKUS, ("unknown_table", "source.table is not skus"))])
    assert [alarm.subject for alarm in raised] == ["accounts", "accounts", "skus"]
    assert len(watch.alarms) == 3


def test_records_of_a_server_whose_name_is_not_declared_raise_one() -> None:
    watch = StructureWatch()
    (alarm,) = watch.look([refused(ACCOUNTS, ("unknown_source", "source.name is not in the setting of source names"))])
    assert "TRS_SOURCE_NAMES" in alarm.hint


def test_a_bad_value_raises_none() -> None:
    watch = StructureWatch()
    assert watch.look([refused(ACCOUNTS, ("bad_value", "joining_date is not a plain number"))]) == []
    assert watch.alarms == []


def test_alarm_lasts_until_a_good_row_of_its_topic_and_a_delete_is_none() -> None:
    watch = StructureWatch()
    watch.look([refused(ACCOUNTS, LOST)])
    watch.look([good(ACCOUNTS, is_delete=True), good(SKUS, is_delete=False)])
    assert len(watch.alarms) == 1
    watch.look([good(ACCOUNTS, is_delete=False)])
    assert watch.alarms == []
    assert len(watch.look([refused(ACCOUNTS, LOST)])) == 1
