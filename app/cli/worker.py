"""Commands of the group `worker`."""

import typer


def register(app: typer.Typer) -> None:
    """Adds the commands."""
