"""What a benchmark found: a table for people, and a JSON file that says on what machine, when and of which commit."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_REPOSITORY = Path(__file__).parent.parent
FOLDER = _REPOSITORY / "build" / "bench"
"""Where results go unless the caller says otherwise; ignored by git."""


def git_commit() -> str | None:
    """The commit of the code, with `-dirty` when files differ from it; None outside a git repository."""
    command = ["git", "-C", str(_REPOSITORY), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


COMMIT = git_commit()
"""Read when the process begins: the files may change while it measures."""


@dataclass(frozen=True)
class Row:
    """One figure. `peer`: the same measure of something else, in the same unit; `ratio`: how many times better ours is.

    `peer_name` says what the peer is; all three are None for a figure without a peer.
    """

    measure: str
    value: float
    unit: str
    peer_name: str | None = None
    peer: float | None = None
    ratio: float | None = None


def machine() -> dict[str, object]:
    """What the figures depend on, and when they were taken."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 2**30, 1),
        "python": platform.python_version(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": COMMIT,
    }


def publish(
    name: str,
    rows: Sequence[Row],
    details: Mapping[str, Any] | None = None,
    *,
    file: Path | None = None,
    console: Console | None = None,
) -> Path:
    """Prints the rows and writes them with `details` to `file`, by default build/bench/NAME.json; returns the file."""
    facts = machine()
    file = file or FOLDER / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    result = {"benchmark": name, **facts, "rows": [asdict(row) for row in rows], **(details or {})}
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")

    table = Table(title=name, title_justify="left")
    for heading in ("measure", "value", "unit", "peer", "ratio"):
        table.add_column(heading, justify="right" if heading in ("value", "ratio") else "left")
    for row in rows:
        peer = "" if row.peer is None else f"{row.peer_name}: {number(row.peer)}"
        ratio = "" if row.ratio is None else f"{row.ratio:.1f}"
        table.add_row(row.measure, number(row.value), row.unit, peer, ratio)
    console = console or Console()
    console.print(table)
    told = f"{facts['machine']}, {facts['cores']} cores, {facts['memory_gb']} GB, Python {facts['python']}"
    console.print(f"{told}, commit {facts['git_commit']}; written to {file}", soft_wrap=True, highlight=False)
    return file


def number(value: float) -> str:
    """Three digits at least, thousands apart: 123,456 and 12.3 and 0.0123."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
