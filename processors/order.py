"""The total order of source rows (R1, R2), packed into one number.

`row_order` is DECIMAL(38,0): source_epoch (3 digits) · file (10) · pos (13) · row (10). Printed, its digits still show
the parts. Comparing two packed orders compares the tuples; ties are broken by the Kafka offset, which is kept apart
(offsets of different partitions do not compare).

Sources with a binlog position have source_epoch >= 1: the place of `source.name` in the setting of source names.
Sources without one (CSV, S3 export) are named `BATCH_SOURCE_NAME`, have epoch 0 and the parts (run, chunk, row).
"""

from dataclasses import dataclass

BATCH_SOURCE_NAME = "trs-batch"
ORDER_SQL_TYPE = "DECIMAL(38,0)"

_ROW = 10**10
_POS = 10**13
_FILE = 10**10
_EPOCH = 10**3


@dataclass(frozen=True, order=True)
class RowOrder:
    """One place in the history of all sources; compares as the tuple of its fields."""

    source_epoch: int
    file: int
    pos: int
    row: int

    def packed(self) -> int:
        """The number that the lake stores. Raises ValueError for a part out of its range."""
        for name, value, bound in (
            ("source_epoch", self.source_epoch, _EPOCH),
            ("file", self.file, _FILE),
            ("pos", self.pos, _POS),
            ("row", self.row, _ROW),
        ):
            if not 0 <= value < bound:
                raise ValueError(f"order part {name}={value} is not in [0, {bound})")
        return ((self.source_epoch * _FILE + self.file) * _POS + self.pos) * _ROW + self.row

    @classmethod
    def unpack(cls, packed: int) -> "RowOrder":
        """The parts of a packed order."""
        rest, row = divmod(packed, _ROW)
        rest, pos = divmod(rest, _POS)
        epoch, file = divmod(rest, _FILE)
        return cls(epoch, file, pos, row)


def file_number(file: str) -> int:
    """The number at the end of a binlog file name: `mysql-bin.000002` is 2. Raises ValueError without digits."""
    return int(file.rsplit(".", 1)[-1])


def packed_order_sql(*, epoch: str, file: str, pos: str, row: str) -> str:
    """The packed order as a DuckDB expression over four BIGINT expressions that were checked to be in range."""
    file_scale, epoch_scale = _POS * _ROW, _FILE * _POS * _ROW
    return (
        f"(({epoch})::HUGEINT * {epoch_scale}::HUGEINT + ({file})::HUGEINT * {file_scale}::HUGEINT"
        f" + ({pos})::HUGEINT * {_ROW}::HUGEINT + ({row})::HUGEINT)::{ORDER_SQL_TYPE}"
    )
