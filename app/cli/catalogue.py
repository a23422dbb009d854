"""`trs lake register` and `trs lake ddl`: the lake in the catalogue of Athena and Trino."""

import json
from dataclasses import asdict
from typing import Annotated, Literal

import typer

from app.cli.upkeep import lake


def register(app: typer.Typer) -> None:
    """Nothing: the commands are a part of the group `lake`."""


@lake.command("register", epilog="Example: trs lake register --create-database --dry-run")
def register_lake(
    create_database: Annotated[
        bool, typer.Option("--create-database", help="Create TRS_GLUE_DATABASE where it is missing.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would change.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Register every table and view of the lake in AWS Glue, with comments, so that Athena and Trino read them.

    Says what it changed; run again, it changes nothing. Run it after an upgrade or a change of schema. Entries that it
    did not make are never touched.
    """
    from app.register import register_lake as run
    from app.settings import load_settings

    settings = load_settings()
    done = run(settings, create_database=create_database, dry_run=dry_run)
    outcome = asdict(done)
    if as_json:
        typer.echo(json.dumps({"database": settings.glue_database, "dry_run": dry_run, **outcome}, indent=2))
        return
    for what in ("created", "changed", "removed"):
        for name in outcome[what]:
            typer.echo(f"{what} {name}")
    counts = ", ".join(f"{len(names)} {what}" for what, names in outcome.items())
    would = "would be " if dry_run else ""
    typer.echo(f"{settings.glue_database}: {would}{counts}")


@lake.command(epilog="Example: trs lake ddl --engine athena --view invoices")
def ddl(
    engine: Annotated[Literal["athena", "trino"], typer.Option(help="Whose statements.")],
    view: Annotated[
        list[str] | None, typer.Option(help="Only this view or table, with all that it reads. May be repeated.")
    ] = None,
    catalog: Annotated[str, typer.Option(help="What Trino calls its catalogue.")] = "awsdatacatalog",
) -> None:
    """Print the statements that register tables and views by hand; needs no access to AWS.

    They name the database of TRS_GLUE_DATABASE and the location of TRS_LAKE. Trino's need
    `delta.register-table-procedure.enabled=true` in the catalogue. What they made, `trs lake register` does not touch.
    """
    from app.register import lake_ddl
    from app.settings import load_settings

    for statement in lake_ddl(load_settings(), engine=engine, names=view or (), catalog=catalog):
        typer.echo(f"{statement};\n")
