"""Commands of the group `bootstrap`."""

import typer


def register(app: typer.Typer) -> None:
    """Adds the commands."""
