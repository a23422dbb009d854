"""`trs features`: feature sets as of any time, what changed between two, and the history of one entity."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from datetime import datetime

    from app.lake_session import LakeSession
    from processors.features.as_of import Axis, Engine
    from processors.features.compare import Comparison
    from processors.features.declarations import FeatureSet

group = typer.Typer(
    no_args_is_help=True,
    help="Feature sets as of any point in time, what changed between two, and the history of one entity.",
    epilog="Example: trs features compare 2024-05-01 now",
)

_SET = Annotated[str, typer.Option("--feature-set", help="See `trs features list`.")]
_AXIS = Annotated[
    Literal["known", "valid"],
    typer.Option(help="known: what the lake knew then. valid: what held then at the source, as known today."),
]
_LIMIT = Annotated[int, typer.Option(min=0, help="Rows shown at most.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.add_typer(group, name="features")


@group.command("list", epilog="Example: trs features list --json")
def list_sets(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show the feature sets and their columns."""
    from rich.console import Console
    from rich.table import Table

    from processors.features.declarations import FEATURE_SETS

    if as_json:
        sets = [
            {
                "name": f.name,
                "doc": f.doc,
                "version": f.version,
                "key": list(f.entity_key),
                "columns": [{"name": c.name, "type": c.sql_type, "doc": c.doc} for c in f.columns],
            }
            for f in FEATURE_SETS
        ]
        typer.echo(json.dumps(sets, indent=2))
        return
    console = Console(highlight=False)
    for feature_set in FEATURE_SETS:
        table = Table("column", "type", "meaning", title=f"{feature_set.name} (version {feature_set.version})")
        for column in feature_set.columns:
            table.add_row(column.name, column.sql_type, column.doc)
        console.print(table)
        console.print(feature_set.doc, markup=False)


@group.command(
    "as-of",
    epilog="Example: trs features as-of 2024-05-31T18:00:00Z --out features.csv, or"
    " trs features as-of latest --sql --engine athena",
)
def as_of(
    time: Annotated[
        str,
        typer.Argument(help="ISO-8601, UTC if it has no zone; a day is its first moment; or `now`; or `latest`."),
    ],
    feature_set: _SET = "invoice_features",
    axis: _AXIS = "known",
    out: Annotated[Path | None, typer.Option(help="Write to this .csv or .parquet file.")] = None,
    form: Annotated[
        Literal["table", "csv", "json"], typer.Option("--format", help="How to print, without --out.")
    ] = "table",
    limit: _LIMIT = 50,
    as_sql: Annotated[bool, typer.Option("--sql", help="Print the SQL that asks for it, instead of asking.")] = False,
    engine: Annotated[
        Literal["duckdb", "trino", "athena", "spark"] | None, typer.Option(help="Whose SQL; by default DuckDB's.")
    ] = None,
) -> None:
    """Show a feature set as it was at a point in time, rows by key."""
    from app.lake_session import LakeSession, named_feature_set
    from app.output import check_target, write_query
    from app.printing import message, print_query
    from app.settings import load_settings
    from processors.errors import UsageError
    from processors.features.as_of import format_time

    features = named_feature_set(feature_set)
    if as_sql:
        if out is not None:
            raise UsageError("--sql prints a statement, --out writes rows", hint="leave out one of them")
        typer.echo(_statement(features, time, axis, engine or "duckdb"))
        return
    if engine is not None:
        raise UsageError("--engine says whose SQL --sql prints", hint="add --sql, or leave it out")
    if out is not None:
        check_target(out)
    with LakeSession(load_settings()) as session:
        (moment,) = _times(session, features, axis, "now" if _is_latest(time) else time)
        query = session.as_of(features, None if _is_latest(time) else moment, axis)
        if out is None:
            rows = print_query(session.con, query, form=form, limit=limit)
        else:
            rows = write_query(session.con, query, out)
        first = None if rows else session.first_time(features, axis)
        if first is not None and moment < first:
            message(
                f"nothing was {axis} then: the first row of {features.name} is of {format_time(first)}", warning=True
            )
        message(f"{rows} rows of {features.name} as of {format_time(moment)} ({axis})" + (f": {out}" if out else ""))


