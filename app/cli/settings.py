"""Commands of the group `settings`."""

import typer


def register(app: typer.Typer) -> None:
    """Adds the commands."""
