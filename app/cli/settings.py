"""`trs settings`: every setting with its value, origin and meaning."""

import json
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

_MASK = "***"
_UNITS = {"_s": "seconds", "_mb": "MB"}


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(epilog="Example: TRS_PARTITIONS=64 trs settings")(settings)


def settings(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    describe: Annotated[
        bool, typer.Option("--describe", help="Types and defaults instead of values; works with wrong settings too.")
    ] = False,
) -> None:
    """Show every setting: its environment variable, value, origin and meaning. Secrets are masked.

    The environment wins over `.env` in the working directory, that over the running embedded stack, that over the
    default.
    """
    rows = _declared() if describe else _in_force()
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*(c for c in rows[0] if c != "unit"), row_styles=("", "dim"))
    for row in rows:
        table.add_row(*("" if value is None else str(value) for column, value in row.items() if column != "unit"))
    console = Console()
    console.print(table, markup=False) if console.is_terminal else Console(width=200).print(table, markup=False)


def _in_force() -> list[dict[str, Any]]:
    """One row per setting with its value in force."""
    from app.settings import Settings, load_settings, origins, variable

    loaded = load_settings()
    where = origins(loaded)
    return [
        {
            "variable": variable(name),
            "value": masked(name, loaded.lake_uri if name == "lake" else getattr(loaded, name)),
            "origin": where[name].name,
            "unit": _unit(name),
            "meaning": field.description,
        }
        for name, field in Settings.model_fields.items()
    ]


def _declared() -> list[dict[str, Any]]:
    """One row per setting with its type and default."""
    from app.settings import Settings, variable

    return [
        {
            "variable": variable(name),
            "type": _type(field),
            "default": masked(name, field.get_default(call_default_factory=True, validated_data={})),
            "unit": _unit(name),
            "meaning": field.description,
        }
        for name, field in Settings.model_fields.items()
    ]


def masked(name: str, value: Any) -> str | int | float | None:
    """The value for people and JSON; of a secret nothing is left, of a URL all but the password."""
    from pydantic import SecretStr

    if isinstance(value, SecretStr):
        text = value.get_secret_value()
        if name in ("database", "connect") and "://" in text:
            return re.sub(r"(?<=://)([^:/@]*):.*@", rf"\1:{_MASK}@", text, flags=re.DOTALL)
        return _MASK
    if isinstance(value, tuple):
        return ",".join(value)
    return value if value is None or isinstance(value, int | float) else str(value)


def _unit(name: str) -> str | None:
    return next((unit for suffix, unit in _UNITS.items() if name.endswith(suffix)), None)


def _type(field: "FieldInfo") -> str:
    kind = field.annotation
    options = [a for a in get_args(kind) if a is not type(None)]
    if get_origin(kind) is Literal:
        return " | ".join(map(str, options))
    if get_origin(kind) is tuple:
        return "comma-separated text"
    single = options[0] if options else kind
    names = {"str": "text", "SecretStr": "secret text", "int": "whole number", "float": "number", "Path": "path"}
    name = getattr(single, "__name__", str(single))
    return names.get(name, name)
