"""MySQL and MariaDB (Aurora included), through PyMySQL: connections, errors, tables, binlog positions, bulk loads."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa
import pymysql
from pymysql.constants import CR, ER
from pymysql.cursors import SSCursor

from connectors.source_rows import BinlogPosition, new_connection
from processors.errors import AccessDeniedError, SettingsError, SourceError, TrsError, UnavailableError, UsageError
from processors.tables import Kind, Table

CONNECT_TIMEOUT_S = 8
_READ_TIMEOUT_S = 600
_STATEMENT_ROWS = 5_000
_DENIED = frozenset(
    {
        ER.ACCESS_DENIED_ERROR,
        ER.DBACCESS_DENIED_ERROR,
        ER.TABLEACCESS_DENIED_ERROR,
        ER.COLUMNACCESS_DENIED_ERROR,
        ER.SPECIFIC_ACCESS_DENIED_ERROR,
    }
)
_UNKNOWN_VARIABLE_OR_SYNTAX = frozenset({ER.PARSE_ERROR, ER.UNKNOWN_SYSTEM_VARIABLE})
_OTHER_NAME = frozenset({62, 64})
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""
_UNREACHABLE = frozenset({CR.CR_CONN_HOST_ERROR, CR.CR_CONNECTION_ERROR, CR.CR_SERVER_GONE_ERROR, CR.CR_SERVER_LOST})

Connection = pymysql.connections.Connection


@dataclass(frozen=True)
class DatabaseUrl:
    """The parts of `mysql://user:password@host:port/database`, and how the connection is guarded.

    `tls`: encrypted, the server's certificate and host name verified; with `?tls=off` in the URL all is sent in the
    clear. `ca_file`: certificates that the server's one chains to, by default those that the system trusts.
    """

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    tls: bool = True
    ca_file: str | None = None

    @classmethod
    def parse(cls, url: str, *, ca_file: str | None = None) -> "DatabaseUrl":
        """Raises UsageError, which never shows the password, for anything else."""
        try:
            parts = urlsplit(url)
            port = parts.port or 3306
        except ValueError:
            raise UsageError("the database's URL is malformed", hint=_URL_HINT) from None
        database = parts.path.removeprefix("/")
        if parts.scheme != "mysql" or not parts.hostname or not parts.username or not database or "/" in database:
            raise UsageError("the database's URL is incomplete", hint=_URL_HINT)
        options = parse_qsl(parts.query, keep_blank_values=True)
        if parts.fragment or options not in ([], [("tls", "off")]):
            raise UsageError("the database's URL ends with what is no option", hint=_URL_HINT)
        return cls(
            parts.hostname,
            port,
            unquote(parts.username),
            unquote(parts.password or ""),
            unquote(database),
            tls=not options,
            ca_file=ca_file,
        )

    def __str__(self) -> str:
        return f"mysql://{self.host}:{self.port}/{self.database}"


_URL_HINT = "mysql://USER:PASSWORD@HOST:PORT/DATABASE, special characters as %XX; ?tls=off connects in the clear"
_NO_TLS_HINT = "switch TLS on at the server; ?tls=off at the end of the URL sends password hashes and rows in the clear"
_UNTRUSTED_HINT = "TRS_DATABASE_CA_FILE names the certificates that its own one chains to; of Aurora it is AWS's bundle"
_OTHER_NAME_HINT = "connect by a host name that the certificate is made for, of Aurora the cluster's endpoint"


def connect(url: DatabaseUrl, *, autocommit: bool = True) -> Connection:
    """A connection in UTC, encrypted to a server that proved who it is unless the URL says `tls=off`.

    Raises UnavailableError, AccessDeniedError, or SourceError: no such database, no TLS, another's certificate.
    """
    with wrapped_errors(url):
        return pymysql.connect(
            host=url.host,
            port=url.port,
            user=url.user,
            password=url.password,
            database=url.database,
            charset="utf8mb4",
            autocommit=autocommit,
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=_READ_TIMEOUT_S,
            write_timeout=_READ_TIMEOUT_S,
            init_command="SET time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES'",
            ssl=_tls_context(url) if url.tls else None,
            ssl_disabled=not url.tls,
        )


def _tls_context(url: DatabaseUrl) -> ssl.SSLContext:
    """What verifies the server; given to PyMySQL whole, it is demanded and verified, without a way around it."""
    try:
        context = ssl.create_default_context(cafile=url.ca_file)
    except OSError as error:
        raise SettingsError(
            f"TRS_DATABASE_CA_FILE: {url.ca_file} has no certificates that can be read ({error.strerror or error})"
        ) from None
    # of Python 3.13; MySQL's own and RDS's authorities are older than what it asks for
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


@contextmanager
def wrapped_errors(where: object) -> Iterator[None]:
    """Turns PyMySQL's errors into ours; `where` names the database."""
    try:
        yield
    except pymysql.MySQLError as error:
        raise wrap_error(error, where) from None


