"""What a MySQL-family server and its tables must be like to be read, and how their columns are read as text."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pymysql

from connectors.mysql import Connection, DatabaseUrl, current_position, ddl, query, wrap_error
from connectors.mysql_extra import UndeclaredColumn, extra_sql
from processors.errors import AccessDeniedError, SourceError
from processors.tables import EXTRA, TABLES, Column, Kind, Table

_WHOLE = frozenset({"tinyint", "smallint", "mediumint", "int", "bigint"})
_TEXTS = frozenset({"char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum"})
_ACCEPTED = {
    Kind.BIGINT: _WHOLE | {"decimal"} | _TEXTS,
    Kind.INT: _WHOLE | {"decimal"} | _TEXTS,
    Kind.DECIMAL: _WHOLE | {"decimal"} | _TEXTS,
    Kind.DATE: frozenset({"date", "datetime", "timestamp"}) | _TEXTS,
    Kind.TEXT: _WHOLE | {"decimal"} | _TEXTS,
}
_COMPARABLE = {
    Kind.BIGINT: _WHOLE,
    Kind.INT: _WHOLE,
    Kind.DECIMAL: _WHOLE | {"decimal"},
    Kind.DATE: frozenset({"date"}),
    Kind.TEXT: _WHOLE | {"decimal"} | _TEXTS,
}
"""Types whose values a database prints as connectors/row_digests.py wants them."""
_PLACES = 10
_TEXT_LENGTH = 65_535
_WHOLE_DIGITS, _DECIMALS = 10, 10
"""Of DECIMAL(20,10), before and after the point."""


@dataclass(frozen=True)
class Server:
    """What matters of a server's settings."""

    has_binlog: bool
    server_id: int
    notices: list[str]


def check_server(connection: Connection, url: DatabaseUrl) -> Server:
    """Looks at the binlog. Raises AccessDeniedError when its position may not be read."""
    names = ("log_bin", "binlog_format", "binlog_row_image", "binlog_transaction_compression", "server_id")
    settings = dict(query(connection, f"SHOW VARIABLES WHERE variable_name IN {names}"))
    number = int(settings.get("server_id", 0))
    if settings.get("log_bin", "OFF").upper() not in ("ON", "1"):
        return Server(
            False,
            number,
            [
                f"{url}: the binlog is off, so rows are ordered below everything that change data capture will bring;"
                " before CDC, switch it on (log_bin; on Aurora the cluster parameter binlog_format=ROW)"
            ],
        )
    if current_position(connection) is None:
        raise SourceError(f"{url}: the binlog is on but has no position", hint="check log_bin at the server")
    notices = []
    for name, wanted in (("binlog_format", "ROW"), ("binlog_row_image", "FULL")):
        if settings.get(name, wanted).upper() != wanted:
            notices.append(f"{url}: {name} is {settings[name]}; set it to {wanted} before change data capture starts")
    if settings.get("binlog_transaction_compression", "OFF").upper() == "ON":
        notices.append(
            f"{url}: binlog_transaction_compression is ON: rows of one transaction will share a position in change"
            " data capture; set it to OFF"
        )
    return Server(True, number, notices)


def check_capture(connection: Connection, url: DatabaseUrl) -> None:
    """Looks at the server's settings. Raises SourceError where change data capture would go wrong."""
    names = ("log_bin", *_CAPTURED)
    check_capture_settings(dict(query(connection, f"SHOW GLOBAL VARIABLES WHERE variable_name IN {names}")), url)


_CAPTURED = {
    "binlog_format": "ROW",
    "binlog_row_image": "FULL",
    "binlog_transaction_compression": "OFF",
    "binlog_legacy_event_pos": "ON",
}
"""What a server must say of each, if it knows it. The last two (MySQL from 8.0.20 on, MariaDB from 11.4 on) decide
whether each row event of a transaction has a position of its own: row numbers begin anew with each event, so without it
the changes of one transaction are in no order."""


def check_capture_settings(settings: Mapping[str, str], url: DatabaseUrl) -> None:
    """Raises SourceError, with all that is wrong, where changes would be missing, incomplete or without order."""
    wrong = []
    if settings.get("log_bin", "OFF").upper() not in ("ON", "1"):
        wrong.append("the binlog is off: set log_bin")
    for name, wanted in _CAPTURED.items():
        if settings.get(name, wanted).upper() != wanted:
            wrong.append(f"{name} is {settings[name]}: set it to {wanted}")
    if wrong:
        raise SourceError(
            f"{url}: changes cannot be captured: {'; '.join(wrong)}",
            hint="on Aurora in the cluster's parameter group, and reboot",
        )


