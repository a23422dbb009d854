"""Backups and restores that are killed anywhere, and backups that are broken."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.backup import backup, restore
from app.memory import plan_of
from app.wiring import build_engine
from connectors.control_log import ControlLog
from connectors.lake import FencedTable
from connectors.table_folder import TableFolder
from processors.errors import DamagedLakeError, RetryableError, UsageError
from tests.app.lake_world import World, end, fold, goes_on


def dies_after(writes: int, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The process ends before the next write to the store: of a file, of a note, or of the restored control log."""
    left = [writes]

    def or_die(do: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return do(*given, **named)

        return counted

    for owner, name in ((TableFolder, "copy"), (TableFolder, "write"), (ControlLog, "begin"), (FencedTable, "open")):
        monkeypatch.setattr(owner, name, or_die(getattr(owner, name)))
    return monkeypatch


def killed_again_and_again(run: Callable[[], object], after_each: Callable[[], None], at_once: int) -> int:
    """How often `run` was killed before it came to its end; each time it got so many writes further."""
    for times in range(1000):
        with pytest.MonkeyPatch.context() as patch:
            dies_after(at_once, patch)
            try:
                run()
            except KeyboardInterrupt:
                pass
            else:
                return times
        after_each()
    raise AssertionError("it does not come to an end")


@pytest.mark.long
def test_a_backup_killed_anywhere_goes_on_and_is_never_taken_for_whole(world: World, place: str) -> None:

    def none_is_whole() -> None:
        with pytest.raises(UsageError, match=r"there is no backup|no backup at .* was finished"):
            restore(world.settings("again"), place)
        assert not world.exists("again")

    assert killed_again_and_again(lambda: backup(world.settings(), place), none_is_whole, at_once=15) > 3
    first = world.current("backups")

    world.change(2)
    end(world.shell())
    fold(world)
    tries = itertools.count()

    def the_first_is_restored() -> None:
        name = f"first-{next(tries)}"
        restore(world.settings(name), place)
        assert world.current(name) == first

    assert killed_again_and_again(lambda: backup(world.settings(), place), the_first_is_restored, at_once=40) > 0
    goes_on(world, place)


def test_a_restore_killed_anywhere_goes_on_and_no_lake_is_there_before(world: World, place: str) -> None:
    fold(world)
    first = backup(world.settings(), place)
    backup(world.settings(), place)
    again = world.settings("again")

    def no_lake_and_none_of_another_backup() -> None:
        assert not world.exists("again")
        with pytest.raises(RetryableError, match="is being restored"):
            build_engine(again, {}, plan_of(again))
        with pytest.raises(UsageError, match="holds a part of the backup of"):
            restore(again, place, at=first.made_at)

    assert killed_again_and_again(lambda: restore(again, place), no_lake_and_none_of_another_backup, at_once=20) > 3
    with pytest.raises(UsageError, match="there is a lake at"):
        restore(again, place)
    end(world.shell("again"))
    assert world.current("again") == world.current("lake")
    world.is_sound("again")


def hurt(place: Path, how: str) -> None:
    """Damages a backup."""
    data = sorted((place / "invoice_log").rglob("*.parquet"))[-1]
    log = sorted((place / "account_log" / "_delta_log").glob("*.json"))
    commit = next(c for c in log if b'{"add"' in c.read_bytes())
    if how == "a file is gone":
        data.unlink()
    elif how == "a file is cut":
        data.write_bytes(data.read_bytes()[:-1])
    elif how == "a commit is gone":
        commit.unlink()
    elif how == "a commit is cut":
        commit.write_bytes(commit.read_bytes()[:20])
    elif how == "a commit is another":
        commit.write_bytes(log[0].read_bytes())
    elif how == "a table is gone":
        shutil.rmtree(place / "epochs")


def test_a_backup_that_is_broken_is_not_restored(world: World, place: str) -> None:
    backup(world.settings(), place)
    for how in ("a file is gone", "a file is cut", "a commit is gone", "a commit is cut", "a commit is another"):
        copy = world.folder / how
        shutil.copytree(place, copy)
        hurt(copy, how)
        with pytest.raises(DamagedLakeError, match=r"is broken: .*(invoice_log|account_log)"):
            restore(world.settings("again"), str(copy))
    copy = world.folder / "unfinished"
    shutil.copytree(place, copy)
    next(m for m in (copy / "backup").iterdir() if m.name != "lake.json").unlink()
    with pytest.raises(UsageError, match=r"no backup at .* was finished"):
        restore(world.settings("again"), str(copy))
    hurt(Path(place), "a table is gone")
    with pytest.raises(DamagedLakeError, match="is broken: there is no table epochs"):
        restore(world.settings("again"), place)
    assert not (world.folder / "again").exists()
