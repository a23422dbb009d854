"""Whether the rows of a source can take their place in the lake's order (R2), asked before anything is sent."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from batch_bootstrap.source import BinlogPosition, Source
from processors.errors import CdcOpenError, SourceError
from processors.order import RowOrder, file_number

NewestOrder = Callable[[], int]
"""The greatest order of any row in the lake's logs, packed; -1 in an empty lake."""
_FIRST_WITH_POSITION = RowOrder(1, 0, 0, 0).packed()


@runtime_checkable
class Positioned(Protocol):
    """A source that tells where its binlog ends."""

    def position(self) -> BinlogPosition | None:
        """The end of the binlog now, None without one."""


def order_at(position: BinlogPosition, source_epoch: int) -> int:
    """The order of rows that were read there."""
    return RowOrder(source_epoch, file_number(position.file), position.pos, 0).packed()


def check_order(source: Source, newest_order: NewestOrder) -> None:
    """Raises CdcOpenError for a source without binlog positions after those of another."""
    if not source.has_binlog and newest_order() >= _FIRST_WITH_POSITION:
        raise CdcOpenError(
            f"{source.description} has no binlog positions, but the lake already holds rows that have",
            hint="its rows would all be older; use --source mysql://… instead",
        )


def check_position(source: Source, source_epoch: int, newest_order: NewestOrder) -> None:
    """Raises SourceError for a source whose binlog ends before rows of the lake: its own would lose, unseen."""
    position = source.position() if source.has_binlog and isinstance(source, Positioned) else None
    if position is not None and newest_order() > order_at(position, source_epoch):
        raise set_back(source, position, "rows")


def set_back(source: Source, position: BinlogPosition, rows: str) -> SourceError:
    """The error of a source that has not written yet what the lake holds."""
    return SourceError(
        f"{source.description}: its binlog stands at {position.file}:{position.pos}, but the lake holds {rows} of a"
        " later place: it is another server, or was restored or reset",
        hint="add a new name at the end of TRS_SOURCE_NAMES, then its rows count as newer",
    )
