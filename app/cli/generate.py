"""Commands of the group `generate`."""

import typer


def register(app: typer.Typer) -> None:
    """Adds the commands."""
