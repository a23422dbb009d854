"""How far a stage is with loading its state, for people who wait for it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import duckdb

from processors.ports import KeyedFiles, LoadProgress, LoadStep

Pass = tuple[KeyedFiles, str]
"""A query that inserts states, and the keyed table all rows of which it reads."""


class Loading:
    """The loads of one stage, one at a time. Written by the thread that loads, looked at by any other.

    The share counts rows by what Delta's log says of the tables, once per pass; DuckDB tells how far a pass is.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, stage: str) -> None:
        self._con = con
        self._stage = stage
        self._buckets = 0
        self._step: LoadStep | None = None
        self._began_s = 0.0
        self._sizes = (0, 0)
        self._passes = (0, 0, 0)
        """Rows of all passes, of those that are done, of the one that runs."""
        self.rows = 0
        """States that were loaded since this was set to 0."""

    @contextmanager
    def of(self, buckets: int) -> Iterator[None]:
        """A load lasts as long as the block."""
        self._buckets, self._began_s = buckets, time.monotonic()
        self._sizes, self._passes = (0, 0), (0, 0, 0)
        self._step = "opening tables"
        try:
            yield
        finally:
            self._step = None

    def run(self, passes: Sequence[Pass]) -> None:
        """Runs the passes in order; what comes after them is deriving."""
        tables = {id(files): files for files, _ in passes}.values()
        self._sizes = sum(t.folded_rows for t in tables), sum(t.log_rows for t in tables)
        total = sum(files.folded_rows + files.log_rows for files, _ in passes)
        done = 0
        self._step = "reading rows"
        self._con.execute("SET enable_progress_bar_print = false")
        self._con.execute("SET enable_progress_bar = true")
        for files, query in passes:
            rows = files.folded_rows + files.log_rows
            self._passes = (total, done, rows)
            inserted = self._con.execute(query).fetchone()
            self.rows += 0 if inserted is None else int(inserted[0])
            done += rows
        self._passes = (total, done, 0)
        self._con.execute("RESET enable_progress_bar")
        self._step = "deriving"

    def look(self) -> LoadProgress | None:
        """How far the load is; None when there is none. From any thread."""
        step = self._step
        if step is None:
            return None
        total, done, running = self._passes
        if running:
            done += int(running * max(0.0, self._con.query_progress()) / 100)
        share = min(1.0, done / total) if total else 0.0
        return LoadProgress(
            self._stage,
            self._buckets,
            step,
            *self._sizes,
            share=1.0 if step == "deriving" else share,
            seconds=time.monotonic() - self._began_s,
        )
