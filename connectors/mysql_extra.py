"""Undeclared columns of a database's rows, as change data capture would send them.

A snapshot of ours must not say less of a row than the stream, nor say it otherwise: the later of the two counts.

| type                       | in `extra`                                                   |
| ---                        | ---                                                          |
| whole numbers, YEAR        | number                                                       |
| DECIMAL                    | text                                                         |
| FLOAT, DOUBLE              | number                                                       |
| DATE                       | days since 1970                                              |
| DATETIME, TIME             | milliseconds since 1970, of the day                          |
| TIMESTAMP                  | ISO 8601 in UTC                                              |
| BINARY, VARBINARY, BLOBs   | base64                                                       |
| BIT(1)                     | true or false                                                |
| text, ENUM, SET, JSON      | text                                                         |
| anything else              | left out, with a notice; the stream keeps it                 |
"""

from collections.abc import Mapping
from dataclasses import dataclass

_WHOLE = frozenset({"tinyint", "smallint", "mediumint", "int", "bigint", "year"})
_TEXTS = frozenset({"char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set", "json", "decimal"})
_BYTES = frozenset({"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"})
_SECONDS_OF_DAY = "TIME_TO_SEC({0}) * 1000 + MICROSECOND({0}) DIV 1000"


@dataclass(frozen=True)
class UndeclaredColumn:
    """A column of the database that is not declared; `column_type` is its whole type, as `bit(1)`."""

    name: str
    data_type: str
    column_type: str

    @property
    def value_sql(self) -> str | None:
        """Its value as an argument of JSON_OBJECT; None where it is left out."""
        quoted = "`" + self.name.replace("`", "``") + "`"
        if self.data_type in _WHOLE:
            return f"CAST({quoted} AS SIGNED)"
        if self.data_type in _TEXTS:
            return f"CAST({quoted} AS CHAR)"
        if self.data_type in _BYTES:
            return f"REPLACE(TO_BASE64({quoted}), CHAR(10), '')"
        if self.column_type == "bit(1)":
            return f"IF({quoted} IS NULL, NULL, JSON_EXTRACT(IF({quoted}, 'true', 'false'), '$'))"
        found: Mapping[str, str] = {
            "float": quoted,
            "double": quoted,
            "date": f"TO_DAYS({quoted}) - TO_DAYS('1970-01-01')",
            "datetime": f"TIMESTAMPDIFF(MICROSECOND, '1970-01-01', {quoted}) DIV 1000",
            "time": _SECONDS_OF_DAY.format(quoted),
            "timestamp": f"CONCAT(REPLACE(CAST({quoted} AS CHAR), ' ', 'T'), 'Z')",
        }
        return found.get(self.data_type)


def extra_sql(columns: tuple[UndeclaredColumn, ...]) -> str | None:
    """A JSON object of the columns, as text; None where there is nothing to say."""
    fields = [(column.name.replace("'", "''").replace("\\", "\\\\"), column.value_sql) for column in columns]
    said = [f"'{name}', {value}" for name, value in fields if value is not None]
    return f"CAST(JSON_OBJECT({', '.join(said)}) AS CHAR)" if said else None