@group.command(epilog="Example: trs features history 1042")
def history(
    key: Annotated[list[str], typer.Argument(help="The entity's id; several values where the set's key has several.")],
    feature_set: _SET = "invoice_features",
    out: Annotated[Path | None, typer.Option(help="Write to this .csv or .parquet file.")] = None,
    form: Annotated[
        Literal["table", "csv", "json"], typer.Option("--format", help="How to print, without --out.")
    ] = "table",
    limit: _LIMIT = 50,
) -> None:
    """Show every version of one entity: when each counted, and what it changed.

    known_until, valid_until: empty while the version counts, equal to the beginning if it never did. changed: the
    columns that differ from the version before; empty for the first, a deletion, and the version after one.
    """
    from app.lake_session import LakeSession, named_feature_set
    from app.output import check_target, write_query
    from app.printing import message, print_query
    from app.settings import load_settings
    from processors.features.as_of import format_time

    features = named_feature_set(feature_set)
    if out is not None:
        check_target(out)
    with LakeSession(load_settings()) as session:
        query = session.history(features, tuple(key))
        if out is None:
            rows = print_query(session.con, query, form=form, limit=limit)
        else:
            rows = write_query(session.con, query, out)
        entity = ", ".join(f"{name} {value}" for name, value in zip(features.entity_key, key, strict=True))
        through = session.freshness().watermark
        complete = "" if through is None else f"; the lake is complete through {format_time(through)}"
        message(f"{rows} versions in {features.name} of {entity}{complete}" + (f": {out}" if out else ""))


@group.command(epilog="Example: trs features compare 2024-05-01 2024-06-01")
def compare(
    time1: Annotated[str, typer.Argument(help="The time before: ISO-8601, UTC if it has no zone; or `now`.")],
    time2: Annotated[str, typer.Argument(help="The time after.")],
    feature_set: _SET = "invoice_features",
    axis: _AXIS = "known",
    out: Annotated[Path | None, typer.Option(help="Write the rows that differ to this .csv or .parquet file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    limit: _LIMIT = 10,
) -> None:
    """Show what changed in a feature set from one point in time to another."""
    from app.lake_session import LakeSession, named_feature_set
    from app.output import check_target, write_query
    from app.printing import message, print_comparison
    from app.settings import load_settings
    from processors.features.as_of import format_time

    features = named_feature_set(feature_set)
    if out is not None:
        check_target(out)
    with LakeSession(load_settings()) as session:
        before, after = _times(session, features, axis, time1, time2)
        comparison = session.compare(features, before, after, axis)
        if as_json:
            typer.echo(json.dumps(_as_json(comparison, before, after, axis), indent=2))
        else:
            print_comparison(comparison, before, after, limit=limit)
        message(f"compared as of {format_time(before)} with as of {format_time(after)} ({axis})")
        if out is not None:
            query = f"FROM compared ORDER BY {', '.join(features.entity_key)}"
            message(f"{write_query(session.con, query, out)} rows that differ: {out}")


def _is_latest(time: str) -> bool:
    return time.strip().lower() == "latest"


def _statement(features: "FeatureSet", text: str, axis: "Axis", engine: "Engine") -> str:
    """The statement under a comment that says what it asks; for `now` it is the time of this call."""
    from datetime import UTC, datetime

    from processors.features.as_of import as_of_statement, format_time, parse_time

    time = None if _is_latest(text) else parse_time(text, now=datetime.now(UTC))
    asked = "the latest rows" if time is None else f"as of {format_time(time)} ({axis})"
    statement = as_of_statement(features, time=time, axis=axis, engine=engine)
    return f"/* {features.name}, {asked}, for {engine} */\n{statement};"


def _times(session: "LakeSession", features: "FeatureSet", axis: "Axis", *texts: str) -> "list[datetime]":
    """The times asked for; warns of those that the lake is not complete for, or does not keep."""
    from app.printing import message
    from processors.features.as_of import parse_time

    times = [parse_time(text, now=session.read_at) for text in texts]
    for warning in session.warnings(features, times, axis):
        message(warning, warning=True)
    return times


def _as_json(comparison: "Comparison", before: "datetime", after: "datetime", axis: str) -> dict[str, object]:
    from app.printing import plain
    from processors.features.as_of import format_time

    return {
        "feature_set": comparison.feature_set.name,
        "time1": format_time(before),
        "time2": format_time(after),
        "axis": axis,
        "entities": {"before": comparison.before, "after": comparison.after},
        "added": comparison.added,
        "removed": comparison.removed,
        "changed": comparison.changed,
        "columns": {
            c.name: {
                "changed": c.changed,
                "sum_before": plain(c.sum_before),
                "sum_after": plain(c.sum_after),
                "mean_before": c.mean_before,
                "mean_after": c.mean_after,
            }
            for c in comparison.columns
        },
    }
