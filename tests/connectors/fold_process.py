"""A fold in a process of its own: its peak memory, and its death in the middle.

python -m tests.connectors.fold_process LAKE BUCKETS MEMORY_MB [DIE_IN]

Prints the peak in MB as JSON. DIE_IN: the process ends without a goodbye amid the rows of its so-many-th bucket.
"""

import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from connectors import fold as folding
from connectors.delta_lake import DeltaLake
from connectors.lake import LakeLocation
from processors.fold import all_that_waits
from processors.lake_tables import INVOICES_KEYED
from processors.state import open_state


def peak_mb() -> float:
    """The process's peak; getrusage would tell the parent's, from before the exec."""
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def die_in(bucket: int) -> None:
    """Ends this process before the second batch of the so-many-th bucket is handed to Delta."""
    usual, streams = folding._Stream._batches, itertools.count(1)

    def mortal(*arguments: Any) -> Iterator[pa.RecordBatch]:
        fatal = next(streams) == bucket
        for place, batch in enumerate(usual(*arguments)):
            if fatal and place == 1:
                os._exit(9)
            yield batch

    folding._Stream._batches = mortal  # type: ignore[method-assign]


def main(lake_uri: str, buckets: str, memory_mb: str, die_in_bucket: str = "") -> None:
    """Folds invoice_log."""
    if die_in_bucket:
        die_in(int(die_in_bucket))
    lake = DeltaLake(LakeLocation(lake_uri))
    with TemporaryDirectory() as spill:
        con = open_state(spill=Path(spill), memory_mb=int(memory_mb), threads=1)
        lake.prepare(con)
        done = folding.fold(lake, con, INVOICES_KEYED, int(buckets), all_that_waits())
        sys.stdout.write(json.dumps({"peak_mb": peak_mb(), "rows": done.rows if done else 0}))
        con.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
