"""`trs lake backup` and `trs lake restore`: the lake as it was at one moment, copied away and back.

Tables are pinned one after the other while workers go on, in such an order that together they are a state from which a
worker can start: what is derived before what it is derived from, so that no output is ahead of its log; what cannot be
derived again after the logs, so that nothing is lost below a log's positions (R5). A restored lake stands at the
positions of the backup and reads on from Kafka there.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.lake_session import LakeSession
from app.settings import Settings
from app.wiring import lake_location, s3_options
from connectors.control_log import ControlLog
from connectors.lake import LakeLocation, LakeStore
from connectors.lake_copy import Pinned, copy_table, pin
from connectors.table_folder import TableFolder
from processors.errors import UnavailableError, UsageError
from processors.lake_tables import (
    ACCOUNT_LOG,
    ACCOUNTS_PRIVATE,
    CONTROL_LOG,
    DEAD_LETTER_ACTIONS,
    DEAD_LETTERS,
    EPOCHS,
    INVOICE_LOG,
    ITEM_LOG,
    LAKE_TABLES,
    SKU_LOG,
)
from processors.watermark import latest_epochs_sql, watermark_sql

_MANIFEST_FOLDER, _MANIFEST = "backup", "manifest.json"
_FORMAT = 1
SKIPPED_RUNS = 1000
"""Run numbers that a restored lake passes over: those that the lake gave after the backup are in the topics (R3)."""

_LAST = (
    ACCOUNT_LOG.name,
    ITEM_LOG.name,
    INVOICE_LOG.name,
    SKU_LOG.name,
    ACCOUNTS_PRIVATE.name,
    DEAD_LETTERS.name,
    DEAD_LETTER_ACTIONS.name,
    CONTROL_LOG.name,
)
PIN_ORDER = (
    EPOCHS.name,
    *(name for name in LAKE_TABLES if name not in (EPOCHS.name, *_LAST)),
    *(name for name in _LAST if name in LAKE_TABLES),
)
"""`epochs` tell through when the lake is complete: first, so that what they promise is there. Folded tables and
features before the logs that they follow from. Logs downstream first: B's documents come from epochs of A that A's
pinned log has. Personal data and dead letters after the logs: they may be ahead, and are never behind."""

Watcher = Callable[[str, int, int], None]
"""Told the table, the bytes that are copied and those that there are in all."""


@dataclass(frozen=True)
class Backup:
    """What was copied. `complete_through`: the watermark of the copy; None: nothing was committed."""

    place: str
    made_at: datetime
    complete_through: datetime | None
    tables: int
    rows: int
    files: int
    size_bytes: int


def backup(settings: Settings, to: str, *, watcher: Watcher = lambda _table, _done, _of: None) -> Backup:
    """Copies the lake to a folder or S3 prefix that holds no backup yet, or goes on with one that was interrupted.

    May run beside workers. Raises UsageError for a place that is taken.
    """
    source, target = lake_location(settings), location_of(settings, to)
    store = LakeStore(source)
    if not store.exists():
        raise UnavailableError(f"there is no lake at {source.uri}", hint="check TRS_LAKE")
    if target.uri == source.uri or target.uri.startswith(f"{source.uri}/"):
        raise UsageError(f"{target.uri} is in the lake itself", hint="name another place, best in another account")
    manifest = _read_manifest(target)
    if manifest is not None and manifest["finished_at"] is not None:
        raise UsageError(f"{target.uri} holds a backup of {manifest['made_at']}", hint="name a new place")
    if manifest is not None and manifest["lake"] != source.uri:
        raise UsageError(f"{target.uri} holds an unfinished backup of {manifest['lake']}", hint="name a new place")
    if manifest is None:
        made_at = datetime.now(UTC)
        there = store.present()
        pinned = [pin(store, name) for name in PIN_ORDER if name in there]
        manifest = {
            "format": _FORMAT,
            "made_at": made_at.isoformat(),
            "lake": source.uri,
            "generation": ControlLog(store).generation(),
            **_stand(settings, next(p for p in pinned if p.name == EPOCHS.name)),
            "tables": {p.name: p.version for p in pinned},
            "finished_at": None,
        }
        _write_manifest(target, manifest)
    else:
        pinned = [pin(store, name, version) for name, version in manifest["tables"].items()]
    _copy(pinned, source, target, watcher)
    _write_manifest(target, manifest | {"finished_at": datetime.now(UTC).isoformat()})
    return _summary(target.uri, manifest, pinned)


def restore(settings: Settings, origin: str, *, watcher: Watcher = lambda _table, _done, _of: None) -> Backup:
    """Copies a backup to TRS_LAKE, where there is no lake yet, and makes it ready for workers.

    It gets a generation of its own, so that documents of what happened after the backup count no more, and cursors at
    the beginning, so that A sends all documents anew: B may not have read all that A had sent. Interrupted, the same
    call goes on. Raises UsageError where there is a lake.
    """
    source, target = location_of(settings, origin), lake_location(settings)
    manifest = _read_manifest(source)
    if manifest is None or manifest["format"] != _FORMAT:
        raise UsageError(f"{source.uri} holds no backup of this format", hint="`trs lake backup` makes one")
    if manifest["finished_at"] is None:
        raise UsageError(f"the backup at {source.uri} was not finished", hint="the same `trs lake backup` goes on")
    store = LakeStore(target)
    if store.exists():
        raise UsageError(f"there is a lake at {target.uri}", hint="set TRS_LAKE to a new place and switch over to it")
    pinned = [pin(LakeStore(source), name, version) for name, version in manifest["tables"].items()]
    # Without a control log there is no lake yet: it comes when all else is as it must be.
    _copy([p for p in pinned if p.name != CONTROL_LOG.name], source, target, watcher)
    _send_all_again(store)
    _copy([p for p in pinned if p.name == CONTROL_LOG.name], source, target, lambda _table, _done, _of: None)
    control = ControlLog(store)
    control.skip_runs(SKIPPED_RUNS)
    control.new_generation({"restored_from": source.uri, "made_at": manifest["made_at"]})
    return _summary(target.uri, manifest, pinned)


def location_of(settings: Settings, place: str) -> LakeLocation:
    """A place of the user's, reached as the lake is."""
    uri = place.rstrip("/")
    if uri.startswith("s3://"):
        return LakeLocation(uri, s3_options(settings))
    return LakeLocation(str(Path(uri).absolute()))


