"""The peer of the catch-up: an ordinary Faust application over the same topics, one event at a time.

    python -m benchmarks.peers.stock_faust --kafka HOST:PORT --topic-prefix PREFIX --out FOLDER [--interval SECONDS]

One agent per topic, JSON values decoded by Faust, state in plain dicts (plain_state.py), and a timer that derives the
invoice features of the accounts that were touched and appends them to a Delta table with write_deltalake. It ends when
it has seen as many events as were in the topics at its start, and prints JSON: events, seconds from the first event to
the last commit, events per second, CPU seconds of the whole process, peak memory.

Everything that would slow it down and that the job does not need is off (changelog and leader topics, web pages, the
wait for empty streams), its fetches and buffers are large, it commits offsets seldom. An event that it cannot take
ends it. It gives no guarantee of ours: its state is lost with the process, and a row may be written twice.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import faust
import pyarrow as pa
from deltalake import write_deltalake

from benchmarks.peers.plain_state import PlainState
from benchmarks.usage import peak_rss_mb
from connectors.kafka import KafkaConfig, watermarks
from processors.features.declarations import INVOICE_FEATURES
from processors.tables import ACCOUNTS, INVOICE_LINE_ITEMS, INVOICES, SKUS, topic_of

SCHEMA = pa.schema([(c.name, c.arrow_type) for c in INVOICE_FEATURES.columns]).append(pa.field("commit", pa.int32()))
"""The features, and the number of the commit: of an invoice's rows the one with the greatest counts."""


class Run:
    """The state, how much of the topics it has seen, and the table that it is written to."""

    def __init__(self, expected: int, out: Path) -> None:
        self.state = PlainState()
        self.done = asyncio.Event()
        self.first = self.last = 0.0
        self.commits = 0
        self._expected = expected
        self._seen = 0
        self._out = out

    def count(self) -> None:
        """One more event is in the state."""
        if self._seen == 0:
            self.first = time.perf_counter()
        self._seen += 1
        if self._seen == self._expected:
            self.done.set()

    def write(self) -> None:
        """One commit with the features of all touched accounts, if there are any."""
        rows = self.state.derive_touched()
        if not rows:
            return
        columns: list[Any] = [*zip(*rows, strict=True), [self.commits] * len(rows)]
        arrays = [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)]
        write_deltalake(str(self._out), pa.Table.from_arrays(arrays, schema=SCHEMA), mode="append")
        self.commits += 1
        self.last = time.perf_counter()

    def result(self) -> dict[str, float]:
        """What is printed."""
        seconds = self.last - self.first
        return {
            "events": self._seen,
            "seconds": seconds,
            "events_per_s": self._seen / seconds,
            "commits": self.commits,
            "cpu_seconds": time.process_time(),
            "peak_rss_mb": peak_rss_mb(),
        }


def build_app(kafka: str, prefix: str, run: Run, *, interval_s: float, folder: Path) -> faust.App:
    """The application: four agents, a timer, and the task that ends it."""
    app = faust.App(
        f"stock-faust-{uuid.uuid4().hex}",
        broker=[f"kafka://{host}" for host in kafka.split(",")],
        store="memory://",
        datadir=str(folder),
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        reply_create_topic=False,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=64 * 2**20,
        stream_buffer_maxsize=65_536,
        stream_wait_empty=False,
        broker_commit_every=100_000,
        broker_commit_interval=10.0,
    )

    def agent(name: str, take: Callable[[Mapping[str, Any]], None]) -> None:
        topic = app.topic(topic_of(prefix, name), key_serializer="raw", value_serializer="json")

        @app.agent(topic, name=f"take_{name}")
        async def take_events(events: Any) -> None:
            try:
                async for event in events:
                    take(event["after"])
                    run.count()
            except Exception:  # noqa: BLE001 - whatever it is, it ends the process
                # Not left to Faust: a worker whose agent crashes while it still starts may wait for ever.
                traceback.print_exc()
                os._exit(1)

    agent(SKUS.name, run.state.take_sku)
    agent(ACCOUNTS.name, run.state.take_account)
    agent(INVOICES.name, run.state.take_invoice)
    agent(INVOICE_LINE_ITEMS.name, run.state.take_line)

    async def write_features() -> None:
        run.write()

    async def end_when_done() -> None:
        await run.done.wait()
        run.write()
        os.kill(os.getpid(), signal.SIGTERM)  # the worker's own way to an orderly end

    app.timer(interval=interval_s)(write_features)
    app.task(end_when_done)
    return app


def main() -> None:
    """Runs the peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kafka", required=True, help="bootstrap servers, comma-separated")
    parser.add_argument("--topic-prefix", required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the Delta table, which must not exist")
    parser.add_argument("--interval", type=float, default=10.0, help="seconds between commits")
    arguments = parser.parse_args()
    topics = [topic_of(arguments.topic_prefix, t.name) for t in (SKUS, ACCOUNTS, INVOICES, INVOICE_LINE_ITEMS)]
    places = watermarks(KafkaConfig(arguments.kafka), topics)
    run = Run(sum(end - start for start, end in places.values()), arguments.out)
    with tempfile.TemporaryDirectory(prefix="trs-bench-faust-") as folder:
        app = build_app(
            arguments.kafka, arguments.topic_prefix, run, interval_s=arguments.interval, folder=Path(folder)
        )
        try:
            # Its spinner goes to stderr: stdout is for the result.
            faust.Worker(app, loglevel="WARNING", redirect_stdouts=False, stdout=sys.stderr).execute_from_commandline()
        except SystemExit as end:
            if not run.done.is_set():
                raise SystemExit(end.code or "the worker ended before all events were there") from None
    print(json.dumps(run.result()))


if __name__ == "__main__":
    main()