def check_captured_table(connection: Connection, url: DatabaseUrl, table: Table) -> list[str]:
    """The table's own notices. Raises SourceError where change data capture would send keys or values in another form.

    A record's key decides its partition, so it must be byte for byte the one that a snapshot of ours would write; a
    date with a time would be sent in milliseconds.
    """
    columns = check_table(connection, url, table)
    for column in table.columns:
        name, kind = columns.names.get(column.name), columns.types.get(column.name)
        if name is None or kind is None:
            continue
        where = f"{url}: {table.name}.{name}"
        if column.name in table.event_key and name != column.name:
            raise SourceError(f"{where} is a key: it must be called {column.name}", hint="rename the column")
        if column.name in table.event_key and column.kind is Kind.BIGINT and kind not in _WHOLE:
            raise SourceError(
                f"{where} is {kind}: change data capture needs a whole number", hint="change it to BIGINT"
            )
        if column.kind is Kind.DATE and kind in ("datetime", "timestamp"):
            raise SourceError(f"{where} is {kind}: change data capture needs a date", hint="change it to DATE")
    return columns.notices


@dataclass(frozen=True)
class SourceColumns:
    """How a declared table's columns are called and typed in a database (an absent optional one is left out)."""

    names: dict[str, str]
    numeric_keys: frozenset[str]
    notices: list[str]
    types: dict[str, str] = field(default_factory=dict)
    decimal_places: dict[str, int] = field(default_factory=dict)
    undeclared: tuple[UndeclaredColumn, ...] = ()

    def incomparable(self, table: Table) -> list[str]:
        """Columns whose type in the database has texts of its own for one value, so that only typed rows compare."""
        return [
            f"{self.names[c.name]} ({self.types[c.name]})"
            for c in table.columns
            if c.name in self.names
            and (
                self.types[c.name] not in _COMPARABLE[c.kind]
                or (self.decimal_places.get(c.name, 0) > _PLACES and c.kind is Kind.DECIMAL)
            )
        ]

    def source_name(self, column: str) -> str:
        """The database's own name of a declared column."""
        return self.names[column]

    def present(self, table: Table) -> list[str]:
        """The declared columns that the database has, in declared order."""
        return [c.name for c in table.columns if c.name in self.names]

    def document_sql(self, table: Table) -> str:
        """One row as a JSON document of texts: decimals stay exact, and one column is fast to fetch."""
        fields = [f"'{name}', CAST(`{self.names[name]}` AS CHAR)" for name in self.present(table)]
        extra = extra_sql(self.undeclared)
        if extra is not None:
            fields.append(f"'{EXTRA}', {extra}")
        return f"JSON_OBJECT({', '.join(fields)})"

    def chunk_sql(self, table: Table, after: tuple[str, ...] | None, limit: int) -> tuple[str, list[str]]:
        """The rows after a primary key, in key order, and the query's arguments."""
        key = [f"`{self.names[name]}`" for name in table.key]
        where, args = "", []
        if after is not None:
            # spelled out, because servers do not use the index for (a, b) > (x, y)
            terms = []
            for i in range(len(key)):
                terms.append(" AND ".join([*(f"{k} = %s" for k in key[:i]), f"{key[i]} > %s"]))
                args += [*after[: i + 1]]
            where = f" WHERE {key[0]} >= %s AND ({' OR '.join(f'({t})' for t in terms)})"
            args = [after[0], *args]
        order = ", ".join(key)
        documents = self._document_with_args(table)
        return f"SELECT {documents} FROM `{table.name}`{where} ORDER BY {order} LIMIT {limit}", args

    def by_key_sql(self, table: Table, keys: int) -> str:
        """The rows of so many primary keys, whose values are the query's arguments."""
        key = ", ".join(f"`{self.names[name]}`" for name in table.key)
        places = ", ".join([f"({', '.join(['%s'] * len(table.key))})"] * keys)
        return f"SELECT {self._document_with_args(table)} FROM `{table.name}` WHERE ({key}) IN ({places})"

    def _document_with_args(self, table: Table) -> str:
        """The same in a query that has arguments, of which a column's name may look like one: `rate_%`."""
        return self.document_sql(table).replace("%", "%%")