def _copy(pinned: list[Pinned], source: LakeLocation, target: LakeLocation, watcher: Watcher) -> None:
    total, done = sum(p.size_bytes for p in pinned), 0

    for table in pinned:

        def copied(size_bytes: int, name: str = table.name) -> None:
            nonlocal done
            done += size_bytes
            watcher(name, done, total)

        watcher(table.name, done, total)
        copy_table(table, source, target, copied=copied)


def _send_all_again(store: LakeStore) -> None:
    """Sets the cursors of what A sends to the beginning."""
    log = store.fenced(INVOICE_LOG.name)
    buckets = range(_buckets(store))
    ids = tuple(f"{name}:{b}" for name in ("documents", "lines") for b in buckets)
    seen = log.stored(ids)
    if any(seen.values()):
        log.open(dict.fromkeys(seen, 0), {"kind": "restored"}, seen=seen)


def _buckets(store: LakeStore) -> int:
    """How many buckets have an epoch in the invoice log."""
    log, most = store.fenced(INVOICE_LOG.name), 1024
    stored = log.stored(tuple(f"epoch:invoices:{b}" for b in range(most)))
    return 1 + max((int(i.rpartition(":")[2]) for i in stored), default=-1)


def _stand(settings: Settings, epochs: Pinned) -> dict[str, Any]:
    """Through when the copy is complete, and the offsets that Kafka must still hold for it."""
    with LakeSession(settings) as session:
        handle = LakeStore(lake_location(settings)).open(EPOCHS.name, epochs.version)
        session.con.execute(
            f"CREATE TEMP VIEW pinned_epochs AS"
            f" FROM {session.reader.relation(EPOCHS.name, session.reader.files_of(EPOCHS.name, handle))}"
        )
        ((watermark,),) = session.con.sql(watermark_sql("pinned_epochs")).fetchall()
        offsets = session.con.sql(f"""
            SELECT o.entry.topic AS topic, e.bucket AS partition, max(o.entry.next_offset) AS next_offset
            FROM {latest_epochs_sql("pinned_epochs")} AS e CROSS JOIN UNNEST(e.offsets) AS o (entry)
            GROUP BY ALL ORDER BY ALL
        """).fetchall()
    return {
        "complete_through": None if watermark is None else watermark.astimezone(UTC).isoformat(),
        "offsets": [{"topic": t, "partition": p, "next_offset": n} for t, p, n in offsets],
    }


def _summary(place: str, manifest: Mapping[str, Any], pinned: list[Pinned]) -> Backup:
    through = manifest["complete_through"]
    return Backup(
        place=place,
        made_at=datetime.fromisoformat(manifest["made_at"]),
        complete_through=None if through is None else datetime.fromisoformat(through),
        tables=len(pinned),
        rows=sum(p.rows for p in pinned),
        files=sum(len(p.files) for p in pinned),
        size_bytes=sum(p.size_bytes for p in pinned),
    )


def _read_manifest(location: LakeLocation) -> dict[str, Any] | None:
    if not location.uri.startswith("s3://") and not Path(location.uri).is_dir():
        return None  # and none is made by looking
    content = TableFolder(location, _MANIFEST_FOLDER).read(_MANIFEST)
    return None if content is None else json.loads(content)


def _write_manifest(location: LakeLocation, manifest: Mapping[str, Any]) -> None:
    TableFolder(location, _MANIFEST_FOLDER).write(_MANIFEST, json.dumps(manifest, indent=2).encode())
