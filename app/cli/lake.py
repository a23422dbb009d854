"""Commands of the group `lake`."""

import typer


def register(app: typer.Typer) -> None:
    """Adds the commands."""
