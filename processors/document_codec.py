"""Invoice documents as Kafka records: what stage A derives and stage B reads.

The key is `{"account_id":N}`, as Debezium writes keys, so that a document lies in its account's partition. The value is
one JSON object; its lines are three lists of equal length (`items`, `quantities`, `prices`), which are read faster than
a list of objects. Decimals are text with all ten decimals, `source_ts` is microseconds since 1970.

Of a value that is read the header must be, byte for byte, the header that its decoded columns would be written with.
"""

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from processors.derived_codec import DerivedDecoder, Encoded, encode_records, extracted_sql, generation_sql, sql_literal
from processors.lake_tables import ACCOUNT_LOG, PRICE

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
            "account_since",
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
"""The columns of decoded documents; `bucket` is the partition, `row_offset` the Kafka offset."""

_COLUMNS = {
    "generation": "VARCHAR",
    "account_id": "BIGINT",
    "invoice_id": "BIGINT",
    "document_state": "VARCHAR",
    "document_version": "BIGINT",
    "account_since": "BIGINT",
    "invoice_bucket": "INTEGER",
    "date_issued": "DATE",
    "payment_dates": "DATE",
    "inv_total": "DECIMAL(38,10)",
    "inv_items": "BIGINT",
    "unpriced_lines": "INTEGER",
    "source_ts": "BIGINT",
    "items": ["VARCHAR"],
    "quantities": ["BIGINT"],
    "prices": ["VARCHAR"],
}


def encode_documents(con: duckdb.DuckDBPyConnection, relation: str, *, generation: str) -> Encoded:
    """Keys and values of the documents in `relation` (the columns of DOCUMENT_SCHEMA without bucket and row_offset)."""
    value = f"""
        {_header_sql(generation, source_us="epoch_us(source_ts)")},
        ',"items":', to_json([l.item_id FOR l IN lines]),
        ',"quantities":', to_json([l.quantity FOR l IN lines]),
        ',"prices":', to_json([l.price FOR l IN lines]::VARCHAR[]), '}}'"""
    listed = f"(SELECT * REPLACE (coalesce(lines, []) AS lines) FROM {relation})"
    return encode_records(con, listed, key="""'{"account_id":', account_id, '}'""", value=value)


class DocumentDecoder(DerivedDecoder):
    """Decodes documents."""

    name = "documents"
    schema = DOCUMENT_SCHEMA
    complaint = "the value is not an invoice document as this program writes it"

    @staticmethod
    def decode_sql(generation: str) -> str:
        return _decode_sql(generation)

    def finish(self, rows: pa.Table) -> tuple[pa.Table, pa.Array | None]:
        prices, exact = _prices(rows["prices"].combine_chunks())
        return rows.append_column("price_values", prices), exact

    def select(self, rows: pa.Table) -> pa.Table:
        return super().select(rows.append_column("lines", _lines(rows)))


def _prices(texts_of_lists: pa.ListArray) -> tuple[pa.ListArray, pa.Array]:
    """The prices as decimals, and per list whether every text was a decimal with exactly ten decimals, or null."""
    flat = texts_of_lists.flatten()
    size = pc.binary_length(flat)
    canonical = pc.equal(pc.subtract(size, pc.find_substring(flat, ".")), 11)
    canonical = pc.fill_null(canonical, True)
    try:
        values = flat.cast(PRICE)
    except pa.ArrowInvalid:
        matches = pc.match_substring_regex(flat, r"^-?[0-9]{1,10}[.][0-9]{10}$")
        canonical = pc.fill_null(matches, True)
        values = pc.if_else(canonical, flat, pa.scalar(None, pa.string())).cast(PRICE)
    parents = pc.list_parent_indices(texts_of_lists)
    wrong = pc.unique(parents.filter(pc.invert(canonical)))
    exact = pc.invert(pc.is_in(pa.array(range(len(texts_of_lists)), pa.int64()), wrong.cast(pa.int64())))
    sizes = pc.fill_null(pc.list_value_length(texts_of_lists), 0)
    return pa.ListArray.from_arrays(_offsets(sizes), values), exact


def _offsets(sizes: pa.Array) -> pa.Array:
    return pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(sizes).cast(pa.int32())])


def _lines(rows: pa.Table) -> pa.Array:
    items, quantities, prices = (rows[name].combine_chunks() for name in ("items", "quantities", "price_values"))
    line = pa.StructArray.from_arrays(
        [items.flatten(), quantities.flatten(), prices.flatten()], names=["item_id", "quantity", "price"]
    )
    return pa.ListArray.from_arrays(_offsets(pc.list_value_length(items)), line)


def _decode_sql(generation: str) -> str:
    header = _header_sql(generation, source_us="source_us")
    return f"""
SELECT
  * EXCLUDE (value, source_us),
  make_timestamptz(source_us) AS source_ts,
  coalesce(invoice_id IS NOT NULL AND generation <> {sql_literal(generation)}, false) AS is_foreign,
  coalesce(
    account_id IS NOT NULL
    AND invoice_id IS NOT NULL
    AND document_state IN ('live', 'left', 'deleted')
    AND document_version IS NOT NULL
    AND account_since IS NOT NULL
    AND invoice_bucket IS NOT NULL
    AND starts_with(value, concat({header}))
    AND len(items) = len(quantities)
    AND len(items) = len(prices)
    AND list_count(items) = len(items)
    AND list_count(quantities) = len(items)
    AND list_count(prices) = len(items) - unpriced_lines
    AND coalesce(list_sum(quantities), 0) = inv_items,
    false
  ) AS taken
FROM ({extracted_sql(_COLUMNS)})
"""


def _header_sql(generation: str, *, source_us: str) -> str:
    """The arguments of a concat that writes everything before the lines."""
    return f"""
            {generation_sql(generation)},
            ',"account_id":', account_id,
            ',"invoice_id":', invoice_id,
            ',"document_state":"', document_state,
            '","document_version":', document_version,
            ',"account_since":', account_since,
            ',"invoice_bucket":', invoice_bucket,
            ',"date_issued":', coalesce('"' || date_issued || '"', 'null'),
            ',"payment_dates":', coalesce('"' || payment_dates || '"', 'null'),
            ',"inv_total":"', inv_total,
            '","inv_items":', inv_items,
            ',"unpriced_lines":', unpriced_lines,
            ',"source_ts":', coalesce(({source_us})::VARCHAR, 'null')"""
