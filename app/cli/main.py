"""The `trs` command: assembles the groups of commands and turns our errors into one line and an exit code."""

import importlib
import sys

import typer
from rich.console import Console
from rich.markup import escape
from typer._click.exceptions import ClickException, NoArgsIsHelpError

from app.faults import known_fault
from processors.errors import TrsError, UsageError
from trs import __version__

_GROUPS = (
    "settings",
    "doctor",
    "devstack",
    "generate",
    "bootstrap",
    "connector",
    "cutover",
    "dms",
    "worker",
    "etl",
    "features",
    "lake",
    "reconcile",
    "upkeep",
    "quality",
    "retention",
    "capacity",
    "forget",
    "maintain",
    "repair",
    "catalogue",
    "dead_letters",
    "demo",
)
"""Modules of app.cli; each has `register(app)`."""


def build() -> typer.Typer:
    """The command line with all groups."""
    app = typer.Typer(
        name="trs",
        help="Row changes of the TRS point-of-sale database, through Kafka, into feature tables in Delta Lake.",
        epilog="Example: trs devstack up && trs demo. Each command's own help has one too.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(invoke_without_command=True)
    def version(
        show: bool = typer.Option(False, "--version", help="Show the version and exit."),
    ) -> None:
        if show:
            typer.echo(f"trs-stream {__version__}")
            raise typer.Exit

    for group in _GROUPS:
        importlib.import_module(f"app.cli.{group}").register(app)
    return app


def main() -> None:
    """Entry point of the `trs` script."""
    try:
        code = build()(prog_name="trs", standalone_mode=False)
    except NoArgsIsHelpError:
        sys.exit(2)  # the help was printed
    except ClickException as error:
        fail(_wrong_argument(error))
    except TrsError as error:
        fail(error)
    except Exception as error:
        fault = known_fault(error)
        if fault is None:
            raise
        fail(fault)
    else:
        sys.exit(code)


def _wrong_argument(error: ClickException) -> UsageError:
    """The parser's complaint as one line that names the command's help."""
    context: typer.Context | None = getattr(error, "ctx", None)
    command = "trs" if context is None else context.command_path
    said = " ".join(error.format_message().split()).rstrip(".").replace("Value error, ", "")
    return UsageError(said, hint=f"see {command} --help")


def fail(error: TrsError) -> None:
    """Prints the error as one line on stderr and leaves with its exit code."""
    Console(stderr=True, soft_wrap=True).print(f"[red]error:[/red] {escape(str(error))}", highlight=False)
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
