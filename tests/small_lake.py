"""A lake written by hand, row by row, as the worker would: for tests of everything that reads it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
from deltalake import write_deltalake

from processors.features.declarations import INVOICE_FEATURES
from processors.lake_tables import LAKE_TABLES, changes_name

Row = Mapping[str, object]


def at(text: str) -> datetime:
    """`2024-05-01T10:00` in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class SmallLake:
    """Appends rows to Delta tables below a folder; columns that are not given are null."""

    def __init__(self, folder: Path) -> None:
        self.uri = str(folder)

    def append(self, name: str, *rows: Row) -> None:
        """One commit. `known_date` is that of `known_from`, else 2024-05-01; a bucket, an epoch is 0 unless given."""
        table = LAKE_TABLES[name]
        blank = dict.fromkeys(table.schema.names)
        filled = []
        for row in rows:
            known = row.get("known_from") or at("2024-05-01")
            assert isinstance(known, datetime)
            defaults = {"known_date": known.date(), "bucket": 0, "epoch": 0, "deleted": False, "is_mark": False}
            values = {**blank, **{k: v for k, v in defaults.items() if k in blank}, **row}
            assert values.keys() == blank.keys(), values.keys() - blank.keys()
            filled.append(values)
        write_deltalake(
            f"{self.uri}/{name}",
            pa.Table.from_pylist(filled, schema=table.schema),
            mode="append",
            partition_by=list(table.partition_by) or None,
        )

    def feature(self, inv_id: int, known: str, *, valid: str | None = None, **values: object) -> None:
        """One change of invoice_features."""
        row = {"inv_id": inv_id, "acct_id": 1, "document_version": 1, "entity_bucket": 0, "feature_version": 1}
        row |= {"known_from": at(known), "valid_from": at(valid or known)}
        self.append(changes_name(INVOICE_FEATURES), {**row, **values})

    def epoch(
        self, stage: str, bucket: int, epoch: int, through: str, offsets: Mapping[str, int] | None = None
    ) -> None:
        """One row of `epochs`; `offsets` by topic."""
        entries = [{"topic": t, "topic_id": "id", "next_offset": n} for t, n in (offsets or {}).items()]
        self.append(
            "epochs",
            {
                "stage": stage,
                "bucket": bucket,
                "epoch": epoch,
                "known_through": at(through),
                "committed_at": at(through),
                "offsets": entries,
            },
        )
