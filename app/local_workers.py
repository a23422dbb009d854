"""The workers of this TRS_HOME that run, by what their pages say."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from app.settings import lives

_TIMEOUT_S = 2.0
SILENT = "does not answer"


@dataclass(frozen=True)
class WorkerStatus:
    """A worker on this machine. `phase`: as its pages tell it, or that they do not answer.

    `buckets`: None while it has none for certain. `loading`: the fields of `LoadProgress`, None unless it loads state.
    `upkeep_failure`: why its last round of upkeep failed, None if it did not.
    """

    pid: int
    phase: str
    buckets: tuple[int, ...] | None = None
    loading: Mapping[str, Any] | None = None
    upkeep_failure: str | None = None

    def __str__(self) -> str:
        failed = "" if self.upkeep_failure is None else f", upkeep failed: {self.upkeep_failure}"
        return self._doing() + failed

    def _doing(self) -> str:
        told = f"worker {self.pid}: {self.phase}"
        if self.loading is not None:
            rows = self.loading["folded_rows"] + self.loading["log_rows"]
            return (
                f"{told}, stage {self.loading['stage']}, {self.loading['step']},"
                f" {self.loading['share']:.0%} of {rows:,} rows in {self.loading['seconds']:.0f} s"
            )
        return told if self.buckets is None else f"{told}, {len(self.buckets)} buckets"


def local_workers(home: Path) -> tuple[WorkerStatus, ...]:
    """Asks the workers that keep their local state in this folder; a silent one costs two seconds."""
    found = (_ask(file) for file in sorted(home.glob("worker-*.json")))
    return tuple(worker for worker in found if worker is not None)


def _ask(file: Path) -> WorkerStatus | None:
    """None: it has ended, whether it could remove its file or not."""
    try:
        address = json.loads(file.read_text(encoding="utf-8"))
        pid, host, port = int(address["pid"]), str(address["host"]), int(address["port"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not lives(pid):
        return None
    connection = HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/status.json")
        told = json.loads(connection.getresponse().read())
        if told["pid"] != pid:
            return None
        buckets = told["buckets"]
        found = None if buckets is None else tuple(buckets)
        return WorkerStatus(pid, told["phase"], found, told["loading"], told["upkeep"].get("failure"))
    except (OSError, HTTPException, ValueError, KeyError, TypeError):
        return WorkerStatus(pid, SILENT)
    finally:
        connection.close()
