"""Where a worker's pages are, written below TRS_HOME for the commands on this machine."""

import json
import os
from pathlib import Path


class PagesFile:
    """The file of this process; `trs status` and the tests read it."""

    def __init__(self, home: Path) -> None:
        self._file = home / f"worker-{os.getpid()}.json"

    def write(self, host: str, port: int) -> None:
        """Whoever reads meanwhile finds no file, the former one or this one. Raises OSError where it cannot."""
        address = json.dumps({"pid": os.getpid(), "host": host, "port": port})
        self._file.parent.mkdir(parents=True, exist_ok=True)
        being_written = self._file.with_suffix(".new")
        being_written.write_text(address, encoding="utf-8")
        being_written.replace(self._file)

    def remove(self) -> None:
        """Nothing where there is none."""
        self._file.unlink(missing_ok=True)
