"""Is the source database still as declared? Its tables as alarms (nothing of them is captured, or records are refused)
and notices (what goes on, but should be known)."""

from dataclasses import dataclass

from connectors.mysql import Connection, DatabaseUrl, connect, wrapped_errors
from connectors.mysql_schema import check_captured_table, tables_of
from processors.alarms import Alarm, AlarmKind
from processors.errors import AccessDeniedError, SourceError
from processors.tables import TABLES


@dataclass(frozen=True)
class Structure:
    """What was found. `is_source`: the database has at least one of the declared tables. `problem`: why it could not be
    looked at, None if it was."""

    alarms: tuple[Alarm, ...]
    notices: tuple[str, ...]
    is_source: bool
    problem: str | None = None


def read_structure(url: DatabaseUrl) -> Structure:
    """Looks at the database. Raises UnavailableError or AccessDeniedError where it cannot be asked."""
    with wrapped_errors(url), connect(url) as connection:
        return compare_structure(connection, url)


def compare_structure(connection: Connection, url: DatabaseUrl) -> Structure:
    """The same over a connection. A table that the user may not read is an alarm too."""
    alarms, notices = [], []
    for table in TABLES:
        try:
            notices += check_captured_table(connection, url, table)
        except (SourceError, AccessDeniedError) as error:
            todo = error.hint or "see docs/schema_changes.md"
            alarms.append(Alarm(AlarmKind.SOURCE_TABLE, table.name, error.message, todo))
    present = tables_of(connection, url)
    return Structure(tuple(alarms), tuple(notices), any(t.name in present for t in TABLES))
