"""Commands of the group `etl`."""

import typer


def register(app: typer.Typer) -> None:
    """Adds the commands."""
