"""`trs dms`: AWS DMS as the source of changes."""

from typing import Annotated

import typer

group = typer.Typer(
    no_args_is_help=True,
    help="AWS DMS in place of Debezium: its records, in topics of its own, become the row events that the worker "
    "reads. `trs connector dms-render` prints how its endpoints and its task are to be set.",
    epilog="Example: trs dms translate",
)


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.add_typer(group, name="dms")


@group.callback()
def _commands() -> None:
    """Keeps `translate` a command of its own while it is the only one."""


@group.command(epilog="Example: trs dms translate --until-caught-up")
def translate(
    until_caught_up: Annotated[
        bool, typer.Option("--until-caught-up", help="End once all that is in DMS's topics now is translated.")
    ] = False,
    instance: Annotated[
        str,
        typer.Option(
            help="Name of this process where several share the partitions. One that is started under the name of "
            "another takes its place."
        ),
    ] = "0",
    accept_gap: Annotated[
        bool, typer.Option("--accept-gap", help="Go on although Kafka deleted records that were not translated.")
    ] = False,
) -> None:
    """Translate the records of AWS DMS to row events, until it is stopped (SIGTERM: finishes its transaction).

    Every record is translated exactly once, counted as ignored, or sent to the dead letters; kill it at any moment and
    start it again. Records of other databases and tables are ignored. The log has the counts and the lag.
    """
    from app.dms import run_translator
    from app.logs import configure_logging
    from app.settings import load_settings
    from app.signals import stop_requests

    settings = load_settings()
    configure_logging(settings)
    with stop_requests() as stop:
        run_translator(
            settings,
            instance=instance,
            until_caught_up=until_caught_up,
            accept_gap=accept_gap,
            stopped=lambda: stop.signal is not None,
        )
