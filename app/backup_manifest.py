"""What a place with backups of a lake says of itself: whose they are, and one manifest per backup that is whole.

PLACE/backup/lake.json          written first: of which lake the copies here are
PLACE/backup/MADE_AT.json       written last: versions of the tables that together are one backup
TARGET/backup/restored.json     in a restored lake, written first: of which backup it was made
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from connectors.lake import LakeLocation, LakeStore, wrapped_errors
from connectors.table_folder import TableFolder
from processors.errors import RetryableError, SettingsError, UsageError

_FOLDER, _LAKE, _RESTORED = "backup", "lake.json", "restored.json"
_FORMAT = 1
_NAME_FORMAT = "%Y-%m-%dT%H-%M-%S.%fZ.json"


@dataclass(frozen=True)
class TableStand:
    """One table of a backup: its version, and what is in that."""

    version: int
    rows: int
    files: int
    size_bytes: int


@dataclass(frozen=True)
class Manifest:
    """One whole backup. `complete_through`: the watermark of the copy, ISO-8601; None: nothing was committed.

    `offsets`: per input topic and partition where a restored lake reads on; Kafka must hold what comes then.
    """

    lake: str
    generation: str
    made_at: str
    complete_through: str | None
    offsets: list[dict[str, Any]]
    tables: dict[str, TableStand]
    format: int = _FORMAT

    @property
    def made(self) -> datetime:
        return datetime.fromisoformat(self.made_at)


def check_is_for_workers(location: LakeLocation) -> None:
    """Raises SettingsError for a place of backups, RetryableError for a lake that is not restored to the end yet."""
    place = BackupPlace(location)
    if place.lake() is not None:
        raise SettingsError(
            f"TRS_LAKE: {location.uri} holds backups", hint="`trs lake restore` makes a lake of one, at another place"
        )
    if place.restored() is not None and not LakeStore(location).exists():
        raise RetryableError(f"{location.uri} is being restored", hint="the same `trs lake restore` goes on")


class BackupPlace:
    """The notes at one place. Looking makes nothing."""

    def __init__(self, location: LakeLocation) -> None:
        self.location = location

    def lake(self) -> Mapping[str, str] | None:
        """Of which lake (`lake`, `generation`) the copies are, None where there are none."""
        return self._read(_LAKE)

    def begin(self, lake: str, generation: str) -> None:
        self._write(_LAKE, {"format": _FORMAT, "lake": lake, "generation": generation})

    def restored(self) -> Mapping[str, str] | None:
        """Of which backup (`origin`, `made_at`) the lake here is made, None where of none."""
        return self._read(_RESTORED)

    def begin_restore(self, note: Mapping[str, str]) -> None:
        self._write(_RESTORED, dict(note))

    def manifests(self) -> list[Manifest]:
        """All whole backups, the oldest first. Raises UsageError for one that this version cannot read."""
        names = [] if self._folder is None else self._names(self._folder)
        return [self._manifest(name) for name in sorted(names)]

    def add(self, manifest: Manifest) -> None:
        self._write(manifest.made.astimezone(UTC).strftime(_NAME_FORMAT), asdict(manifest))

    @property
    def _folder(self) -> TableFolder | None:
        if not self.location.uri.startswith("s3://") and not (Path(self.location.uri) / _FOLDER).is_dir():
            return None
        return TableFolder(self.location, _FOLDER)

    def _names(self, folder: TableFolder) -> list[str]:
        with wrapped_errors(f"backup at {self.location.uri}"):
            return [n for n in folder.sizes() if n.endswith(".json") and n not in (_LAKE, _RESTORED)]

    def _manifest(self, name: str) -> Manifest:
        content = self._read(name) or {}
        if content.get("format") != _FORMAT or set(content) != {f.name for f in fields(Manifest)}:
            raise UsageError(f"{self.location.uri}/{_FOLDER}/{name} has another format", hint="take a newer program")
        tables = {table: TableStand(**stand) for table, stand in content["tables"].items()}
        return Manifest(**{**content, "tables": tables})

    def _read(self, name: str) -> dict[str, Any] | None:
        folder = self._folder
        if folder is None:
            return None
        with wrapped_errors(f"backup at {self.location.uri}"):
            content = folder.read(name)
        try:
            return None if content is None else json.loads(content)
        except ValueError:
            raise UsageError(
                f"{self.location.uri}/{_FOLDER}/{name} is not JSON",
                hint="move it away: that backup is lost, others are not",
            ) from None

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        with wrapped_errors(f"backup at {self.location.uri}"):
            TableFolder(self.location, _FOLDER).write(name, json.dumps(content, indent=2).encode())
