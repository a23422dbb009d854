"""Records for the decoder's tests: envelopes as Debezium writes them, batches, and the captured ones."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from processors.decode import FEW_RECORDS, Decoder
from processors.records import Decoded, RawBatch
from processors.tables import TABLES_BY_NAME, Table

DATA = Path(__file__).parent / "data"
SOURCE_NAMES = ("ma", "my")
LINES = TABLES_BY_NAME["invoice_line_items"]
INVOICES = TABLES_BY_NAME["invoices"]
SKUS = TABLES_BY_NAME["skus"]
ACCOUNTS = TABLES_BY_NAME["accounts"]

GOOD_ROWS: dict[str, dict[str, Any]] = {
    "invoice_line_items": {"invoice_id": 9, "item_id": "0-493-95641-7", "quantity": 3},
    "invoices": {"invoice_id": 9, "account_id": 5, "date_issued": 17728, "payment_dates": None},
    "skus": {
        "item_id": "a",
        "item_name": "n",
        "item_description": "d",
        "item_cost_price": "1.10",
        "item_retail_price": "-2.50",
    },
    "accounts": {
        "account_id": 1,
        "company_name": "Company",
        "company_address": "1 High St\nTown",
        "contact_person": "A B",
        "contact_phone": "+44",
        "gender": None,
        "joining_date": 20318,
    },
}


def source(table: Table, /, **changes: Any) -> dict[str, Any]:
    """The `source` block of an envelope."""
    fields = {
        "version": "3.6.1.Final",
        "connector": "mysql",
        "name": "my",
        "ts_ms": 1795439760123,
        "snapshot": "false",
        "db": "trs",
        "table": table.name,
        "gtid": None,
        "file": "mysql-bin.000002",
        "pos": 143900,
        "row": 1,
    }
    return fields | changes


def envelope(table: Table, *, op: str = "c", before: Any = None, after: Any = None, **changes: Any) -> dict[str, Any]:
    """An envelope whose after image is a good row unless it is given."""
    if after is None and op in "cru":
        after = GOOD_ROWS[table.name]
    value = {"before": before, "after": after, "source": source(table), "op": op, "ts_ms": 1795439760547}
    return value | changes


def encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def line(**changes: Any) -> bytes:
    """The event of a good line with these columns changed."""
    return encode(envelope(LINES, after=GOOD_ROWS["invoice_line_items"] | changes))


def batch(
    values: Sequence[bytes | None],
    *,
    keys: Sequence[bytes | None] | None = None,
    partition: int = 3,
    start_offset: int = 100,
) -> RawBatch:
    """The records as a batch."""
    found = [b'{"invoice_id":9}'] * len(values) if keys is None else keys
    records = list(zip(found, values, strict=True))
    return RawBatch.of("aurora.trs.any", partition, records, start_offset=start_offset, timestamp_ms=1795439761000)


def decode_both_ways(decoder: Decoder, table: Table, value: bytes | None, key: bytes | None = b"k") -> Decoded:
    """Decodes one record alone and among good ones, asserts that its outcome is the same, and returns it.

    Among good ones twice: by the general statement, and by that of the template which the good ones make.
    """
    alone = decoder.decode(table, [batch([value], keys=[key])])
    assert_accounted(alone)
    good = encode(envelope(table))
    company = FEW_RECORDS + 5
    with pytest.MonkeyPatch.context() as patch:
        for before in (0, 1):  # the first one is among those of which a template is made
            values, keys = ([g] * before + [v] + [g] * company for v, g in ((value, good), (key, b"k")))
            crowd = decoder.decode(table, [batch(values, keys=keys, start_offset=100 - before)])
            own = [row for row in crowd.events.to_pylist() if row["row_offset"] == 100]
            assert sorted(own, key=str) == sorted(alone.events.to_pylist(), key=str)
            assert crowd.events.num_rows == len(own) + before + company
            assert (crowd.dead, crowd.truncates, crowd.ignored) == (alone.dead, alone.truncates, alone.ignored)
            assert_accounted(crowd)
            patch.setattr("processors.decode.TEMPLATE_RECORDS", FEW_RECORDS)
    return alone


def assert_accounted(decoded: Decoded) -> None:
    """Every record gave events, a truncate, a dead letter or a count."""
    with_events = len(
        {(row["bucket"], row["row_offset"]) for row in decoded.events.select(["bucket", "row_offset"]).to_pylist()}
    )
    told = with_events + decoded.dead.num_rows + len(decoded.truncates) + sum(decoded.ignored.values())
    assert told == decoded.read


@dataclass(frozen=True)
class Captured:
    """One record that a real connector wrote."""

    label: str
    table: Table
    key: bytes | None
    value: bytes | None


def captured(server: str) -> list[Captured]:
    """The captured records of `mysql` or `mariadb`; schema changes are paired with the table of SKUs."""
    records = []
    for line in (DATA / f"debezium_{server}.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        name = record["topic"].rsplit(".", 1)[-1]
        key, value = (None if record[part] is None else record[part].encode() for part in ("key", "value"))
        records.append(Captured(record["label"], TABLES_BY_NAME.get(name, SKUS), key, value))
    return records