def wrap_error(error: pymysql.MySQLError, where: object) -> TrsError:
    """A library's error as one of ours, in one line."""
    code = error.args[0] if error.args and isinstance(error.args[0], int) else None
    text = " ".join(str(error.args[1] if len(error.args) > 1 else error).split())
    if code in _DENIED:
        return AccessDeniedError(f"{where}: {text}", hint="check user, password and grants")
    if code == CR.CR_SSL_CONNECTION_ERROR:
        return SourceError(f"{where} offers no TLS, and nothing was sent to it", hint=_NO_TLS_HINT)
    cause = getattr(error, "original_exception", None)
    if isinstance(cause, ssl.SSLCertVerificationError):
        other_name = cause.verify_code in _OTHER_NAME
        return SourceError(
            f"{where} has not proved who it is: {cause.verify_message.rstrip('.')}",
            hint=_OTHER_NAME_HINT if other_name else _UNTRUSTED_HINT,
        )
    if code in _UNREACHABLE:
        return UnavailableError(f"{where} does not answer ({text})", hint="check host, port and that the server runs")
    if code == ER.BAD_DB_ERROR:
        return SourceError(
            f"{where}: there is no such database",
            hint="check the name at the end of the URL; `trs generate --to mysql://…` fills an empty database",
        )
    return SourceError(f"{where}: {text}")


def query(connection: Connection, sql: str, args: Any = None) -> list[tuple[Any, ...]]:
    """All rows of a small answer."""
    with connection.cursor() as cursor:
        cursor.execute(sql, args)
        return list(cursor.fetchall())


def execute(connection: Connection, sql: str, args: Any = None) -> int:
    """Runs a statement without committing; returns the rows that it changed."""
    with connection.cursor() as cursor:
        return int(cursor.execute(sql, args))


def stream_column(connection: Connection, sql: str, args: Any = None) -> list[str]:
    """The only column of a large answer, read unbuffered: nothing is kept twice."""
    with connection.cursor(SSCursor) as cursor:
        cursor.execute(sql, args)
        return [row[0] for row in cursor.fetchall()]


def current_position(connection: Connection) -> BinlogPosition | None:
    """The end of the binlog now; None when the binlog is off. Raises AccessDeniedError without the privilege."""
    rows = None
    for statement in ("SHOW BINARY LOG STATUS", "SHOW MASTER STATUS"):  # the first from MySQL 8.2 on
        try:
            rows = query(connection, statement)
            break
        except pymysql.MySQLError as error:
            if error.args[0] == ER.SPECIFIC_ACCESS_DENIED_ERROR:
                raise AccessDeniedError(
                    "the user may not read the binlog position", hint="GRANT REPLICATION CLIENT ON *.* TO the user"
                ) from None
            if error.args[0] not in _UNKNOWN_VARIABLE_OR_SYNTAX:
                raise wrap_error(error, "binlog position") from None
    return BinlogPosition(rows[0][0], int(rows[0][1])) if rows else None


def snapshot_position(connection: Connection) -> BinlogPosition | None:
    """The exact binlog position of the consistent snapshot that is open, where the server tells it (MariaDB)."""
    status = dict(query(connection, "SHOW STATUS LIKE 'binlog_snapshot_%'"))
    names = {name.lower(): value for name, value in status.items()}
    file, pos = names.get("binlog_snapshot_file"), names.get("binlog_snapshot_position")
    return BinlogPosition(file, int(pos)) if file and pos else None


def server_version(connection: Connection) -> str:
    """What the server says that it is, as `11.4.5-MariaDB-log (MariaDB Server)` or `9.7.4 (MySQL Community Server)`."""
    names = ("version", "version_comment", "aurora_version")
    told = dict(query(connection, f"SHOW VARIABLES WHERE variable_name IN {names}"))
    text = f"{told.get('version', '')} ({told.get('version_comment', '')})"
    return f"{text} aurora {told['aurora_version']}" if told.get("aurora_version") else text


def server_id(connection: Connection) -> int:
    """The server's id, as change data capture puts it into its events."""
    return int(query(connection, "SELECT @@server_id")[0][0])


def ddl(table: Table) -> str:
    """The statement that makes a declared table."""
    columns = [f"  `{c.name}` {c.mysql_type} {'NULL' if c.nullable else 'NOT NULL'}" for c in table.columns]
    key = ", ".join(f"`{name}`" for name in table.key)
    # bytes decide whether two keys are one, as they do everywhere after the database
    return (
        f"CREATE TABLE IF NOT EXISTS `{table.name}` (\n"
        + ",\n".join([*columns, f"  PRIMARY KEY ({key})"])
        + "\n) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    )


def load_rows(connection: Connection, table: Table, rows: pa.Table) -> int:
    """Inserts typed rows in few statements and commits; returns their number."""
    statement = f"INSERT INTO `{table.name}` ({', '.join(f'`{c}`' for c in table.column_names)}) VALUES "
    for values in literal_rows(table, rows):
        with connection.cursor() as cursor:
            cursor.execute(statement + values)
    connection.commit()
    return int(rows.num_rows)


def literal_rows(table: Table, rows: pa.Table) -> Iterator[str]:
    """Rows as SQL literals, `(…),(…)`, a few thousand at a time; backslashes escape, as in the default sql_mode."""

    def literal(name: str, kind: Kind) -> str:
        if kind in (Kind.BIGINT, Kind.INT, Kind.DECIMAL):
            return f"{name}::VARCHAR"
        text = rf"replace(replace({name}::VARCHAR, '\', '\\'), '''', '''''')"
        return f"'''' || {text} || ''''"

    values = ", ',', ".join(f"coalesce({literal(c.name, c.kind)}, 'NULL')" for c in table.columns)
    con = new_connection()
    try:
        for start in range(0, rows.num_rows, _STATEMENT_ROWS):
            con.register("part", rows.slice(start, _STATEMENT_ROWS))
            ((text,),) = con.execute(f"SELECT string_agg(concat('(', {values}, ')'), ',') FROM part").fetchall()
            con.unregister("part")
            yield str(text)
    finally:
        con.close()
