"""How fast the decoders are: records/s of big calls per table, for documents and DMS; milliseconds of small calls.

    python -m benchmarks.decode [--records N] [--threads N] [--json FILE]

Numbers are the best of several calls, with warm memory. CPU seconds stand beside them, because other work on the
machine changes the wall clock more.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.report import Row, publish
from connectors.dms import DmsTranslator
from processors.block_codec import BlockDecoder, encode_blocks, placed_rows
from processors.decode import Decoder
from processors.document_codec import DOCUMENT_BLOCKS
from processors.records import RawBatch
from processors.tables import INVOICE_LINE_ITEMS, TABLES, Kind, Table

PARTITIONS = 8
REPEATS = 5


def envelope(table: Table, number: int) -> bytes:
    """A streamed create as Debezium writes it, some 490 bytes for a line."""
    samples: dict[Kind, object] = {
        Kind.BIGINT: number // 5,
        Kind.INT: number % 9,
        Kind.TEXT: f'{number % 997} "Ünï"\nline',
        Kind.DECIMAL: f"{number % 9999}.{number % 100:02}",
        Kind.DATE: 17_000 + number % 900,
    }
    source = {
        "version": "3.6.1.Final",
        "connector": "mysql",
        "name": "trs",
        "ts_ms": 1795439760000,
        "snapshot": "false",
    }
    source |= {"db": "trs", "sequence": None, "ts_us": 1795439760000000, "ts_ns": 1795439760000000000}
    source |= {"table": table.name, "server_id": 1, "gtid": None, "file": "mysql-bin.000002", "pos": 143_900 + number}
    source |= {"row": number % 3, "thread": 12, "query": None}
    value: dict[str, object] = {
        "before": None,
        "after": {c.name: samples[c.kind] for c in table.columns},
        "source": source,
    }
    value |= {"transaction": None, "op": "c", "ts_ms": 1795439760547, "ts_us": 1795439760547022}
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def update(created: bytes) -> bytes:
    """The record of an update, whose before image is the after image of a create."""
    value = json.loads(created)
    value |= {"before": value["after"], "op": "u"}
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def with_undeclared(created: bytes) -> bytes:
    """The record of a row that has one column more than is declared."""
    value = json.loads(created)
    value["after"]["note"] = "by phone"
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def batches(values: list[bytes], keys: list[bytes]) -> list[RawBatch]:
    """The records spread over all partitions."""
    records = list(zip(keys, values, strict=True))
    size = -(-len(records) // PARTITIONS)
    parts = [records[i : i + size] for i in range(0, len(records), size)]
    return [RawBatch.of("t", number, part, timestamp_ms=1795439760547) for number, part in enumerate(parts)]


def best(call: Callable[[], object]) -> tuple[float, float]:
    """The least wall and CPU seconds of several calls."""
    wall, cpu = [], []
    for _ in range(REPEATS):
        began, began_cpu = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - began_cpu)
    return min(wall), min(cpu)


def measure(name: str, records: int, call: Callable[[], object]) -> dict[str, Any]:
    """Prints one line and returns it as values."""
    wall, cpu = best(call)
    rates = f"{records / wall:>12,.0f} records/s {records / cpu:>12,.0f} per CPU second"
    print(f"{name:<36}{records:>9,} records {wall * 1000:>10.2f} ms{rates}", flush=True)
    return {"name": name, "records": records, "wall_s": round(wall, 6), "cpu_s": round(cpu, 6)}


def bench_rows(records: int, threads: int) -> list[dict[str, Any]]:
    """Row events of each table; of lines also small calls, other kinds of records, and some bad ones."""
    decoder = Decoder(source_names=("trs",), threads=threads)
    results = []
    for table in TABLES:
        values = [envelope(table, number) for number in range(records)]
        keys = [b'{"id":%d}' % (number // 5) for number in range(records)]
        name = f"{table.name} ({len(values[0])} bytes)"
        results.append(measure(name, records, partial(decoder.decode, table, batches(values, keys))))
    for few in (1, 5, 50, 1000):
        small = batches(values[: few * PARTITIONS], keys[: few * PARTITIONS])
        results.append(measure(f"  8 batches of {few}", few * PARTITIONS, partial(decoder.decode, table, small)))
    clean = next(r["cpu_s"] for r in results if r["name"] == name)
    for what, others in (("updates", update), ("with an undeclared column", with_undeclared)):
        call = partial(decoder.decode, table, batches([others(value) for value in values], keys))
        results.append(_against_creates(measure(f"  {what}", records, call), clean))
    wrong_type = [value.replace(b'"quantity":', b'"quantity":"x","was":', 1) for value in values]
    no_json = [value[:-9] for value in values]
    for every, what, spoilt in (
        (1000, "of a wrong type", wrong_type),
        (1000, "no JSON", no_json),
        (100, "no JSON", no_json),
    ):
        bad = [spoilt[number] if number % every == 0 else value for number, value in enumerate(values)]
        call = partial(decoder.decode, table, batches(bad, keys))
        results.append(_against_creates(measure(f"  1 in {every} {what}", records, call), clean))
    decoder.close()
    return results


def _against_creates(result: dict[str, Any], clean: float) -> dict[str, Any]:
    """The result with its CPU time as a ratio to `clean`, the CPU seconds of creates alone."""
    result["cpu_ratio_to_clean"] = round(result["cpu_s"] / clean, 3)
    print(f"{'':<36}{result['cpu_ratio_to_clean']:.2f} of the CPU time of plain creates", flush=True)
    return result


def encoded(con: duckdb.DuckDBPyConnection) -> tuple[list[bytes], list[bytes]]:
    """Keys and values of the table `documents`."""
    parts = placed_rows(con, DOCUMENT_BLOCKS, "documents", partitions=PARTITIONS)
    slices = [s for rows in parts for s in encode_blocks(DOCUMENT_BLOCKS, rows, generation="g")]
    return [key for keys, _ in slices for key in keys], [value for _, values in slices for value in values]


def bench_documents(documents: int) -> list[dict[str, Any]]:
    """Documents of 5.5 lines on average, there and back."""
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'; SET threads = 1")
    con.execute(f"""
        CREATE TABLE documents AS
        SELECT
          i % 4000 AS account_id, i AS invoice_id, 'live' AS document_state, 3::BIGINT AS document_version,
          1::BIGINT AS account_since,
          (i % 8)::INTEGER AS invoice_bucket, DATE '2020-01-01' + (i % 900)::INTEGER AS date_issued,
          CASE WHEN i % 7 > 0 THEN DATE '2020-02-01' + (i % 900)::INTEGER END AS payment_dates,
          12345.6::DECIMAL(38,10) AS inv_total, 3 + i % 6 AS inv_items, 0 AS unpriced_lines,
          [
            {{'item_id': '0-365-' || (x + i % 1000) || '-9', 'quantity': 1::BIGINT, 'price': x::DECIMAL(20,10)}}
            FOR x IN range(3 + i % 6)
          ] AS lines,
          TIMESTAMPTZ '2026-01-01 00:00:00.123+00' AS source_ts
        FROM range({documents}) AS t(i)
    """)
    keys, values = encoded(con)
    decoder = BlockDecoder(DOCUMENT_BLOCKS, generation="g")
    size = sum(map(len, values)) // documents
    results = [measure(f"encode documents ({size} bytes)", documents, partial(encoded, con))]
    results.append(measure("decode documents", documents, partial(decoder.decode, batches(values, keys))))
    con.execute(f"DELETE FROM documents WHERE invoice_id >= {PARTITIONS}")
    keys, values = encoded(con)
    few = batches(values, keys)
    results.append(measure("  a document per partition", PARTITIONS, partial(decoder.decode, few)))
    con.close()
    return results


def dms_update(number: int) -> bytes:
    """A correction of a line as AWS DMS writes it, some 600 bytes, on one line."""
    row = {"invoice_id": number // 5, "item_id": f"{number % 997}", "quantity": number % 9}
    at = "2026-11-26T14:00:00.000000Z"
    metadata: dict[str, Any] = {
        "timestamp": at,
        "record-type": "data",
        "operation": "update",
        "partition-key-type": "primary-key",
    }
    metadata |= {"schema-name": "trs", "table-name": INVOICE_LINE_ITEMS.name, "transaction-id": 677883278264080}
    metadata |= {"transaction-record-id": number % 3 + 1, "commit-timestamp": at}
    metadata |= {"prev-transaction-id": 677883278264000, "prev-transaction-record-id": 1}
    metadata |= {"stream-position": f"mysql-bin.000002:{143_900 + number}:-1:{143_927 + number}:1:mysql-bin.000002:4"}
    before = {name: row[name] for name in INVOICE_LINE_ITEMS.key}
    return json.dumps({"data": row, "before-image": before, "metadata": metadata}, separators=(",", ":")).encode()


def bench_dms(records: int) -> list[dict[str, Any]]:
    """AWS DMS's records to row events, one by one, and what Python's own JSON reader alone costs."""
    values = [dms_update(number) for number in range(records)]
    translator = DmsTranslator(source_name="trs", schema="trs")

    def translated() -> None:
        for value in values:
            translator.translate(value, 0)

    def read() -> None:
        for value in values:
            json.loads(value)

    name = f"translate DMS ({len(values[-1])} bytes)"
    results = [measure(name, records, translated), measure("  json.loads of the same", records, read)]
    assert sum(translator.told.translated.values()) == REPEATS * records, "not every record became a row event"
    return results


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=400_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=None, help="file of the result; default build/bench/decode.json")
    arguments = parser.parse_args()
    results = bench_rows(arguments.records, arguments.threads) + bench_documents(arguments.records // 2)
    rows = [Row(r["name"].strip(), r["records"] / r["cpu_s"], "records per CPU second") for r in results]
    ours, peer = bench_dms(arguments.records // 4)
    rate, reading = (r["records"] / r["cpu_s"] for r in (ours, peer))
    rows.append(Row(ours["name"], rate, "records per CPU second", "json.loads alone", reading, rate / reading))
    results += [ours, peer]
    publish("decode", rows, {"threads": arguments.threads, "results": results}, file=arguments.json)


if __name__ == "__main__":
    main()
