"""The checks: declared in TOML, each one SQL query that counts the rows that fail.

A declaration names a table or view of the lake and says what should hold there:

    kind        fields                                  fails
    not_null    columns                                 a row in which one of them is null
    unique      columns                                 a row whose columns another row has as well
    range       column, least and / or most             a row outside; null is inside
    reference   columns, other, other_columns           a row whose columns are all given and are not in `other`
    fresh       column (a time), max_age_s              the newest row, when it is older
    volume      least and / or max_drop_percent         the rows that are missing, against the last run that passed
    sql         sql, also_reads                         every row of the query, which reads `table` and these

`hold_above_percent`: a check in which more of the rows fail holds back the fold of what its table shows.
"""

import tomllib
from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from processors.errors import SettingsError
from processors.lake_tables import LAKE_TABLES, PERSONAL_TABLES
from processors.views.catalog import VIEWS

Bound = int | Decimal | date


class Check(BaseModel):
    """What every check declares; `says` is the promise in words, `table` what it is about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z0-9_.]+$", max_length=100)]
    says: Annotated[str, Field(min_length=1)]
    table: str
    hold_above_percent: Annotated[float, Field(ge=0, le=100)] | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """The tables and views that the query names."""
        return (self.table,)

    @property
    def failing(self) -> str:
        """A query of the rows that fail."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        for name in self.reads:
            _schema(name)
        return self


class NotNull(Check):
    """No row has a null in one of the columns."""

    kind: Literal["not_null"]
    columns: Annotated[tuple[str, ...], Field(min_length=1)]

    @property
    def failing(self) -> str:
        nulls = " OR ".join(f"{c} IS NULL" for c in self.columns)
        return f"SELECT * FROM {self.table} WHERE {nulls}"

    @model_validator(mode="after")
    def _columns_exist(self) -> Self:
        _require(self.table, self.columns)
        return self


class Unique(Check):
    """No two rows have the same columns."""

    kind: Literal["unique"]
    columns: Annotated[tuple[str, ...], Field(min_length=1)]

    @property
    def failing(self) -> str:
        names = ", ".join(self.columns)
        repeated = f"SELECT {names}, count(*) AS rows FROM {self.table} GROUP BY {names} HAVING count(*) > 1"
        return f"SELECT * EXCLUDE (rows), unnest(range(rows - 1)) AS again FROM ({repeated})"

    @model_validator(mode="after")
    def _columns_exist(self) -> Self:
        _require(self.table, self.columns)
        return self


class Range(Check):
    """Every value lies between the bounds, themselves included."""

    kind: Literal["range"]
    column: str
    least: Bound | None = None
    most: Bound | None = None

    @property
    def failing(self) -> str:
        bounds = ((self.least, "<"), (self.most, ">"))
        outside = " OR ".join(f"{self.column} {sign} {_literal(b)}" for b, sign in bounds if b is not None)
        return f"SELECT * FROM {self.table} WHERE {outside}"

    @model_validator(mode="after")
    def _is_bounded(self) -> Self:
        _require(self.table, (self.column,))
        if self.least is None and self.most is None:
            raise ValueError("a range needs `least`, `most` or both")
        return self


class Reference(Check):
    """What the columns name is in the other table."""

    kind: Literal["reference"]
    columns: Annotated[tuple[str, ...], Field(min_length=1)]
    other: str
    other_columns: tuple[str, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.table, self.other)

    @property
    def failing(self) -> str:
        pairs = zip(self.columns, self.other_columns, strict=True)
        match = " AND ".join(f"t.{mine} = o.{its}" for mine, its in pairs)
        given = " AND ".join(f"t.{c} IS NOT NULL" for c in self.columns)
        return f"SELECT t.* FROM {self.table} AS t ANTI JOIN {self.other} AS o ON {match} WHERE {given}"

    @model_validator(mode="after")
    def _columns_exist(self) -> Self:
        _require(self.table, self.columns)
        _require(self.other, self.other_columns)
        if len(self.columns) != len(self.other_columns):
            raise ValueError("`columns` and `other_columns` must be as many")
        return self


