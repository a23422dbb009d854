"""What is said of grants and of how long a binlog is kept, from the answers of real servers."""

from typing import Any

import pytest

from connectors.mysql import DatabaseUrl
from connectors.mysql_readiness import judge_grants, judge_position, judge_rds_retention, judge_retention
from processors.errors import AccessDeniedError

URL = DatabaseUrl("db", 3306, "trs", "s3cret", "trs")


@pytest.mark.parametrize(
    "grant",
    [
        "GRANT SELECT, REPLICATION SLAVE, BINLOG MONITOR ON *.* TO `trs`@`%`",
        "GRANT SELECT, REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO `trs`@`%`",
        "GRANT SELECT,REPLICATION SLAVE ON *.* TO `trs`@`%` IDENTIFIED BY PASSWORD '*00'",
        "GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost` WITH GRANT OPTION",
    ],
)
def test_user_that_may_read_the_binlog_is_fine(grant: str) -> None:
    assert judge_grants([grant, "GRANT SELECT ON `trs`.* TO `trs`@`%`"], URL) == []


@pytest.mark.parametrize(
    "grant",
    [
        "GRANT ALL PRIVILEGES ON `trs`.* TO `trs`@`%`",
        "GRANT SELECT, REPLICATION SLAVE ADMIN, BINLOG MONITOR ON *.* TO `trs`@`%`",
        "GRANT REPLICATION_SLAVE_ADMIN,REPLICATION_APPLIER ON *.* TO `trs`@`%` WITH GRANT OPTION",
    ],
)
def test_user_without_the_right_is_refused_with_the_grant_that_lacks(grant: str) -> None:
    with pytest.raises(AccessDeniedError, match="may not read the binlog") as error:
        judge_grants(["GRANT USAGE ON *.* TO `trs`@`%`", grant], URL)
    assert "REPLICATION SLAVE" in (error.value.hint or "")


def test_rights_of_a_role_are_not_judged() -> None:
    (notice,) = judge_grants(["GRANT USAGE ON *.* TO `trs`@`%`", "GRANT `cdc`@`%` TO `trs`@`%`"], URL)
    assert "role" in notice


@pytest.mark.parametrize(
    ("variables", "noticed"),
    [
        ({"binlog_expire_logs_seconds": "2592000"}, False),
        ({"binlog_expire_logs_seconds": "0", "expire_logs_days": "0.000000"}, False),
        ({"binlog_expire_logs_seconds": "3600"}, True),
        ({"binlog_expire_logs_seconds": "0", "expire_logs_days": "0.5"}, True),
    ],
)
def test_binlog_that_is_dropped_within_a_day_is_noticed(variables: dict[str, str], noticed: bool) -> None:
    assert bool(judge_retention(variables, URL)) is noticed


@pytest.mark.parametrize(("hours", "said"), [(None, "not kept at all"), ("1", "for 1 h only"), (24, None)])
def test_rds_keeps_what_it_was_told_to_keep(hours: Any, said: str | None) -> None:
    notices = judge_rds_retention(hours, URL)
    assert (said in notices[0]) if said else notices == []


@pytest.mark.parametrize(
    ("file", "kept", "alarmed", "noticed"),
    [
        ("binlog.000007", ["binlog.000006", "binlog.000007"], False, False),
        ("binlog.000007", ["binlog.000007"], False, False),
        ("binlog.000006", ["binlog.000006", "binlog.000007"], False, True),
        ("binlog.000005", ["binlog.000006", "binlog.000007"], True, False),
        ("binlog.000008", ["binlog.000006", "binlog.000007"], True, False),
        ("binlog.1000000", ["binlog.999999", "binlog.1000000"], False, False),
        ("binlog.000001", [], True, False),
    ],
)
def test_position_in_a_binlog_that_is_gone_is_an_alarm_and_in_one_that_goes_next_a_notice(
    file: str, kept: list[str], alarmed: bool, noticed: bool
) -> None:
    alarms, notices = judge_position(file, kept, URL)
    assert (bool(alarms), bool(notices)) == (alarmed, noticed)
    assert all(file in str(told) for told in (*alarms, *notices))
