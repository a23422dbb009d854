"""Folding on Delta: reads log and folded table at one version each, overwrites the folded one by compare-and-set.

Two folds of a table at once cannot both commit: each carries the application id `fold` through the handle that it read
from (R8). The worker that owns bucket 0 folds in idle moments; `trs lake fold` does the same by hand.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import duckdb
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError

from connectors.delta_lake import DeltaLake
from connectors.lake import KnownIds, wrapped_errors
from connectors.object_files import read_error
from processors.fold import fold_sql, reach
from processors.keyed_table import KeyedTable
from processors.lake_tables import ACCOUNTS_KEYED, FEATURE_CHANGES, INVOICES_KEYED, KEYED_TABLES, LAKE_TABLES
from processors.state import to_arrow

_APP_ID = "fold"


@dataclass(frozen=True)
class Folded:
    """What one fold did: rows of the log beyond the old marks, rows of the folded table now."""

    table: str
    tail_rows: int
    rows: int
    committed: bool


def tail_rows(lake: DeltaLake, keyed: KeyedTable) -> int:
    """About how many rows the log has beyond the last fold (exactly, if nothing was deleted from it)."""
    log, folded = lake.store.open(keyed.log), lake.store.open(keyed.folded)
    with wrapped_errors(f"tables {keyed.log} and {keyed.folded}"):
        return _records(log) - (folded.transaction_version("folded_log_rows") or 0)


def fold(lake: DeltaLake, con: duckdb.DuckDBPyConnection, keyed: KeyedTable, partitions: int) -> Folded:
    """Folds one keyed table; `con` must be prepared for the lake. Not committed when another fold came first."""
    with wrapped_errors(f"fold of {keyed.folded}"):
        return _fold(lake, con, keyed, partitions)


def _fold(lake: DeltaLake, con: duckdb.DuckDBPyConnection, keyed: KeyedTable, partitions: int) -> Folded:
    log, folded = lake.store.open(keyed.log), lake.store.open(keyed.folded)
    tail = _records(log) - (folded.transaction_version("folded_log_rows") or 0)
    table = LAKE_TABLES[keyed.folded]
    reached = pa.table(
        {
            "bucket": pa.array(range(partitions), pa.int32()),
            "epoch": pa.array(_reach(lake, keyed, log, partitions).values(), pa.int64()),
        }
    )
    con.register("fold_reach", reached)
    query = fold_sql(
        keyed,
        log=lake.relation_of(keyed.log, log),
        folded=lake.relation_of(keyed.folded, folded),
        reach="fold_reach",
        today=datetime.now(UTC).date().isoformat(),
    )
    try:
        rows = to_arrow(con, query, table.schema)
    except duckdb.Error as error:
        raise read_error(error) or error from error
    con.unregister("fold_reach")
    ids = {_APP_ID: (folded.transaction_version(_APP_ID) or 0) + 1, "folded_log_rows": _records(log)}
    try:
        write_deltalake(
            folded,
            rows,
            mode="overwrite",
            commit_properties=CommitProperties(app_transactions=[Transaction(i, v) for i, v in ids.items()]),
        )
    except CommitFailedError:
        return Folded(keyed.folded, tail, 0, committed=False)
    return Folded(keyed.folded, tail, rows.num_rows - partitions, committed=True)


def fold_all(lake: DeltaLake, con: duckdb.DuckDBPyConnection, partitions: int, *, min_rows: int) -> list[Folded]:
    """Folds every keyed table whose tail has at least `min_rows` rows."""
    return [fold(lake, con, k, partitions) for k in KEYED_TABLES if tail_rows(lake, k) >= min_rows]


def _records(table: DeltaTable) -> int:
    actions = pa.table(table.get_add_actions(flatten=True))
    return sum(actions["num_records"].to_pylist()) if actions.num_rows else 0


_STAGE_OF = {"sku_log": "skus", "invoice_log": "invoices"}


def _reach(lake: DeltaLake, keyed: KeyedTable, log: DeltaTable, partitions: int) -> dict[int, int]:
    stage = _STAGE_OF.get(keyed.log, "accounts")
    fence = {f"epoch:{stage}:{b}": b for b in range(partitions)}
    epochs = _per_bucket(log, fence)
    if keyed is INVOICES_KEYED:
        return reach(epochs, _per_bucket(log, {f"documents:{b}": b for b in range(partitions)}))
    if keyed is ACCOUNTS_KEYED:
        cursors = {f"cursor:{b}": b for b in range(partitions)}
        outputs = [_per_bucket(lake.store.open(name), cursors) for name in FEATURE_CHANGES]
        return reach(epochs, {b: min(o[b] for o in outputs) for b in range(partitions)})
    return reach(epochs, None)


def _per_bucket(table: DeltaTable, ids: Mapping[str, int]) -> dict[int, int]:
    stand = KnownIds().read(table, ids)
    return {bucket: stand.get(app_id, 0) for app_id, bucket in ids.items()}
