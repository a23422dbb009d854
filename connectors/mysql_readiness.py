"""What must hold of a server for change data capture and cannot be seen in its replication settings alone: the right
to read the binlog, that the server keeps it long enough, and that it still has what the connector has not read."""

from collections.abc import Iterable, Mapping, Sequence

import pymysql

from connectors.mysql import Connection, DatabaseUrl, query
from processors.alarms import Alarm, AlarmKind
from processors.errors import AccessDeniedError
from processors.order import file_number

LEAST_RETENTION_H = 24
"""A connector that rests over a night must find the binlog that it did not read."""

_READERS = frozenset({"REPLICATION SLAVE", "REPLICATION REPLICA", "ALL PRIVILEGES"})
_EVERYWHERE = " ON *.* "


def check_replication_right(connection: Connection, url: DatabaseUrl) -> list[str]:
    """Notices about the user's rights. Raises AccessDeniedError where the user may not read the binlog."""
    return judge_grants([str(row[0]) for row in query(connection, "SHOW GRANTS")], url)


def judge_grants(grants: Iterable[str], url: DatabaseUrl) -> list[str]:
    """The same of the lines that `SHOW GRANTS` answers. Rights that come by a role are not looked into."""
    lines = [line.upper() for line in grants]
    if any(_READERS & _rights_everywhere(line) for line in lines):
        return []
    if any(" ON " not in line for line in lines):  # GRANT `role` TO `user`
        return [f"{url}: whether a role grants REPLICATION SLAVE was not looked at"]
    raise AccessDeniedError(
        f"{url}: the user may not read the binlog",
        hint="GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO the user",
    )


def _rights_everywhere(grant: str) -> set[str]:
    """The rights of a line on all databases. REPLICATION SLAVE ADMIN is another right than REPLICATION SLAVE."""
    rights, everywhere, _ = grant.removeprefix("GRANT ").partition(_EVERYWHERE)
    return {right.strip() for right in rights.split(",")} if everywhere else set()


def retention_notices(connection: Connection, url: DatabaseUrl) -> list[str]:
    """What is to be known about how long the server keeps its binlog."""
    names = ("binlog_expire_logs_seconds", "expire_logs_days", "basedir")
    variables = dict(query(connection, f"SHOW GLOBAL VARIABLES WHERE variable_name IN {names}"))
    if not variables.get("basedir", "").startswith("/rdsdbbin"):
        return judge_retention(variables, url)
    try:
        rds = {row[0]: row[1] for row in query(connection, "CALL mysql.rds_show_configuration")}
    except pymysql.MySQLError:
        return [f"{url}: how long the binlog is kept could not be read: CALL mysql.rds_show_configuration tells"]
    return judge_rds_retention(rds.get("binlog retention hours"), url)


def judge_retention(variables: Mapping[str, str], url: DatabaseUrl) -> list[str]:
    """A notice where a server that manages its own binlog drops it within a day; 0 means that it is kept."""
    seconds = float(variables.get("binlog_expire_logs_seconds") or 0)
    seconds = seconds or 86_400 * float(variables.get("expire_logs_days") or 0)
    if seconds == 0 or seconds >= 3_600 * LEAST_RETENTION_H:
        return []
    return [
        f"{url}: the binlog is kept for {seconds / 3_600:.1f} h only; a connector that rests longer must begin anew:"
        f" set binlog_expire_logs_seconds to {3_600 * LEAST_RETENTION_H} or more"
    ]


def judge_rds_retention(hours: object, url: DatabaseUrl) -> list[str]:
    """The same for RDS and Aurora, which drop the binlog at once where no hours are set."""
    if hours is not None and float(str(hours)) >= LEAST_RETENTION_H:
        return []
    kept = "not kept at all" if hours is None else f"kept for {hours} h only"
    return [
        f"{url}: the binlog is {kept}; a connector that rests longer must begin anew:"
        f" CALL mysql.rds_set_configuration('binlog retention hours', {LEAST_RETENTION_H})"
    ]


def judge_position(file: str, kept: Sequence[str], url: DatabaseUrl) -> tuple[list[Alarm], list[str]]:
    """Alarms and notices about a connector that goes on in `file`, while the server keeps the files `kept`."""
    numbers = sorted(file_number(name) for name in kept)
    number = file_number(file)
    if number in numbers[1:] or numbers == [number]:
        return [], []
    if number in numbers:
        return [], [
            f"{url}: the connector reads {file}, the oldest of {len(kept)} binlogs that are kept: what is purged before"
            " it was read is lost to it; keep the binlog longer until it has caught up"
        ]
    held = f"it keeps {kept[0]} to {kept[-1]}" if kept else "it keeps none"
    return [
        Alarm(
            AlarmKind.BINLOG_GONE,
            str(url),
            f"the connector goes on in {file}, which the server does not have ({held}): it was purged, or this is"
            " another server",
            "docs/cdc.md, When something happens to the source",
        )
    ], []


def look_for_position(connection: Connection, url: DatabaseUrl, file: str) -> tuple[list[Alarm], list[str]]:
    """The same of a server; a notice where the user may not see the binlogs, or there are none."""
    try:
        kept = [str(row[0]) for row in query(connection, "SHOW BINARY LOGS")]
    except pymysql.MySQLError as error:
        return [], [f"{url}: whether it still has the connector's binlog was not looked at: {error.args[-1]}"]
    return judge_position(file, kept, url)
