"""Charged lines as Kafka records: what stage A derives and stage C, the one by article, reads.

The key is `{"item_id":"…"}`, so that all lines of an article lie in one partition: that of its SKU, where the source's
article ids are texts. The value is one flat JSON object; the price is text with all ten decimals, `source_ts` is
microseconds since 1970. Of a line that is gone (`"deleted":true`) account, day, quantity and price are null.
"""

import duckdb
import pyarrow as pa

from processors.derived_codec import DerivedDecoder, Encoded, encode_records, extracted_sql, generation_sql, sql_literal
from processors.lake_tables import ITEM_LOG

LINE_SCHEMA = pa.schema([f for f in ITEM_LOG.schema if f.name not in ("epoch", "known_date")])
"""The columns of decoded lines; `bucket` is the partition, `row_offset` the Kafka offset."""

_COLUMNS = {
    "generation": "VARCHAR",
    "item_id": "VARCHAR",
    "invoice_id": "BIGINT",
    "deleted": "BOOLEAN",
    "line_version": "BIGINT",
    "invoice_bucket": "INTEGER",
    "account_id": "BIGINT",
    "date_issued": "DATE",
    "quantity": "BIGINT",
    "price": "DECIMAL(20,10)",
    "source_ts": "BIGINT",
}


def encode_lines(con: duckdb.DuckDBPyConnection, relation: str, *, generation: str) -> Encoded:
    """Keys and values of the lines in `relation` (the columns of LINE_SCHEMA without bucket and row_offset)."""
    key = """'{"item_id":', to_json(item_id), '}'"""
    return encode_records(con, relation, key=key, value=_value_sql(generation, source_us="epoch_us(source_ts)"))


class LineDecoder(DerivedDecoder):
    """Decodes charged lines."""

    name = "charged_lines"
    schema = LINE_SCHEMA
    complaint = "the value is not a charged line as this program writes it"

    @staticmethod
    def decode_sql(generation: str) -> str:
        return f"""
SELECT
  * EXCLUDE (value, source_us),
  make_timestamptz(source_us) AS source_ts,
  coalesce(invoice_id IS NOT NULL AND generation <> {sql_literal(generation)}, false) AS is_foreign,
  coalesce(
    item_id IS NOT NULL
    AND invoice_id IS NOT NULL
    AND line_version IS NOT NULL
    AND invoice_bucket IS NOT NULL
    AND CASE WHEN deleted THEN account_id IS NULL AND date_issued IS NULL AND quantity IS NULL AND price IS NULL
      ELSE account_id IS NOT NULL AND date_issued IS NOT NULL AND quantity IS NOT NULL END
    AND value = concat({_value_sql(generation, source_us="source_us")}),
    false
  ) AS taken
FROM ({extracted_sql(_COLUMNS)})
"""

    def finish(self, rows: pa.Table) -> tuple[pa.Table, pa.Array | None]:
        return rows, None


def _value_sql(generation: str, *, source_us: str) -> str:
    """The arguments of a concat that writes a value."""
    return f"""
            {generation_sql(generation)},
            ',"item_id":', to_json(item_id),
            ',"invoice_id":', invoice_id,
            ',"deleted":', deleted,
            ',"line_version":', line_version,
            ',"invoice_bucket":', invoice_bucket,
            ',"account_id":', coalesce(account_id::VARCHAR, 'null'),
            ',"date_issued":', coalesce('"' || date_issued || '"', 'null'),
            ',"quantity":', coalesce(quantity::VARCHAR, 'null'),
            ',"price":', coalesce('"' || price || '"', 'null'),
            ',"source_ts":', coalesce(({source_us})::VARCHAR, 'null'),
            '}}'"""
