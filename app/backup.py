"""`trs lake backup` and `trs lake restore`: the lake as it was at one moment, copied away and back.

Tables are pinned one after the other while workers go on, in such an order that together they are a state from which a
worker can start: what is derived before what it is derived from, so that no output is ahead of its log; what cannot be
derived again after the logs, so that nothing is lost below a log's positions (R5). A restored lake stands at the
positions of the backup and reads on from Kafka there.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.backup_manifest import BackupPlace, Manifest, TableStand
from app.epoch_positions import positions_in_epochs
from app.lake_session import LakeSession
from app.settings import Settings, is_place
from app.wiring import lake_location, s3_options
from connectors.compaction import unknown_columns
from connectors.control_log import ControlLog
from connectors.lake import LakeLocation, LakeStore
from connectors.lake_copy import Pinned, TableCopy, damage, pin
from processors.errors import DamagedLakeError, RetryableError, SettingsError, UnavailableError, UsageError
from processors.features.declarations import FEATURE_SETS
from processors.installation import FEATURE_SET_KIND, PARTITIONS_KIND
from processors.lake_tables import (
    ACCOUNT_LOG,
    ACCOUNTS_KEYED,
    ACCOUNTS_PRIVATE,
    CONTROL_LOG,
    DEAD_LETTER_ACTIONS,
    DEAD_LETTERS,
    EPOCHS,
    ERASURES,
    HISTORY_RETENTION,
    INVOICE_LOG,
    INVOICES_KEYED,
    ITEM_LOG,
    ITEMS_KEYED,
    QUALITY_RESULTS,
    RECONCILIATION,
    SKU_LOG,
    SKUS_KEYED,
    UPKEEP,
)
from processors.ports import ControlEntry
from processors.watermark import watermark_sql

SKIPPED_RUNS = 1000
"""Run numbers that a new lake passes over: those that another one gave are in the topics (R3)."""
_CURSORS = ("documents", "lines")
PIN_ORDER = (
    EPOCHS.name,
    "{set}_folded",
    "{set}_changes",
    "{set}_reconstructed",
    *(keyed.folded for keyed in (ACCOUNTS_KEYED, ITEMS_KEYED, INVOICES_KEYED, SKUS_KEYED)),
    ACCOUNT_LOG.name,
    ITEM_LOG.name,
    INVOICE_LOG.name,
    SKU_LOG.name,
    ACCOUNTS_PRIVATE.name,
    DEAD_LETTERS.name,
    DEAD_LETTER_ACTIONS.name,
    HISTORY_RETENTION.name,
    ERASURES.name,
    QUALITY_RESULTS.name,
    RECONCILIATION.name,
    UPKEEP.name,
    CONTROL_LOG.name,
)
"""`epochs` tell through when the lake is complete: first, so that what they promise is there. What is folded comes
before what it was folded from, features before the logs that they follow from, logs downstream first: B's documents are
of epochs that A's pinned log has. Personal data and dead letters after the logs: they may be ahead, and are never
behind. Notes of what was thinned and erased are written before it is done, and pinned after."""

Watcher = Callable[[str, int, int], None]
"""Told the table, the bytes that are copied and those that are to be copied in all."""


def _nobody(table: str, done: int, total: int) -> None:
    return None


@dataclass(frozen=True)
class Backup:
    """What is in a backup, and what of it had to be copied. `complete_through`: None: nothing was committed."""

    place: str
    made_at: datetime
    complete_through: datetime | None
    tables: int
    rows: int
    files: int
    size_bytes: int
    copied_files: int
    copied_bytes: int


def backup(settings: Settings, to: str, *, watcher: Watcher = _nobody) -> Backup:
    """Copies the lake, as it is now, to a folder or S3 prefix: of files only those that earlier backups there have not.

    May run beside workers. Killed anywhere, the next call copies what is missing; earlier backups stay as they are.
    Raises UsageError for a place that is not for backups of this lake, RetryableError when upkeep removed a file.
    """
    source, target = lake_location(settings), location_of(settings, to)
    store = LakeStore(source)
    if not store.exists():
        raise UnavailableError(f"there is no lake at {source.uri}", hint="check TRS_LAKE")
    _check_apart(source, target)
    control = ControlLog(store)
    place = _place_for(target, source.uri, control.generation())
    made_at = datetime.now(UTC)
    names = pin_order(control.entries())
    pinned = [pin(store, name) for name in names if store.has(name)]
    complete_through, offsets = _stand(settings, next(p for p in pinned if p.name == EPOCHS.name))
    copies = [TableCopy(table, source, target) for table in pinned]
    for table in copies:
        table.check_same_story()
    copied = _copy_data(copies, watcher)
    # Upstream first, as a worker commits: whoever opens the place meanwhile finds nothing that is ahead of its log.
    for table in reversed(copies):
        table.copy_log()
    stands = {p.name: TableStand(p.version, p.rows, len(p.files), p.size_bytes) for p in pinned}
    manifest = Manifest(source.uri, control.generation(), made_at.isoformat(), complete_through, offsets, stands)
    place.add(manifest)
    return _summary(target.uri, manifest, copied)


def restore(settings: Settings, origin: str, *, at: datetime | None = None, watcher: Watcher = _nobody) -> Backup:
    """Copies the newest backup (made at or before `at`) to TRS_LAKE, where there is no lake yet, for workers to go on.

    It gets a generation of its own, so that documents of what happened after the backup count no more, and cursors at
    the beginning, so that A sends all documents anew: B may not have read all that A had sent. Killed anywhere, the
    same call goes on. Raises UsageError where there is a lake, DamagedLakeError for a backup that is not whole.
    """
    source, target = location_of(settings, origin), lake_location(settings)
    _check_apart(source, target)
    manifest = _chosen(BackupPlace(source), at)
    store = LakeStore(target)
    if store.exists():
        raise UsageError(f"there is a lake at {target.uri}", hint="set TRS_LAKE to a new place and switch over to it")
    pinned = _whole(source, manifest)
    control = LakeStore(source).open(CONTROL_LOG.name, manifest.tables[CONTROL_LOG.name].version)
    unknown = unknown_columns(control, CONTROL_LOG)
    if unknown:
        raise SettingsError(f"the backup is of a newer version: {', '.join(unknown)}", hint="upgrade this program")
    note = {"origin": source.uri, "made_at": manifest.made_at}
    _take_place(store, note)
    # Without a control log there is no lake yet: it comes when all else is as it must be.
    copies = [TableCopy(table, source, target) for table in pinned if table.name != CONTROL_LOG.name]
    copied = _copy_data(copies, watcher)
    for table in reversed(copies):
        table.copy_log()
    _send_all_again(store, _partitions(settings, ControlLog(LakeStore(source)).entries()))
    ControlLog(store).begin(control, {"restored_from": source.uri, **note}, skipped_runs=SKIPPED_RUNS)
    return _summary(target.uri, manifest, copied)


def pin_order(entries: Sequence[ControlEntry]) -> list[str]:
    """Names of all tables in the order in which they are pinned; of feature sets that the control log names, too."""
    noted = [str(e.detail["name"]) for e in entries if e.kind == FEATURE_SET_KIND]
    sets = dict.fromkeys([*(f.name for f in FEATURE_SETS), *noted])
    return [name for place in PIN_ORDER for name in ([place.format(set=s) for s in sets] if "{" in place else [place])]


def location_of(settings: Settings, place: str) -> LakeLocation:
    """A place of the user's, reached as the lake is. Raises UsageError for what is neither on S3 nor a folder."""
    if not is_place(place):
        raise UsageError(f"{place!r} is neither s3://BUCKET/PREFIX nor a folder", hint="name another place")
    if place.startswith("s3://"):
        return LakeLocation(place.rstrip("/"), s3_options(settings))
    return LakeLocation(str(Path(place).absolute()))


