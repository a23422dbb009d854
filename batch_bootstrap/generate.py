"""A synthetic TRS of any size: hot accounts, month-end peaks, and every oddity that the real one has (unpaid, lineless
and unpriced invoices, returns, addresses of several lines). generate.sql draws it, the same for the same seed."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import duckdb
import pyarrow as pa

from batch_bootstrap.events import connect
from connectors.source_rows import declared_schema
from processors.tables import Table

_WORDS = {
    "surnames": "Contreras Wright Downs Simmons Schmidt Fitzgerald Everett Kelley Lopez Wolf Beltran Müller Núñez"
    " Okafor Tanaka Ivanov Singh Haddad Larsen Moreau O'Brien Kowalski",
    "first_names": "Chelsey Todd Christopher Gary Felicia Amina Björn Chloé Dmitri Esra Farid Grace Hiro Ines Jonas",
    "streets": "York_Fork Robert_Lakes Summer_Underpass High_Street Mill_Lane Station_Road Church_Walk Market_Square",
    "towns": "Shelbyborough Lindahaven Jerryville Ashford Millbrook Norwick Eastham Kingsport Brookfield",
    "adjectives": "galvanised stainless heavy compact insulated threaded self-locking waterproof modular tempered",
    "articles": "hinge valve bracket cable drill_bit pump filter sealant ladder switch gasket conduit hammer clamp",
}
_FIRST_DAY = date(2020, 1, 1)
_DAYS = 730


class Generated:
    """Tables of a synthetic TRS; a context manager. `invoices` at least 0; accounts and SKUs grow with its size."""

    def __init__(self, invoices: int, *, seed: int, accounts: int | None = None, skus: int | None = None) -> None:
        self._con = connect()
        variables = {
            "invoices": invoices,
            "accounts": accounts or max(20, min(50_000, invoices // 50)),
            "skus": skus or max(20, min(5_000, invoices // 50)),
            "first_day": _FIRST_DAY,
            "days": _DAYS,
            **{name: [w.replace("_", " ") for w in words.split()] for name, words in _WORDS.items()},
        }
        for name, value in variables.items():
            self._con.execute(f"SET VARIABLE {name} = ?", [value])
        define_randomness(self._con, seed)
        self._con.execute(Path(__file__).with_name("generate.sql").read_text(encoding="utf-8"))

    def __enter__(self) -> "Generated":
        return self

    def __exit__(self, *_: object) -> None:
        self._con.close()

    def count(self, table: Table) -> int:
        """The table's rows."""
        ((rows,),) = self._con.execute(f"SELECT count(*) FROM {table.name}").fetchall()
        return int(rows)

    def rows(self, table: Table, chunk_rows: int = 100_000) -> Iterator[pa.Table]:
        """The table's rows in key order, as declared."""
        columns = ", ".join(table.column_names)
        ordered = self._con.sql(f"SELECT {columns} FROM {table.name} ORDER BY {', '.join(table.key)}")
        for batch in ordered.to_arrow_reader(chunk_rows):
            yield pa.Table.from_batches([batch]).cast(declared_schema(table))

    def write_csv(self, table: Table, folder: Path) -> int:
        """Writes TABLE.csv as the source's extracts look; returns the rows."""
        cells = ", ".join(_cell(table, name) for name in table.column_names)
        rows_sql = f"SELECT {cells} FROM {table.name} ORDER BY {', '.join(table.key)}"
        target = str(folder / f"{table.name}.csv").replace("'", "''")
        ((rows,),) = self._con.execute(f"COPY ({rows_sql}) TO '{target}' (FORMAT csv, HEADER)").fetchall()
        return int(rows)


def define_randomness(con: duckdb.DuckDBPyConnection, seed: int) -> None:
    """Defines `u(stream, i)`, uniform in [0, 1), and `pick(list, stream, i)` on the connection."""
    con.execute(f"CREATE MACRO u(stream, i) AS (hash(stream, i::BIGINT, {seed}) >> 11)::DOUBLE / 9007199254740992.0")
    con.execute("CREATE MACRO pick(choices, stream, i) AS choices[1 + floor(u(stream, i) * len(choices))::BIGINT]")


def _cell(table: Table, name: str) -> str:
    column = table.column(name)
    if column is not None and column.duckdb_type.startswith("DECIMAL"):
        return f"regexp_replace({name}::VARCHAR, '0{{1,8}}$', '') AS {name}"
    return name
