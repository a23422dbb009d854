"""The types of the lake's columns as Hive, Trino and Athena spell them.

A moment is a `timestamp` to Hive's catalogue, which has no other. Trino and Athena read it from Delta as `timestamp(3)
with time zone`, in milliseconds and UTC; views show `timestamp(3)`, see `entry.view_query`.
"""

import pyarrow as pa

from processors.errors import InvariantError


def hive_type(kind: pa.DataType) -> str:
    """As Glue and Athena's CREATE TABLE have it: `array<struct<item_id:string,quantity:bigint>>`."""
    if pa.types.is_list(kind):
        return f"array<{hive_type(kind.value_type)}>"
    if pa.types.is_struct(kind):
        return f"struct<{','.join(f'{field.name}:{hive_type(field.type)}' for field in kind)}>"
    if pa.types.is_timestamp(kind):
        return "timestamp"
    names = {pa.int32(): "int", pa.string(): "string", pa.binary(): "binary"}
    return names.get(kind) or _same_in_both(kind)


def trino_type(kind: pa.DataType, *, zone: bool) -> str:
    """As Trino and Athena have it: `array(row(item_id varchar, quantity bigint))`. `zone`: moments know theirs."""
    if pa.types.is_list(kind):
        return f"array({trino_type(kind.value_type, zone=zone)})"
    if pa.types.is_struct(kind):
        return f"row({', '.join(f'{field.name} {trino_type(field.type, zone=zone)}' for field in kind)})"
    if pa.types.is_timestamp(kind):
        return "timestamp(3) with time zone" if zone else "timestamp(3)"
    names = {pa.int32(): "integer", pa.string(): "varchar", pa.binary(): "varbinary"}
    return names.get(kind) or _same_in_both(kind)


def has_moment(kind: pa.DataType) -> bool:
    """Whether the type is a moment or has one in it."""
    if pa.types.is_list(kind):
        return has_moment(kind.value_type)
    if pa.types.is_struct(kind):
        return any(has_moment(field.type) for field in kind)
    return bool(pa.types.is_timestamp(kind))


def _same_in_both(kind: pa.DataType) -> str:
    if pa.types.is_decimal(kind):
        return f"decimal({kind.precision},{kind.scale})"
    names = {pa.bool_(): "boolean", pa.int64(): "bigint", pa.float64(): "double", pa.date32(): "date"}
    if kind not in names:
        raise InvariantError(f"a column of the lake has type {kind}, which no catalogue entry can show")
    return names[kind]