def place_of_month(folder: str, now: datetime) -> str:
    """The place below a folder of places in which backups of this month are, by UTC."""
    return f"{folder.rstrip('/')}/{now.astimezone(UTC):%Y-%m}"


def _check_apart(source: LakeLocation, target: LakeLocation) -> None:
    one, other = f"{source.uri}/", f"{target.uri}/"
    if one.startswith(other) or other.startswith(one):
        raise UsageError(
            f"{source.uri} and {target.uri} are one within the other", hint="name a place of its own, best elsewhere"
        )


def _place_for(target: LakeLocation, lake: str, generation: str) -> BackupPlace:
    """The place, noted as one for backups of this lake."""
    place = BackupPlace(target)
    noted = place.lake()
    if noted is None:
        if LakeStore(target).present():
            raise UsageError(f"there is a lake at {target.uri}", hint="name a place for backups alone")
        place.begin(lake, generation)
    elif noted["generation"] != generation:
        raise UsageError(
            f"{target.uri} holds backups of another lake, or of {noted['lake']} before a restore",
            hint="name a new place",
        )
    return place


def _chosen(place: BackupPlace, at: datetime | None) -> Manifest:
    whole = place.manifests()
    found = [m for m in whole if at is None or m.made <= at]
    if found:
        return found[-1]
    uri = place.location.uri
    if whole:
        raise UsageError(f"the first backup at {uri} was made {whole[0].made_at}", hint="--at a later time")
    if place.lake() is not None:
        raise UsageError(f"no backup at {uri} was finished", hint="the same `trs lake backup` goes on")
    raise UsageError(f"there is no backup at {uri}", hint="`trs lake backup` makes one")


