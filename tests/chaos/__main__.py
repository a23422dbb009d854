"""`make chaos SEED=n FAULTS=n`, that is `python -m tests.chaos [--seed N] [--faults N] [--folder FOLDER] [--keep]`."""

import argparse
import random
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from devstack.ending import end_in_order
from tests.chaos.run import Outcome, Run
from tests.long_run import conclude


def main() -> int:
    """Returns 0 when the lake was right in the end; else the folder is kept and named."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="draws the faults, the data and the changes; default: a new one")
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--rate", type=float, default=10.0, help="changes at the source per second")
    parser.add_argument("--folder", type=Path, default=Path(".trs/chaos"), help="where state and logs live")
    parser.add_argument("--keep", action="store_true", help="keep them although all went well")
    options = parser.parse_args()
    end_in_order()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    folder = (options.folder / f"seed-{seed}").absolute()
    if folder.exists():
        parser.error(f"{folder} is there already, from a run that failed or still goes on")
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"seed {seed}, {options.faults} faults: make chaos SEED={seed} FAULTS={options.faults}")
    outcome = Run(folder, seed=seed, faults=options.faults, rate=options.rate, tell=console.print).run()
    _print(console, outcome)
    return conclude(console, outcome.problems, folder, good="the lake is right", keep=options.keep)


def _print(console: Console, outcome: Outcome) -> None:
    faults = Table("fault", "times", box=None, header_style="bold")
    for kind, count in sorted(outcome.faults.items()):
        faults.add_row(kind, str(count))
    console.print(faults)
    rows = Table("table", "rows", box=None, header_style="bold")
    for name, count in outcome.rows.items():
        rows.add_row(name, str(count))
    console.print(rows)
    codes = ", ".join(f"{count} x {code}" for code, count in sorted(outcome.codes.items()))
    console.print(f"{outcome.faults.total()} faults in {outcome.seconds:.0f} s, prices at {outcome.price_at}")
    console.print(f"{outcome.changes} changes at the source, {outcome.events} row events")
    console.print(f"{outcome.starts} starts of workers; they ended with code: {codes or 'none'}")
    console.print(f"{outcome.drains} catch-ups until everything was derived")
    console.print(f"{outcome.requests} requests to S3, {outcome.requests_failed} of them failed or delayed on purpose")
    for left_out in outcome.left_out:
        console.print(f"left out: {left_out}")


if __name__ == "__main__":
    sys.exit(main())
