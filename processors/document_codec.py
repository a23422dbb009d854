"""Invoice documents as Kafka messages: one JSON object each, keyed by the account; encoded and decoded as tables.

Dates are days since 1970, money and prices are text, `source_ts` is microseconds since 1970 UTC. A document carries the
lake's generation; those of another generation are ignored (R12).
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import duckdb
import pyarrow as pa

from processors.decode_raw import dead_letter
from processors.lake_tables import ACCOUNT_LOG
from processors.records import DEAD_SCHEMA, RawBatch

STATES = ("live", "left", "deleted")

DOCUMENT_SCHEMA = pa.schema(
    [
        ACCOUNT_LOG.schema.field(name)
        for name in (
            "bucket",
            "row_offset",
            "account_id",
            "invoice_id",
            "document_state",
            "document_version",
            "invoice_bucket",
            "date_issued",
            "payment_dates",
            "inv_total",
            "inv_items",
            "unpriced_lines",
            "lines",
            "source_ts",
        )
    ]
)
"""The columns of decoded documents."""

_STRUCTURE = (
    '{"generation":"VARCHAR","account_id":"BIGINT","invoice_id":"BIGINT","document_state":"VARCHAR",'
    '"document_version":"BIGINT","invoice_bucket":"INTEGER","date_issued":"INTEGER","payment_dates":"INTEGER",'
    '"inv_total":"VARCHAR","inv_items":"BIGINT","unpriced_lines":"INTEGER","source_ts":"BIGINT",'
    '"lines":[{"item_id":"VARCHAR","quantity":"BIGINT","price":"VARCHAR"}]}'
)


def encode_documents(
    con: duckdb.DuckDBPyConnection, relation: str, *, generation: str
) -> tuple[list[bytes], list[bytes]]:
    """Keys (`{"account_id":N}`) and values of the documents in a relation with the columns of DOCUMENT_SCHEMA.

    Bucket and offset are not part of a message; `price` of a line is null while its SKU is unknown.
    """
    table = con.sql(f"""
        SELECT
          ('{{"account_id":' || account_id || '}}')::BLOB AS key,
          encode(to_json(struct_pack(
            generation := '{generation}', account_id, invoice_id, document_state, document_version, invoice_bucket,
            date_issued := date_issued - DATE '1970-01-01', payment_dates := payment_dates - DATE '1970-01-01',
            inv_total := inv_total::VARCHAR, inv_items, unpriced_lines, source_ts := epoch_us(source_ts),
            lines := list_transform(
              lines, lambda l: struct_pack(item_id := l.item_id, quantity := l.quantity, price := l.price::VARCHAR)
            )
          ))::VARCHAR) AS value
        FROM {relation}
    """).to_arrow_table()
    return table["key"].to_pylist(), table["value"].to_pylist()


class DocumentDecoder:
    """Decodes documents of one generation. Used by one thread at a time; `close` releases its connection."""

    def __init__(self, *, generation: str) -> None:
        self._generation = generation
        self._con = duckdb.connect(":memory:")
        self._con.execute("SET TimeZone = 'UTC'; SET threads = 1")

    def close(self) -> None:
        """Closes the connection."""
        self._con.close()

    def decode(self, batches: Sequence[RawBatch]) -> tuple[pa.Table, Counter[str], pa.Table]:
        """Rows of DOCUMENT_SCHEMA, counts of ignored records by reason, dead letters (DEAD_SCHEMA)."""
        tables: list[pa.Table] = []
        dead: list[dict[str, Any]] = []
        ignored: Counter[str] = Counter()
        for batch in batches:
            texts = [_text(value) for value in batch.values]
            raw = pa.table({"value": pa.array(texts, pa.large_string()), "place": range(len(texts))})
            self._con.register("raw_documents", raw)
            rows = self._con.sql(_decode_sql(self._generation)).to_arrow_table()
            self._con.unregister("raw_documents")
            for place, outcome in zip(*_not_good(rows), strict=True):
                if outcome == "dead":
                    reason = "tombstone" if batch.values[place] is None else "bad_document"
                    if reason == "tombstone":
                        ignored[reason] += 1
                    else:
                        dead.append(dead_letter(batch, place, reason, "not an invoice document of ours"))
                else:
                    ignored[outcome] += 1
            rows = rows.filter(pa.compute.equal(rows["outcome"], "good"))
            offsets = pa.array(batch.offsets, pa.int64()).take(rows["place"].combine_chunks())
            rows = rows.append_column("row_offset", offsets)
            rows = rows.append_column("bucket", pa.array([batch.partition] * rows.num_rows, pa.int32()))
            tables.append(rows.select(DOCUMENT_SCHEMA.names).cast(DOCUMENT_SCHEMA))
        found = pa.concat_tables(tables) if tables else DOCUMENT_SCHEMA.empty_table()
        return found, ignored, pa.Table.from_pylist(dead, schema=DEAD_SCHEMA)


def _text(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _not_good(rows: pa.Table) -> tuple[list[int], list[str]]:
    others = rows.filter(pa.compute.not_equal(rows["outcome"], "good"))
    return others["place"].to_pylist(), others["outcome"].to_pylist()


def _decode_sql(generation: str) -> str:
    states = ", ".join(f"'{s}'" for s in STATES)
    return f"""
        WITH parsed AS (
          SELECT place, CASE WHEN json_valid(value) THEN TRY(from_json(value, '{_STRUCTURE}')) END AS d
          FROM raw_documents
        ),
        typed AS (
          SELECT
            place, d.generation AS generation, d.account_id AS account_id, d.invoice_id AS invoice_id,
            d.document_state AS document_state, d.document_version AS document_version,
            d.invoice_bucket AS invoice_bucket, DATE '1970-01-01' + d.date_issued AS date_issued,
            DATE '1970-01-01' + d.payment_dates AS payment_dates,
            try_cast(d.inv_total AS DECIMAL(38,10)) AS inv_total, d.inv_items AS inv_items,
            d.unpriced_lines AS unpriced_lines,
            list_transform(d.lines, lambda l: struct_pack(
              item_id := l.item_id, quantity := l.quantity, price := try_cast(l.price AS DECIMAL(20,10))
            )) AS lines,
            make_timestamptz(d.source_ts) AS source_ts
          FROM parsed
        )
        SELECT *,
          CASE
            WHEN generation <> '{generation}' THEN 'other_generation'
            WHEN generation IS NULL OR account_id IS NULL OR invoice_id IS NULL OR document_version IS NULL
              OR invoice_bucket IS NULL OR inv_total IS NULL OR inv_items IS NULL OR unpriced_lines IS NULL
              OR document_state IS NULL OR document_state NOT IN ({states}) THEN 'dead'
            ELSE 'good'
          END AS outcome
        FROM typed
    """
