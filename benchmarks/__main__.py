"""`make bench` and `make bench-long`: all benchmarks, one after another, on an embedded stack of their own.

    python -m benchmarks [--long] [--only NAME ...] [--list]

Each writes build/bench/NAME.json. What one benchmark alone can be told is in `python -m benchmarks.NAME --help`.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from devstack.ending import end_in_order
from devstack.stack import Stack

SHORT = {
    "decode": [],
    "catch_up": ["--peers", "faust"],
    "freshness": ["--seconds", "30"],
    "epochs": ["--invoices", "22500", "225000", "--s3"],
    "workers": ["--workers", "1", "2", "4", "--rounds", "1"],
    "commits": ["--writers", "1", "4", "16", "--seconds", "0"],
    "diff": ["--invoices", "110000"],
}
LONG = {
    "decode": [],
    "catch_up": ["--peers", "faust", "spark", "--invoices", "400000", "--repeat", "1"],
    "freshness": ["--seconds", "300"],
    "epochs": ["--invoices", "22500", "225000", "2250000", "--s3"],
    "workers": ["--workers", "1", "2", "4", "8", "--invoices", "400000"],
    "commits": ["--writers", "1", "2", "4", "8", "16", "32", "64"],
    "recovery": ["--invoices", "2250000"],
    "upkeep": ["--invoices", "225000", "--epochs", "240"],
    "diff": ["--invoices", "2250000"],
    "training_set": [],
}
PRODUCTION = {"TRS_EPOCH_INTERVAL_S": "10"}
"""The catch-up is measured with production's interval, not with the demo's."""


def main() -> None:
    """Starts a stack, runs the benchmarks, ends the stack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", help="larger states, longer runs, and Spark as a peer")
    parser.add_argument("--only", nargs="+", choices=LONG, metavar="NAME", help=f"of {', '.join(LONG)}")
    parser.add_argument("--list", action="store_true", help="print the commands instead of running them")
    arguments = parser.parse_args()
    plan = LONG if arguments.long else SHORT
    plan = {n: LONG[n] if n not in plan else plan[n] for n in arguments.only or plan}
    commands = [[sys.executable, "-m", f"benchmarks.{name}", *options] for name, options in plan.items()]
    if arguments.list:
        print("\n".join(" ".join(["python", *command[1:]]) for command in commands))
        return
    end_in_order()
    with tempfile.TemporaryDirectory(prefix="trs-bench-stack-") as folder:
        stack = Stack(Path(folder))
        try:
            environment = stack.up(report=lambda part, message: print(part, message, file=sys.stderr))
            environment = {**os.environ, **environment, **PRODUCTION, "TRS_HOME": folder}
            failed = [c[2] for c in commands if run(c, environment)]
        finally:
            stack.down(wipe=True)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """The exit code of a benchmark. If this process is told to end, the benchmark ends with all that it started."""
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        return process.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


if __name__ == "__main__":
    main()
