"""What the stages share that take rows by table: events as relations, truncates, dated rows, current states."""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from processors.activity import EpochNotes
from processors.bucket_runs import by_bucket
from processors.inbox import Chunk, rows_of
from processors.keyed_table import KeyedTable, current_sql
from processors.lake_tables import LAKE_TABLES
from processors.ports import KeyedFiles
from processors.records import event_schema
from processors.stage import Stage
from processors.state import count_rows, to_arrow
from processors.tables import Table

EVENTS = "events"


class RowStage(Stage):
    """Events as a relation, truncates applied, log rows dated."""

    def events(
        self, chunks: Sequence[Chunk], table: Table, topic: str, notes: EpochNotes, truncates: str | None
    ) -> str | None:
        """The relation of this epoch's events of a table, synthetic deletes of truncates included; None: no event."""
        rows = rows_of(chunks, topic)
        below = self.control.below(table.name)
        if rows is None and truncates is None:
            return None
        view = f"{EVENTS}_{table.name}"
        self.con.register(view, event_schema(table).empty_table() if rows is None else rows)
        if below is not None and rows is not None:
            notes.ignored["below_truncate"] += count_rows(self.con, f"{view} WHERE row_order < {below}")
        if below is None and truncates is None:
            return view
        kept = f"SELECT * FROM {view}" + (f" WHERE row_order >= {below}" if below is not None else "")
        union = f" UNION ALL BY NAME SELECT * FROM {truncates}" if truncates is not None else ""
        self.con.execute(f"CREATE OR REPLACE TEMP TABLE {view}_kept AS {kept}{union}")
        return f"{view}_kept"

    def dated(self, query: str, schema: pa.Schema) -> pa.Table:
        """The query's rows with today's known_date, in the schema of their table, bucket by bucket."""
        today = self.context.now().date()
        return by_bucket(to_arrow(self.con, f"SELECT *, DATE '{today}' AS known_date FROM ({query})", schema))

    def current(self, keyed: KeyedTable, buckets: frozenset[int]) -> tuple[KeyedFiles, str]:
        """The lake's current rows of these buckets, tombstones included: what is to be read, and the relation."""
        columns = tuple(n for n in LAKE_TABLES[keyed.log].schema.names if n != "known_date")
        mine = f"bucket IN ({bucket_list(buckets)})"
        if keyed.home_bucket != keyed.log_bucket:  # a row of another bucket may be later than ours
            files = self.context.lake.keyed(keyed)
            whole = current_sql(keyed, columns=columns, log=files.log, folded=files.folded)
            return files, f"(SELECT * FROM {whole} WHERE {mine})"
        files = self.context.lake.keyed(keyed, buckets)
        log_rows, folded = (f"(SELECT * FROM {rows} WHERE {mine})" for rows in (files.log, files.folded))
        return files, current_sql(keyed, columns=columns, log=log_rows, folded=folded)

    def poll_news(self) -> None:
        self.news = self.control.refresh() or self.news


def epoch_table(epochs: Mapping[int, int]) -> pa.Table:
    """(bucket INTEGER, epoch BIGINT)."""
    return pa.table(
        {"bucket": pa.array(list(epochs), pa.int32()), "epoch": pa.array(list(epochs.values()), pa.int64())}
    )


def bucket_list(buckets: frozenset[int]) -> str:
    """The buckets as SQL between the parentheses of an IN."""
    return ", ".join(str(b) for b in sorted(buckets)) or "NULL"
