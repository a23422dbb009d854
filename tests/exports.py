"""Writes rows as AWS writes the export of an Aurora MySQL snapshot (see connectors/s3_export.py)."""

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from batch_bootstrap.source import Source


def rows_of(source: Source) -> dict[str, pa.Table]:
    """All rows of a source, by table."""
    source.preflight()
    return {t.name: pa.concat_tables([c.rows for c in source.chunks(t)]) for t in source.tables()}


def write_export(
    store: pafs.FileSystem,
    folder: str,
    tables: Mapping[str, pa.Table],
    *,
    name: str = "export-1",
    database: str = "trs",
    parts: int = 3,
    status: str = "COMPLETE",
    table_status: Mapping[str, str] | None = None,
    batches: bool = True,
    infos: str | None = None,
) -> str:
    """Writes the export below `folder` and returns its own folder. `batches`: the current convention of names.

    `infos`: another name for the files that tell of the tables, where an export is written in two steps.
    """
    root = f"{folder}/{name}"
    statuses = []
    for table, rows in tables.items():
        at = f"{root}/{database}/{database}.{table}" + ("/1" if batches else "")
        store.create_dir(at, recursive=True)
        size = max(1, -(-rows.num_rows // parts))
        for part in range(parts):
            piece = exported(rows.slice(part * size, size))
            if piece.num_rows:
                # gaps between the numbers of parts occur: ranges of keys without a row
                with store.open_output_stream(f"{at}/part-{2 * part:05}-5f0c{part}.gz.parquet") as file:
                    pq.write_table(piece, file, compression="gzip", row_group_size=500)
        if batches:
            _write(store, f"{at}/_success", b"")
        told = {"target": f"{database}.{table}", "status": (table_status or {}).get(table, "COMPLETE")}
        told["schemaMetadata"] = {
            "originalTypeMappings": [{"columnName": n, "originalType": "?"} for n in rows.schema.names]
        }
        statuses.append(told)
    about_tables = f"{root}/export_tables_info_{infos or name}_from_1_to_{len(statuses)}.json"
    _write(store, about_tables, {"perTableStatus": statuses})
    info = {"exportTaskIdentifier": name, "snapshotTime": "Nov 25, 2026 3:00:00 AM", "percentProgress": 100}
    _write(store, f"{root}/export_info_{name}.json", info | {"status": status})
    return root


def exported(rows: pa.Table) -> pa.Table:
    """The rows in the types of an export: days are texts."""
    columns: dict[str, Any] = {}
    for field in rows.schema:
        column = rows[field.name]
        columns[field.name] = pc.strftime(column, "%Y-%m-%d") if pa.types.is_date(field.type) else column
    return pa.table(columns)


def _write(store: pafs.FileSystem, name: str, content: Any) -> None:
    with store.open_output_stream(name) as file:
        file.write(content if isinstance(content, bytes) else json.dumps(content).encode())
