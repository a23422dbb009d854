"""Recovery: how long a worker needs to have its state back from the lake, and how much memory it holds then.

    python -m benchmarks.recovery [--invoices N] [--lake FOLDER] [--json FILE]

A synthetic TRS (about five lines per invoice) is put into a lake in a local folder by the stages themselves, without
Kafka, and folded. Then a process of its own opens all buckets of all stages, as a worker does at its start: seconds
from the first look at the lake to the last stage, the process's peak memory, and what lies on disk then because
`--memory-mb` is not enough. `--lake` keeps the lake for another run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.filled_lake import BUCKETS, Discard, fill, open_stages
from benchmarks.report import Row, publish
from benchmarks.usage import peak_rss_mb, rss_mb
from connectors.delta_lake import DeltaLake
from connectors.lake import LakeLocation
from processors.engine import COMPRESS_ABOVE_PERCENT
from processors.state import compress


def main() -> None:
    """Fills a lake unless there is one, then measures a recovery in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--invoices", type=int, default=2_250_000, help="about 4.5 lines each")
    parser.add_argument("--lake", type=Path, default=None, help="keep the lake here, and use it if it is there")
    parser.add_argument("--memory-mb", type=int, default=2000, help="as TRS_MEMORY_MB")
    parser.add_argument("--json", type=Path, default=None, help="file of the result; default build/bench/recovery.json")
    parser.add_argument("--recover", type=Path, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.recover is not None:
        print(json.dumps(recover(arguments.recover, arguments.memory_mb)))
        return
    with tempfile.TemporaryDirectory(prefix="trs-bench-") as folder:
        lake = arguments.lake or Path(folder) / "lake"
        if not lake.exists():
            fill(DeltaLake(LakeLocation(str(lake))), arguments.invoices)
        command = [sys.executable, "-m", "benchmarks.recovery", "--recover", str(lake)]
        output = subprocess.run(
            [*command, "--memory-mb", str(arguments.memory_mb)], check=True, stdout=subprocess.PIPE
        ).stdout
    found = json.loads(output)
    rows = [
        Row("recovery", found["seconds"], "s"),
        Row("invoices", found["invoices"], "rows"),
        Row("lines", found["lines"], "rows"),
        Row("memory afterwards", found["rss_mb"], "MB"),
        Row("peak memory", found["peak_rss_mb"], "MB"),
        Row("spilled to disk", found["spilled_mb"], "MB"),
    ]
    publish("recovery", rows, {"memory_mb": arguments.memory_mb, **found}, file=arguments.json)


def recover(lake: Path, memory_mb: int) -> dict[str, float]:
    """Opens every bucket of every stage; seconds, rows and peak memory."""
    with tempfile.TemporaryDirectory(prefix="trs-bench-spill-") as spill:
        started = time.perf_counter()
        stages = open_stages(DeltaLake(LakeLocation(str(lake))), Path(spill), memory_mb, Discard())
        per_stage = {}
        for stage in stages:
            began = time.perf_counter()
            stage.assign(frozenset(range(BUCKETS)))
            per_stage[f"{stage.name}_s"] = round(time.perf_counter() - began, 2)
            compress(stage.con, beyond_mb=memory_mb * COMPRESS_ABOVE_PERCENT // 100)
        seconds = time.perf_counter() - started
        con = stages[1].con
        counts = {
            name: int(con.sql(f"SELECT count(*) FROM {table}").fetchall()[0][0])
            for name, table in (("invoices", "invoice_state"), ("lines", "line_state"))
        }
        spilled_mb = sum(f.stat().st_size for f in Path(spill).rglob("*") if f.is_file()) / 1e6
        memory = {"rss_mb": rss_mb(), "peak_rss_mb": peak_rss_mb(), "spilled_mb": spilled_mb}
        return {"seconds": seconds, **per_stage, **counts, **memory}


if __name__ == "__main__":
    main()
