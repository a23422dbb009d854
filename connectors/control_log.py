"""The control log on Delta: bootstrap runs, truncates, the lake's generation, in one order for all workers."""

import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, QueryBuilder, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from connectors.lake import (
    COMMIT_RETRIES,
    TIME_TRAVEL_DAYS,
    WITHOUT_CLEANUP,
    LakeStore,
    table_properties,
    wrap_error,
    wrapped_errors,
)
from processors.errors import StateUnknownError, UnavailableError
from processors.lake_tables import CONTROL_LOG
from processors.ports import ControlEntry, OpenRun

_CONTROL_APP = "control"


class ControlLog:
    """The control log: few rows, one total order by compare-and-set on its application id."""

    def __init__(self, store: LakeStore) -> None:
        self._store = store
        self._lock = threading.Lock()

    def _append(
        self, kind: str, build: Callable[[list[dict[str, Any]]], dict[str, Any] | None]
    ) -> dict[str, Any] | None:
        """Appends what `build` makes of the entries so far (None: nothing to do), retrying when another was first."""
        with self._lock:
            while True:
                handle = self._store.open(CONTROL_LOG.name)
                entries = _control_rows(handle)
                values = build(entries)
                if values is None:
                    return None
                with wrapped_errors("control_log"):
                    number = (handle.transaction_version(_CONTROL_APP) or 0) + 1
                row = _row(number, kind, values)
                try:
                    write_deltalake(
                        handle,
                        pa.Table.from_pylist([row], schema=CONTROL_LOG.schema),
                        mode="append",
                        commit_properties=CommitProperties(
                            max_commit_retries=COMMIT_RETRIES, app_transactions=[Transaction(_CONTROL_APP, number)]
                        ),
                        post_commithook_properties=WITHOUT_CLEANUP,
                    )
                except CommitFailedError:
                    time.sleep(random.uniform(0.01, 0.2))  # noqa: S311 - jitter, not a secret
                    continue
                except (DeltaError, OSError) as error:
                    raise wrap_error(error, "control_log") from error
                return row

    def entries(self) -> list[ControlEntry]:
        """All entries in order."""
        return _as_entries(_control_rows(self._store.open(CONTROL_LOG.name)))

    def settle(self, kind: str, decide: Callable[[Sequence[ControlEntry]], Mapping[str, Any] | None]) -> None:
        """Appends an entry with the detail that `decide` makes of all entries so far; None: nothing is to be added.

        It is asked again when another writer was first. What it raises is passed on.
        """

        def build(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
            detail = decide(_as_entries(rows))
            return None if detail is None else {"detail": json.dumps(dict(detail))}

        self._append(kind, build)

    def ensure_generation(self) -> str:
        """The lake's generation id (R12), made on the first call."""

        def first(entries: list[dict[str, Any]]) -> dict[str, Any] | None:
            if any(e["kind"] == "generation" for e in entries):
                return None
            return {"detail": json.dumps({"generation": uuid.uuid4().hex})}

        self._append("generation", first)
        return self.generation()

    def generation(self) -> str:
        """The latest generation id."""
        ids = [e.detail["generation"] for e in self.entries() if e.kind == "generation"]
        if not ids:
            raise UnavailableError("the lake has no generation entry", hint="`trs worker` creates the lake")
        return str(ids[-1])

    def note(self, kind: str, detail: Mapping[str, Any]) -> None:
        """Appends an entry, whatever the others say."""
        self._append(kind, lambda _entries: {"detail": json.dumps(dict(detail))})

    def skip_runs(self, count: int, *, after: int = 0) -> None:
        """Makes the next run's number greater by so many than all so far, `after` included: those may be in topics."""

        def beyond(entries: list[dict[str, Any]]) -> dict[str, Any]:
            runs = [e["run"] for e in entries if e["run"] is not None]
            return {"run": max([after, *runs]) + count, "detail": json.dumps({"skipped": True})}

        self._append("run_closed", beyond)

    def begin(self, former: DeltaTable, detail: Mapping[str, Any], *, skipped_runs: int) -> None:
        """Makes the control log of a restored lake: the entries of the former one, a leap of runs, a new generation.

        In one commit: the lake is there with all of it, or not there. Raises RetryableError where there is one.
        """
        rows = _control_rows(former)
        number, run = (max((r[name] or 0 for r in rows), default=0) for name in ("entry", "run"))
        leap = {"run": run + skipped_runs, "detail": json.dumps({"skipped": True})}
        generation = {"detail": json.dumps({**detail, "generation": uuid.uuid4().hex})}
        rows += [_row(number + 1, "run_closed", leap), _row(number + 2, "generation", generation)]
        with wrapped_errors("control_log"):
            write_deltalake(
                self._store.location.table(CONTROL_LOG.name),
                pa.Table.from_pylist(rows, schema=CONTROL_LOG.schema),
                mode="error",
                name=CONTROL_LOG.name,
                description=CONTROL_LOG.doc,
                configuration=dict[str, str | None](table_properties(CONTROL_LOG, TIME_TRAVEL_DAYS)),
                storage_options=dict(self._store.location.storage_options) or None,
                commit_properties=CommitProperties(app_transactions=[Transaction(_CONTROL_APP, number + 2)]),
            )

    def truncate(self, table_name: str, row_order: int, source_ts_ms: int) -> None:
        """Records that rows of a table below an order are gone (R4); a repetition changes nothing."""

        def once(entries: list[dict[str, Any]]) -> dict[str, Any] | None:
            if any(
                e["kind"] == "truncate" and e["table_name"] == table_name and int(e["row_order"]) == row_order
                for e in entries
            ):
                return None
            return {
                "table_name": table_name,
                "row_order": row_order,
                "detail": json.dumps({"source_ts_ms": source_ts_ms}),
            }

        self._append("truncate", once)

    def open_run(self, source_name: str, detail: Mapping[str, Any]) -> int:
        """Registers a bootstrap run (R3) and returns its number, 1 for the first."""

        def next_run(entries: list[dict[str, Any]]) -> dict[str, Any]:
            runs = [e["run"] for e in entries if e["run"] is not None]
            return {"run": max(runs, default=0) + 1, "source_name": source_name, "detail": json.dumps(dict(detail))}

        row = self._append("run_opened", next_run)
        if row is None:
            raise StateUnknownError("a run was not registered")
        return int(row["run"])

    def close_run(self, run: int, detail: Mapping[str, Any]) -> None:
        """Marks a run as ended; a repetition changes nothing."""

        def once(entries: list[dict[str, Any]]) -> dict[str, Any] | None:
            if any(e["kind"] == "run_closed" and e["run"] == run for e in entries):
                return None
            return {"run": run, "detail": json.dumps(dict(detail))}

        self._append("run_closed", once)

    def open_runs(self) -> list[OpenRun]:
        """Runs that were registered and not ended, oldest first."""
        entries = self.entries()
        closed = {e.run for e in entries if e.kind == "run_closed"}
        return [
            OpenRun(run=e.run, source_name=e.source_name or "", detail=e.detail)
            for e in entries
            if e.kind == "run_opened" and e.run is not None and e.run not in closed
        ]


def _row(number: int, kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    now = datetime.now(UTC)
    known = {"entry": number, "kind": kind, "at": now, "known_date": now.date()}
    return dict.fromkeys(CONTROL_LOG.schema.names) | known | dict(values)


def _as_entries(rows: list[dict[str, Any]]) -> list[ControlEntry]:
    return [
        ControlEntry(
            entry=r["entry"],
            kind=r["kind"],
            table_name=r["table_name"],
            row_order=None if r["row_order"] is None else int(r["row_order"]),
            run=r["run"],
            source_name=r["source_name"],
            detail=json.loads(r["detail"]) if r["detail"] else {},
        )
        for r in rows
    ]


def _control_rows(handle: DeltaTable) -> list[dict[str, Any]]:
    """Few rows by nature, so they are read whole, sorted by entry."""
    try:
        builder = QueryBuilder().register("control_log", handle)
        result = builder.execute("SELECT * FROM control_log ORDER BY entry")
        # Read by Arrow: the result's own read_all() keeps Python's lock while the store is waited for.
        table = pa.RecordBatchReader.from_stream(result).read_all()
    except Exception as error:  # a query whose file cannot be read raises no narrower type
        raise wrap_error(error, "control_log") from error
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
