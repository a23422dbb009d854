"""The tables of a lake as their logs show them, again and again: after the first look only new commits are read."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from deltalake import DeltaTable

from connectors.delta_lake import log_rows_folded
from connectors.lake import LakeStore, wrapped_errors
from connectors.object_files import active_files
from processors.lake_tables import KEYED_TABLES, LAKE_TABLES

_SIDE_BY_SIDE = 4
_LOG_OF = {keyed.folded: keyed.log for keyed in KEYED_TABLES}


@dataclass(frozen=True)
class TableLook:
    """One table now. Of a folded table `fold_debt`: rows of its log that it has not taken in."""

    name: str
    version: int
    rows: int
    files: int
    size_bytes: int
    fold_debt: int | None = None


class TableLooks:
    """Looks at every declared table that there is. One request per table and look, more where something was committed.

    Used by one thread at a time. Raises TrsError.
    """

    def __init__(self, store: LakeStore) -> None:
        self._store = store
        self._handles: dict[str, DeltaTable] = {}
        self._seen: dict[str, TableLook] = {}
        self._rows_folded: dict[str, int] = {}

    def read(self) -> tuple[TableLook, ...]:
        """In the order in which they are declared."""
        if len(self._handles) < len(LAKE_TABLES):
            self._handles |= {n: self._store.open(n) for n in self._store.present() - self._handles.keys()}
        there = [name for name in LAKE_TABLES if name in self._handles]
        with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
            self._seen = dict(zip(there, pool.map(self._look, there), strict=True))
        return tuple(self._with_debt(look) for look in self._seen.values())

    def _look(self, name: str) -> TableLook:
        handle, seen = self._handles[name], self._seen.get(name)
        with wrapped_errors(f"table {name}"):
            handle.update_incremental()
            if seen is not None and seen.version == handle.version():
                return seen
            if name in _LOG_OF:
                self._rows_folded[name] = log_rows_folded(handle)
            files = active_files(handle)
        rows, size_bytes = (sum(int(f[fact]) for f in files) for fact in ("num_records", "size_bytes"))
        return TableLook(name, handle.version(), rows, len(files), size_bytes)

    def _with_debt(self, look: TableLook) -> TableLook:
        log = self._seen.get(_LOG_OF.get(look.name, ""))
        if log is None:
            return look
        debt = max(0, log.rows - self._rows_folded[look.name])
        return TableLook(look.name, look.version, look.rows, look.files, look.size_bytes, debt)