class Fresh(Check):
    """The newest row is young enough; an empty table is not judged."""

    kind: Literal["fresh"]
    column: str
    max_age_s: Annotated[float, Field(gt=0)]

    @property
    def failing(self) -> str:
        newest = f"SELECT max({self.column}) AS newest FROM {self.table}"
        return f"SELECT newest FROM ({newest}) WHERE newest < $now - to_microseconds({round(self.max_age_s * 1e6)})"

    @model_validator(mode="after")
    def _is_time(self) -> Self:
        _require(self.table, (self.column,))
        if not pa.types.is_timestamp(_schema(self.table).field(self.column).type):
            raise ValueError(f"{self.table}.{self.column} is not a time")
        return self


class Volume(Check):
    """There are enough rows, in all or against the last run that passed."""

    kind: Literal["volume"]
    least: Annotated[int, Field(ge=0)] = 0
    max_drop_percent: Annotated[float, Field(ge=0, le=100)] | None = None

    @property
    def failing(self) -> str:
        wanted = f"{self.least}"
        if self.max_drop_percent is not None:
            wanted = f"greatest({wanted}, ceil($previous * {(100 - self.max_drop_percent) / 100})::BIGINT)"
        missing = f"greatest(0, {wanted} - (SELECT count(*) FROM {self.table}))"
        return f"SELECT unnest(range({missing})) AS missing"


class Sql(Check):
    """The query has no row."""

    kind: Literal["sql"]
    sql: Annotated[str, Field(min_length=1)]
    also_reads: tuple[str, ...] = ()

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.table, *self.also_reads)

    @property
    def failing(self) -> str:
        return self.sql


AnyCheck = Annotated[NotNull | Unique | Range | Reference | Fresh | Volume | Sql, Field(discriminator="kind")]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    check: tuple[AnyCheck, ...] = ()
    replace: tuple[str, ...] = ()
    """Names of shipped checks that are left out."""


def shipped_checks() -> tuple[Check, ...]:
    """The checks of this package."""
    return _parse(
        files("processors.quality").joinpath("shipped.toml").read_text(encoding="utf-8"), "shipped.toml"
    ).check


def load_checks(path: Path | None) -> tuple[Check, ...]:
    """The shipped checks and those of a file, which may leave out some (`replace = ["name"]`).

    Raises SettingsError for a file that cannot be read or declares what cannot be.
    """
    shipped = shipped_checks()
    if path is None:
        return shipped
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"TRS_QUALITY_CHECKS: {path}: {error}") from None
    own = _parse(text, str(path))
    unknown = set(own.replace) - {c.name for c in shipped}
    if unknown:
        raise SettingsError(f"{path}: replace: no shipped check is called {sorted(unknown)[0]}")
    checks = (*(c for c in shipped if c.name not in own.replace), *own.check)
    names = [c.name for c in checks]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise SettingsError(
            f'{path}: two checks are called {twice}; `replace = ["{twice}"]` leaves the shipped one out'
        )
    return checks


def _parse(text: str, where: str) -> _File:
    try:
        return TypeAdapter(_File).validate_python(tomllib.loads(text, parse_float=Decimal))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{where}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"{where}: {place}: {first['msg']}") from None


def _schema(name: str) -> pa.Schema:
    """Columns of a table or view. Raises ValueError for names that are none, or hold personal data."""
    if name in PERSONAL_TABLES:
        raise ValueError(f"{name} holds personal data; checks do not read it")
    found = VIEWS.get(name) or LAKE_TABLES.get(name)
    if found is None:
        raise ValueError(f"the lake has no table or view {name}")
    return found.schema


def _require(table: str, columns: Iterable[str]) -> None:
    schema = _schema(table)
    for column in columns:
        if column not in schema.names:
            raise ValueError(f"{table} has no column {column}")


def _literal(bound: Bound) -> str:
    return f"DATE '{bound.isoformat()}'" if isinstance(bound, date) else str(bound)
