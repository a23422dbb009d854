"""Commits: what one Delta table takes when many workers write it, in requests to S3 and in commits per second.

    python -m benchmarks.commits [--writers N ...] [--seconds N] [--latency-ms N] [--json FILE]

Each writer is a worker's own (`FencedTable`) with its own bucket, all of the table `invoice_log`. Two questions:

- *Requests*: the writers commit one row each, in turns, so that every one of them finds the commits of all others since
  its own last. How many requests a commit takes is counted by a proxy, and how many a look for news that finds none; it
  depends on nothing but the number of writers. (AWS bills a listing as a writing request.)
- *Rate*: the writers commit side by side as often as they can, in a folder, and in S3 with some milliseconds before
  every request, as a network has them. Told are the commits per second of all together, the 95th percentile of one, and
  how often one had to begin anew. In S3 all requests pass the stack's S3 server and the proxy, both on this machine.

Needs a running stack (TRS_AWS_*, or the embedded one).
"""

import argparse
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from app.settings import load_settings
from app.wiring import lake_location
from benchmarks.report import Row, publish
from connectors.lake import FencedTable, LakeLocation, LakeStore
from devstack.fault_proxy import Fault, FaultProxy, Weather
from processors.lake_tables import INVOICE_LOG

COUNTED = 20
"""Commits of the writers' turns at least, and a whole turn: one checkpoint per ten commits has its share."""
LOOKS = 10
COLUMNS = INVOICE_LOG.schema


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--writers", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement of the rate; 0: none")
    parser.add_argument("--latency-ms", type=float, default=30.0, help="before each request to S3")
    parser.add_argument("--json", type=Path, default=None, help="file of the result; default build/bench/commits.json")
    arguments = parser.parse_args()
    slow = Weather((Fault.SLOW,), 1.0, arguments.latency_ms / 1000)
    requests: dict[int, dict[str, float]] = {}
    checkpoint = 0.0
    rates: dict[str, dict[int, dict[str, float]]] = {"folder": {}, "S3": {}}
    with in_front_of_s3() as (proxy, root):
        for count in arguments.writers:
            requests[count] = requests_per_commit(proxy, fresh(root), count)
            print(f"{count} writers: {requests[count]}", file=sys.stderr)
            if not arguments.seconds:
                continue
            with tempfile.TemporaryDirectory(prefix="trs-bench-") as folder:
                rates["folder"][count] = rate(LakeLocation(folder), count, arguments.seconds)
                checkpoint = checkpoint_bytes(LakeLocation(folder))
            proxy.set(slow)
            rates["S3"][count] = rate(fresh(root), count, arguments.seconds)
            proxy.clear()
    rows = [Row(f"{k}, {n} writers", v, "requests") for n, found in requests.items() for k, v in found.items()]
    for place, found in rates.items():
        for count, figures in found.items():
            rows.append(Row(f"commits of {count} writers, {place}", figures["per_s"], "commits/s"))
            rows.append(Row(f"95 of 100 commits of {count} writers, {place}", figures["p95_s"], "s"))
    rows.append(Row("checkpoint per file", checkpoint, "bytes"))
    details = {"latency_ms": arguments.latency_ms, "requests": requests, "rates": rates}
    publish("commits", rows, details, file=arguments.json)


@contextmanager
def in_front_of_s3() -> Iterator[tuple[FaultProxy, LakeLocation]]:
    """A proxy before the running stack's S3, and a location that is reached through it."""
    settings = load_settings()
    if settings.aws_endpoint is None or not settings.lake_uri.startswith("s3://"):
        raise SystemExit("no S3 server: `trs devstack up`, or TRS_AWS_ENDPOINT and TRS_LAKE")
    proxy = FaultProxy(upstream_port=urlsplit(settings.aws_endpoint).port or 80, seed=1)
    proxy.start()
    try:
        yield proxy, lake_location(settings.model_copy(update={"aws_endpoint": proxy.url}))
    finally:
        proxy.stop()


