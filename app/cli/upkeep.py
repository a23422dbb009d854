"""Commands of the group `trs lake`: upkeep of the lake's tables."""

import json

import typer


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    lake = typer.Typer(help="Upkeep of the lake's tables.", epilog="Example: trs lake fold", no_args_is_help=True)
    app.add_typer(lake, name="lake")

    @lake.callback()
    def group() -> None:
        """Upkeep of the lake's tables."""

    @lake.command(epilog="Example: trs lake fold --min-rows 100000")
    def fold(
        min_rows: int = typer.Option(1, min=0, help="Leave alone tables with fewer new rows than this."),
        as_json: bool = typer.Option(False, "--json", help="Print the outcome as JSON."),
    ) -> None:
        """Fold the logs: merge what is new into the folded tables, so that queries and recovery read less."""
        from app.settings import load_settings
        from app.wiring import lake_location
        from connectors.delta_lake import DeltaLake
        from connectors.fold import fold_all
        from processors.state import open_state

        settings = load_settings()
        store = DeltaLake(lake_location(settings))
        con = open_state(spill=settings.home / "spill", memory_mb=settings.memory_mb, threads=settings.threads)
        store.prepare(con)
        done = fold_all(store, con, settings.partitions, min_rows=min_rows)
        con.close()
        if as_json:
            typer.echo(json.dumps([vars(d) for d in done]))
            return
        for each in done:
            outcome = f"{each.tail_rows} new rows, {each.rows} rows now" if each.committed else "another fold was first"
            typer.echo(f"{each.table}: {outcome}")
        if not done:
            typer.echo("nothing to fold")
