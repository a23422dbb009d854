"""`make soak MINUTES=n`, that is `python -m tests.soak [--minutes N] [--rate N] [--invoices N] [--folder F] [--keep]`.

Two workers under a steady load on a stack of their own: row changes with back-dated ones among them, records that
nobody can read, upkeep and folds, and in the middle a lag peak: both stand still while every row is sent again. Samples
are taken all the time; after the warm-up each measure must stay flat within its bound. In the end the lake must be
sound and equal to the source. Writes build/bench/soak.json.
"""

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.report import Row, number, publish
from devstack.ending import end_in_order
from tests.long_run import conclude
from tests.soak.run import Outcome, Soak


def main() -> int:
    """Returns 0 when all stayed flat and the lake is right; else the folder is kept and named."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.partition("\n\n")[2])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=20.0, help="changes at the source per second")
    parser.add_argument("--invoices", type=int, default=20_000, help="of the state that the changes meet")
    parser.add_argument("--seed", type=int, default=1, help="draws the data and the changes")
    parser.add_argument("--folder", type=Path, default=Path(".trs/soak"), help="where state and logs live")
    parser.add_argument("--json", type=Path, default=None, help="file of the result; default build/bench/soak.json")
    parser.add_argument("--keep", action="store_true", help="keep them although all went well")
    options = parser.parse_args()
    end_in_order()
    folder = (options.folder / time.strftime("%Y%m%d-%H%M%S")).absolute()
    console = Console(highlight=False, soft_wrap=True, width=140)
    soak = Soak(
        folder,
        minutes=options.minutes,
        rate=options.rate,
        invoices=options.invoices,
        seed=options.seed,
        tell=console.print,
    )
    outcome = soak.run()
    rows = [Row(f"{t.measure}, mean", t.mean, t.unit) for t in outcome.trends]
    rows += [Row(name, value, "") for name, value in outcome.facts.items()]
    publish("soak", rows, {"minutes": options.minutes, **_details(outcome)}, file=options.json, console=console)
    _print(console, outcome)
    return conclude(console, outcome.problems, folder, good="nothing grows, and the lake is right", keep=options.keep)


def _details(outcome: Outcome) -> dict[str, object]:
    return {
        "trends": [{**asdict(t), "flat": t.flat} for t in outcome.trends],
        "lake_rows": outcome.rows,
        "problems": outcome.problems,
        "samples": {name: asdict(series) for name, series in outcome.samples.items()},
    }


def _print(console: Console, outcome: Outcome) -> None:
    table = Table(box=None)
    for heading in ("measure", "unit", "mean", "least", "most", "per hour", "rise", "allowed", "step", "allowed", ""):
        table.add_column(heading, no_wrap=True, overflow="fold")
    for t in outcome.trends:
        figures = (
            round(f, 1) for f in (t.mean, t.least, t.most, t.per_hour, t.rise, t.allowed, t.step, t.allowed_step)
        )
        table.add_row(t.measure, t.unit, *map(number, figures), "" if t.flat else "GROWS")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
