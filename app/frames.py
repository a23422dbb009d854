"""Frames of notebooks: Arrow, polars and pandas, of which the last two are extras."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Literal

import pyarrow as pa

from processors.errors import UsageError

Kind = Literal["arrow", "polars", "pandas"]
_ABOUT = (b"read_at", b"complete_through")
"""Metadata of answers that pandas keeps as well."""


def kind_of(frame: object) -> Kind:
    """What a frame is; everything that is neither polars' nor pandas' is taken for Arrow's."""
    package = type(frame).__module__.partition(".")[0]
    return package if package in ("polars", "pandas") else "arrow"  # type: ignore[return-value]


def column_names(frame: Any, what: str) -> list[str]:
    """The frame's columns. Raises UsageError for what is not a frame; `what` names it there."""
    if kind_of(frame) != "arrow" and type(frame).__name__ == "DataFrame":
        return list(frame.columns)
    return list(to_arrow(frame, what).column_names)


def to_arrow(frame: Any, what: str, only: Sequence[str] | None = None) -> pa.Table:
    """A frame, or `only` these columns of it, as an Arrow table: Arrow's, polars', pandas', or anything else with
    Arrow's stream interface.

    The index of a pandas frame is left out. Raises UsageError for what is not a frame, and for columns of pandas that
    Arrow has no type for; `what` names the frame there.
    """
    kind, is_frame = kind_of(frame), type(frame).__name__ == "DataFrame"
    if kind == "pandas" and is_frame:
        try:
            return pa.Table.from_pandas(frame if only is None else frame[list(only)], preserve_index=False)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise UsageError(
                f"{what}: {' '.join(map(str, error.args))}", hint="give its columns one type each"
            ) from None
    if isinstance(frame, pa.Table):
        return frame if only is None else frame.select(list(only))
    if hasattr(frame, "__arrow_c_stream__") and (kind == "arrow" or is_frame):
        try:
            return to_arrow(pa.table(frame), what, only)
        except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, ValueError):
            pass  # a stream of something else than rows, such as a single column
    raise UsageError(
        f"{what}: a {type(frame).__name__} is not a frame", hint="give an Arrow table, a polars or a pandas DataFrame"
    )


def from_arrow(table: pa.Table, to: str) -> Any:
    """The table as `to` says. Raises UsageError for another word, and where the package is not installed.

    In pandas decimals stay exact (objects), and integers are pandas' nullable ones, whether nulls are there or not.
    """
    if to == "arrow":
        return table
    if to == "polars":
        return _package("polars").from_arrow(table)
    if to == "pandas":
        pandas = _package("pandas")
        nullable = {pa.int64(): pandas.Int64Dtype(), pa.int32(): pandas.Int32Dtype()}
        frame = table.to_pandas(types_mapper=nullable.get)
        frame.attrs.update({k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items() if k in _ABOUT})
        return frame
    raise UsageError(f"to={to!r} is not known", hint="arrow, polars or pandas")


def check_kind(to: str) -> None:
    """Raises the errors of `from_arrow` before any work."""
    from_arrow(pa.table({}), to)


def with_columns(frame: Any, added: pa.Table) -> Any:
    """The frame as it is, with these columns after its own."""
    kind = kind_of(frame)
    columns = from_arrow(added, kind)
    if kind == "polars":
        return frame.hstack(columns)
    if kind == "pandas":
        return _package("pandas").concat([frame, columns.set_axis(frame.index, axis=0)], axis=1)
    table = to_arrow(frame, "frame")
    for name in added.column_names:
        table = table.append_column(added.schema.field(name), added[name])
    return table


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise UsageError(f"{name} is not installed", hint="pip install 'trs-stream[notebooks]'") from None