def check_table(connection: Connection, url: DatabaseUrl, table: Table) -> SourceColumns:
    """Compares a table with its declaration. Raises SourceError or AccessDeniedError that says what to do."""
    try:
        query(connection, f"SELECT 1 FROM `{table.name}` LIMIT 0")
    except pymysql.MySQLError as error:
        wrapped = wrap_error(error, url)
        if isinstance(wrapped, AccessDeniedError):
            wrapped.hint = f"GRANT SELECT ON {url.database}.* TO the user"
        elif error.args[0] == pymysql.constants.ER.NO_SUCH_TABLE:
            wrapped = _missing_table(connection, url, table)
        raise wrapped from None
    found = query(
        connection,
        "SELECT column_name, data_type, character_maximum_length, numeric_precision, numeric_scale, column_type"
        " FROM information_schema.columns WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position",
        (url.database, table.name),
    )
    names: dict[str, str] = {}
    types: dict[str, str] = {}
    places: dict[str, int] = {}
    unknown, wide = [], []
    for name, data_type, length, precision, scale, column_type in found:
        column = table.column(name) or table.column(name.lower())
        if column is None:
            unknown.append(UndeclaredColumn(name, data_type.lower(), column_type.lower()))
        elif column.name in names:
            raise SourceError(f"{url}: table {table.name} has both {names[column.name]} and {name}")
        else:
            names[column.name], types[column.name] = name, data_type.lower()
            places[column.name] = int(scale or 0)
            if _is_wider(column, types[column.name], length, precision, scale):
                wide.append(
                    f"{url}: {table.name}.{name} is {column_type}, declared as {column.mysql_type}:"
                    " rows with a value that does not fit become dead letters"
                )
    notices = [*_undeclared_notices(url, table, unknown), *wide]
    for column in table.columns:
        if column.name not in names:
            if not column.optional:
                raise SourceError(
                    f"{url}: table {table.name} lacks column {column.name}", hint=f"the column is: {column.doc}"
                )
            notices.append(f"{url}: table {table.name} has no column {column.name}: every value is null")
        elif types[column.name] not in _ACCEPTED[column.kind]:
            raise SourceError(
                f"{url}: {table.name}.{column.name} is {types[column.name]}, which is not exact",
                hint=f"change it to {column.mysql_type}",
            )
    _check_key(connection, url, table, names)
    whole = frozenset(c.name for c in table.columns if c.kind is Kind.TEXT and types.get(c.name) in _WHOLE)
    return SourceColumns(names, whole, notices, types, places, tuple(unknown))


def tables_of(connection: Connection, url: DatabaseUrl) -> dict[str, set[str]]:
    """The tables and views of the database, each with its columns' names."""
    found: dict[str, set[str]] = {}
    for name, column in query(
        connection,
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = %s",
        (url.database,),
    ):
        found.setdefault(name, set()).add(column)
    return found


def _missing_table(connection: Connection, url: DatabaseUrl, table: Table) -> SourceError:
    """The error of a table that is not there: if another one has all of its columns, it was renamed."""
    declared = {t.name for t in TABLES}
    alike = [
        name
        for name, columns in sorted(tables_of(connection, url).items())
        if name not in declared and all(c.optional or columns & {c.name, *c.aliases} for c in table.columns)
    ]
    if not alike:
        made_by = " ".join(ddl(table).split())
        return SourceError(
            f"{url} has no table {table.name}", hint=f"check the database in the URL, or make it: {made_by}"
        )
    return SourceError(
        f"{url} has no table {table.name}, but {' and '.join(alike)} with all of its columns: renamed?"
        " No change of it is read until it has its name again",
        hint=f"RENAME TABLE `{alike[0]}` TO `{table.name}`, then `trs bootstrap snapshot` for what changed meanwhile",
    )


def _undeclared_notices(url: DatabaseUrl, table: Table, unknown: list[UndeclaredColumn]) -> list[str]:
    """What becomes of the columns that are not declared."""
    where = "accounts_private_changes" if any(c.personal for c in table.columns) else "the log"
    notices = []
    if unknown:
        names = ", ".join(column.name for column in unknown)
        notices.append(f"{url}: columns of {table.name} that are not declared are kept in `extra` of {where}: {names}")
    left_out = [f"{column.name} ({column.column_type})" for column in unknown if column.value_sql is None]
    if left_out:
        notices.append(f"{url}: a snapshot leaves out columns of {table.name}: {', '.join(left_out)}")
    return notices


def _is_wider(column: Column, data_type: str, length: int | None, precision: int | None, scale: int | None) -> bool:
    """Whether the database's column can hold values that the declared one cannot."""
    if column.kind is Kind.TEXT:
        return data_type in _TEXTS and (length or 0) > (column.size or _TEXT_LENGTH)
    if column.kind in (Kind.INT, Kind.BIGINT):
        most = {Kind.INT: 10, Kind.BIGINT: 19}[column.kind]
        return data_type in _WHOLE and (precision or 0) > most
    if column.kind is Kind.DECIMAL:
        whole = (precision or 0) - (scale or 0)
        return data_type == "decimal" and (whole > _WHOLE_DIGITS or (scale or 0) > _DECIMALS)
    return False


def _check_key(connection: Connection, url: DatabaseUrl, table: Table, names: dict[str, str]) -> None:
    key = query(
        connection,
        "SELECT column_name FROM information_schema.statistics"
        " WHERE table_schema = %s AND table_name = %s AND index_name = 'PRIMARY' ORDER BY seq_in_index",
        (url.database, table.name),
    )
    wanted = [names[name] for name in table.key]
    if [name for (name,) in key] != wanted:
        raise SourceError(
            f"{url}: the primary key of {table.name} is ({', '.join(n for (n,) in key)}), not ({', '.join(wanted)})",
            hint=f"ALTER TABLE {table.name} so that it is, or read the table as a CSV extract",
        )