def _whole(source: LakeLocation, manifest: Manifest) -> list[Pinned]:
    """The backup's tables. Raises DamagedLakeError unless all of it is there."""
    store, pinned = LakeStore(source), []
    for name, stand in manifest.tables.items():
        wrong: str | None = f"there is no table {name}"
        if store.has(name):
            try:
                table = pin(store, name, stand.version)
                wrong = damage(table, source)
            except RetryableError as error:
                wrong = error.message
            else:
                pinned.append(table)
                if stand != TableStand(table.version, table.rows, len(table.files), table.size_bytes):
                    wrong = f"the log of {name} does not tell what was copied"
        if wrong is not None:
            raise DamagedLakeError(
                f"the backup of {manifest.made_at} is broken: {wrong}", hint="name an earlier one: --at"
            )
    return pinned


def _take_place(store: LakeStore, note: dict[str, str]) -> None:
    """Notes at the target which backup it is made of. Raises UsageError where it is being made of another one."""
    place = BackupPlace(store.location)
    noted = place.restored()
    if noted is None:
        if store.present() or place.lake() is not None:
            raise UsageError(f"{store.location.uri} holds tables, or backups", hint="set TRS_LAKE to a new place")
        place.begin_restore(note)
    elif noted != note:
        raise UsageError(
            f"{store.location.uri} holds a part of the backup of {noted['made_at']} at {noted['origin']}",
            hint="delete it, or set TRS_LAKE to a new place",
        )


def _copy_data(copies: Sequence[TableCopy], watcher: Watcher) -> dict[str, int]:
    """Copies the files that are not there yet, and returns them with their sizes in bytes."""
    waiting = [(table, table.to_copy()) for table in copies]
    total, done = sum(sum(files.values()) for _, files in waiting), 0
    lock = threading.Lock()
    for table, files in waiting:

        def copied(size_bytes: int, name: str = table.pinned.name) -> None:
            nonlocal done
            with lock:
                done += size_bytes
                watcher(name, done, total)

        table.copy_data(files, copied)
    return {f"{table.pinned.name}/{path}": size for table, files in waiting for path, size in files.items()}


def _send_all_again(store: LakeStore, partitions: int) -> None:
    """Sets the cursors of what A sends to the beginning."""
    log = store.fenced(INVOICE_LOG.name)
    seen = log.stored(tuple(f"{name}:{bucket}" for name in _CURSORS for bucket in range(partitions)))
    if any(seen.values()):
        log.open(dict.fromkeys(seen, 0), {"kind": "restored"}, seen=seen)


def _partitions(settings: Settings, entries: Sequence[ControlEntry]) -> int:
    """Of the lake's topics; one that an earlier version filled did not note them."""
    noted = [int(e.detail["partitions"]) for e in entries if e.kind == PARTITIONS_KIND]
    return noted[-1] if noted else settings.partitions


def _stand(settings: Settings, epochs: Pinned) -> tuple[str | None, list[dict[str, Any]]]:
    """Through when the copy is complete, and the offsets that Kafka must still hold for it."""
    with LakeSession(settings) as session:
        files = session.reader.addresses(EPOCHS.name, [{"path": p, "size_bytes": s} for p, s in epochs.files.items()])
        session.con.execute(f"CREATE TEMP VIEW pinned_epochs AS FROM {session.reader.relation(EPOCHS.name, files)}")
        ((watermark,),) = session.con.sql(watermark_sql("pinned_epochs")).fetchall()
        positions = positions_in_epochs(session, "pinned_epochs")
    through = None if watermark is None else watermark.astimezone(UTC).isoformat()
    offsets = [{"topic": t, "partition": p, "next_offset": at.next_offset} for (t, p), at in positions.items()]
    return through, offsets


def _summary(place: str, manifest: Manifest, copied: dict[str, int]) -> Backup:
    through, stands = manifest.complete_through, manifest.tables.values()
    return Backup(
        place=place,
        made_at=manifest.made,
        complete_through=None if through is None else datetime.fromisoformat(through),
        tables=len(stands),
        rows=sum(s.rows for s in stands),
        files=sum(s.files for s in stands),
        size_bytes=sum(s.size_bytes for s in stands),
        copied_files=len(copied),
        copied_bytes=sum(copied.values()),
    )