def fresh(root: LakeLocation) -> LakeLocation:
    """A place beside it that nothing is in."""
    return LakeLocation(f"{root.uri}-bench-{uuid.uuid4().hex[:8]}", root.storage_options)


def writers(location: LakeLocation, count: int) -> list[FencedTable]:
    """So many opened writers of one new table, each with a bucket of its own."""
    store = LakeStore(location)
    store.ensure(INVOICE_LOG)
    opened = [store.fenced(INVOICE_LOG.name) for _ in range(count)]
    for bucket, table in enumerate(opened):
        table.open({f"epoch:invoices:{bucket}": 0}, {}, seen={})
    return opened


def commit(table: FencedTable, bucket: int, epoch: int) -> float:
    """Commits one row with a value in every column but lists; the seconds that it took."""
    known = {"bucket": bucket, "epoch": epoch, "known_date": datetime.now(UTC).date()}
    values = [known.get(f.name, None if pa.types.is_nested(f.type) else value_of(f.type, epoch)) for f in COLUMNS]
    rows = pa.table([pa.array([v], f.type) for v, f in zip(values, COLUMNS, strict=True)], schema=COLUMNS)
    began = time.perf_counter()
    table.append(rows, {f"epoch:invoices:{bucket}": epoch})
    return time.perf_counter() - began


def value_of(kind: pa.DataType, number: int) -> object:
    """Something of this type."""
    if pa.types.is_string(kind):
        return f"item-{number:06}"
    if pa.types.is_temporal(kind):
        return datetime.now(UTC)
    return bool(number % 2) if pa.types.is_boolean(kind) else number


def checkpoint_bytes(location: LakeLocation) -> float:
    """Of the newest checkpoint of the table in a folder, per file that it names."""
    newest = max(Path(location.table(INVOICE_LOG.name)).glob("_delta_log/*.checkpoint.parquet"))
    files: int = pq.read_metadata(newest).num_rows
    return newest.stat().st_size / files


def requests_per_commit(proxy: FaultProxy, location: LakeLocation, count: int) -> dict[str, float]:
    """Reading and writing requests per commit of writers that take turns."""
    opened = writers(location, count)
    turns = -(-COUNTED // count)
    for epoch in range(1, turns + 2):
        if epoch == 2:  # from here on each writer finds one commit of each other
            before = proxy.asked.copy()
        for bucket, table in enumerate(opened):
            commit(table, bucket, epoch)
    asked, commits = proxy.asked - before, turns * count
    opened[0].stored(())  # the first look reads the log
    before = proxy.asked.copy()
    for _ in range(LOOKS):
        opened[0].stored(())
    looked = proxy.asked - before
    return {
        "read per commit": (asked["GET"] + asked["HEAD"]) / commits,
        "listed per commit": asked["LIST"] / commits,
        "written per commit": (asked["PUT"] + asked["POST"]) / commits,
        "read per look": (looked["GET"] + looked["HEAD"]) / LOOKS,
        "listed per look": looked["LIST"] / LOOKS,
    }


def rate(location: LakeLocation, count: int, seconds: float) -> dict[str, Any]:
    """Commits of writers that go as fast as they can, side by side."""
    opened = writers(location, count)
    began = time.perf_counter()

    def run(bucket: int) -> list[float]:
        took, epoch = [], 0
        while time.perf_counter() - began < seconds:
            epoch += 1
            took.append(commit(opened[bucket], bucket, epoch))
        return took

    with ThreadPoolExecutor(count) as pool:
        took = [t for each in pool.map(run, range(count)) for t in each]
    elapsed = time.perf_counter() - began
    store = opened[0]._store
    return {
        "per_s": len(took) / elapsed,
        "median_s": statistics.median(took),
        "p95_s": statistics.quantiles(took, n=20)[-1] if len(took) > 1 else took[0],
        "begun_anew": sum(store.conflicts.values()),
    }


if __name__ == "__main__":
    main()
