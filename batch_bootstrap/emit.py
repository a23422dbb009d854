"""Row events of single rows that are known to have changed, without a diff: what the simulator and the demo send."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from batch_bootstrap.events import Op, Stamp, connect, row_events
from connectors.kafka import Producer
from connectors.mysql import Connection
from connectors.mysql_source import MySqlSource
from connectors.source_rows import declared_schema
from processors.errors import SourceError
from processors.tables import TABLES, Table, topic_of


@dataclass(frozen=True)
class Touched:
    """A row that a change touched: its primary key, and whether the change created it."""

    table: Table
    key: tuple[Any, ...]
    created: bool = False


def emit_rows(
    touched: Sequence[Touched],
    source: MySqlSource,
    connection: Connection,
    producer: Producer,
    *,
    topic_prefix: str,
    source_name: str,
) -> int:
    """Reads the rows as they are now and sends them; returns the number of events, all acknowledged.

    A row that exists becomes `u`, or `c` if it is known to be new; one that is gone becomes `d` with its key. All carry
    the position of the one consistent read. Raises SourceError when the binlog is off: nothing would order the events.
    """
    created = {(t.table, t.key) for t in touched if t.created}
    keys = {table: list({t.key: None for t in touched if t.table is table}) for table in TABLES}
    keys = {table: wanted for table, wanted in keys.items() if wanted}
    position, found = source.rows_by_key(connection, keys)
    if position is None:
        raise SourceError(f"{source.description}: the binlog is off", hint="switch it on, or take a snapshot instead")
    stamp = Stamp(source_name, source.database, position.file, position.pos, time.time_ns() // 1_000_000)
    sent = 0
    con = connect()
    try:
        for table, wanted in keys.items():
            rows = found[table]
            present = list(zip(*(rows.column(name).to_pylist() for name in table.key), strict=True))
            new = [(table, key) in created for key in present]
            gone = [key for key in wanted if key not in set(present)]
            key_schema = pa.schema([declared_schema(table).field(name) for name in table.key])
            parts: tuple[tuple[Op, pa.Table], ...] = (
                ("c", rows.filter(pa.array(new, pa.bool_()))),
                ("u", rows.filter(pa.array([not n for n in new], pa.bool_()))),
                ("d", pa.Table.from_pylist([dict(zip(table.key, key, strict=True)) for key in gone], key_schema)),
            )
            for op, part in parts:
                if part.num_rows:
                    events = row_events(con, table, part, stamp, op=op, numeric_keys=source.numeric_keys(table))
                    producer.send(topic_of(topic_prefix, table.name), *events)
                    sent += part.num_rows
    finally:
        con.close()
    producer.flush()
    return sent
