"""Command `trs demo`."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog="Example: trs demo --invoices 20000 --keep")(demo)


def demo(
    invoices: Annotated[int, typer.Option(min=10, help="Size of the synthetic TRS.")] = 5_000,
    seed: Annotated[int, typer.Option(help="The same seed makes the same TRS.")] = 7,
    home: Annotated[Path, typer.Option(help="Folder of the demo's own stack; it is wiped.")] = Path(".demo"),
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running afterwards.")] = False,
) -> None:
    """Show the main job: database → Kafka → worker → features in Delta, as of before and after some changes."""
    from app.demo import Demo

    Demo(home.absolute(), invoices=invoices, seed=seed).run(keep=keep)
