"""Backup and restore on lakes that the engine made, in every state in which a backup may meet them."""

import itertools
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from app import backup as module
from app.backup import SKIPPED_RUNS, backup, pin_order, restore
from app.memory import plan_of
from app.settings import Settings
from app.verify import verify
from app.wiring import build_engine
from connectors.control_log import ControlLog
from connectors.delta_lake import DeltaLake
from connectors.fold import fold_all
from connectors.lake import FencedTable, LakeLocation, LakeStore
from connectors.table_folder import TableFolder
from processors.errors import DamagedLakeError, OffsetGapError, RetryableError, SettingsError, UsageError
from processors.fold import all_that_waits
from processors.lake_tables import KEYED_TABLES, LAKE_TABLES
from processors.resume import PartitionLog, start_offset
from processors.tables import DOCUMENTS_TOPIC
from tests.app.commands import trs
from tests.moto_s3 import s3_server
from tests.processors.engine_shell import (
    ACCOUNT,
    INVOICE,
    LINE,
    PREFIX,
    SETTLE_S,
    SKU,
    Shell,
    Topics,
    event,
)
from tests.waiting import wait_until


class World:
    """One set of topics, lakes beside each other, and engines on them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.topics, self.opened = folder, Topics(), list[Shell]()
        self.pos = 100

    def settings(self, name: str = "lake", **more: Any) -> Settings:
        place = name if "://" in name else str(self.folder / name)
        return Settings(lake=place, partitions=1, topic_prefix=PREFIX, threads=1, **more)

    def lake(self, name: str = "lake") -> DeltaLake:
        return DeltaLake(LakeLocation(str(self.folder / name)))

    def exists(self, name: str) -> bool:
        return LakeStore(LakeLocation(str(self.folder / name))).exists()

    def shell(self, name: str = "lake", interval_s: float | None = None) -> Shell:
        self.opened.append(
            Shell(self.lake(name), self.topics, self.folder / f"spill-{len(self.opened)}", interval_s=interval_s)
        )
        return self.opened[-1]

    def fill(self) -> None:
        """An article, two accounts, an invoice with its line."""
        self.topics.add("skus", event("skus", "r", 1, SKU))
        self.topics.add("accounts", event("accounts", "r", 2, ACCOUNT))
        self.topics.add("accounts", event("accounts", "r", 3, ACCOUNT | {"account_id": 8}))
        self.topics.add("invoices", event("invoices", "c", 4, INVOICE))
        self.topics.add("invoice_line_items", event("invoice_line_items", "c", 5, LINE))

    def close(self) -> None:
        """Ends the engines that still run."""
        for one in self.opened:
            one.engine.stop()

    def change(self, *numbers: int) -> None:
        """New invoices with a line each, and the account of each before moves."""
        for number in numbers:
            self.pos += 10
            invoice = INVOICE | {"invoice_id": number}
            self.topics.add("invoices", event("invoices", "c", self.pos, invoice))
            line = LINE | {"invoice_id": number, "quantity": number}
            self.topics.add("invoice_line_items", event("invoice_line_items", "c", self.pos + 1, line))
            moved = INVOICE | {"invoice_id": number - 1, "account_id": 8}
            self.topics.add("invoices", event("invoices", "u", self.pos + 2, moved))

    def current(self, name: str) -> list[tuple[object, ...]]:
        """The feature rows that hold now."""
        found: list[tuple[object, ...]] = []
        answer = trs("features", "as-of", "now", "--format", "csv", TRS_LAKE=str(self.folder / name))
        found += [tuple(line.split(",")) for line in answer.out.splitlines()]
        return sorted(found, key=str)

    def is_sound(self, name: str) -> None:
        verify(self.settings(name), price_at="creation", ask_kafka=False).raise_unless_sound()


def end(shell: Shell) -> None:
    shell.settle()
    shell.engine.stop()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A filled lake at rest, of which every test has a copy."""
    world = World(tmp_path_factory.mktemp("made"))
    world.fill()
    end(world.shell())
    return world


@pytest.fixture
def world(made: World, tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    shutil.copytree(made.folder / "lake", tmp_path / "lake")
    world.topics.records.update({topic: list(records) for topic, records in made.topics.records.items()})
    yield world
    world.close()


@pytest.fixture
def place(world: World) -> str:
    return str(world.folder / "backups")


def fold(world: World) -> None:
    lake = world.lake()
    with duckdb.connect() as con:
        lake.prepare(con)
        fold_all(lake, con, 1, all_that_waits())


def goes_on(world: World, place: str, name: str = "again") -> None:
    """A lake restored from the place, in which no check fails, comes to the rows of the present one, and is sound."""
    restore(world.settings(name), place)
    found = verify(world.settings(name), price_at="creation", ask_kafka=False)
    assert [o for o in found.outcomes if o.holds is False] == []
    end(world.shell(name))
    assert world.current(name) == world.current("lake")
    world.is_sound(name)


def test_a_restored_lake_goes_on_where_the_backup_stood_and_comes_to_the_same_rows(world: World, place: str) -> None:
    made = backup(world.settings(), place)
    world.change(2, 3)
    end(world.shell())

    restored = restore(world.settings("again"), place)
    assert (restored.rows, restored.complete_through) == (made.rows, made.complete_through)
    assert world.current("again") == world.current("backups") != world.current("lake")
    shell = world.shell("again")
    stood = shell.stored[f"{PREFIX}.invoices", 0]
    assert start_offset(stood, PartitionLog(f"{PREFIX}.invoices", 0, 1, 3, "invoices")) == 1, "behind the backup"
    with pytest.raises(OffsetGapError, match=r"invoices-0: .* offsets \[1, 2\) are gone"):
        start_offset(stood, PartitionLog(f"{PREFIX}.invoices", 0, 2, 3, "invoices"))
    end(shell)
    assert world.current("again") == world.current("lake")
    world.is_sound("again")


def test_documents_that_were_on_their_way_at_the_backup_are_not_lost(world: World, place: str) -> None:
    """A had sent them, B had not read them; in the topic they carry the generation of the former lake."""
    documents = f"{PREFIX}.{DOCUMENTS_TOPIC}"
    before, log, seen = world.shell(), world.lake().fenced("invoice_log"), len(world.topics.records[documents])
    world.change(2)
    before.offer_all()
    wait_until(lambda: len(world.topics.records[documents]) > seen, timeout_s=SETTLE_S, what="documents are sent")
    ids = ("documents:0", "epoch:invoices:0")
    wait_until(lambda: len(set(log.stored(ids).values())) == 1, timeout_s=SETTLE_S, what="A says so")
    backup(world.settings(), place)
    read = f"offset:{documents}:0"
    assert world.lake().fenced("account_log").stored((read,)) == {read: seen}
    end(before)
    restore(world.settings("again"), place)
    end(world.shell("again"))
    assert world.current("again") == world.current("lake")
    world.is_sound("again")


@pytest.mark.long
def test_what_happened_after_the_backup_in_another_life_of_the_lake_does_not_win(world: World, place: str) -> None:
    """The former lake went on to later epochs, and so to greater versions of documents, than the restored one."""
    backup(world.settings(), place)
    for number in (2, 3):
        world.change(number)
        end(world.shell())
    restore(world.settings("again"), place)
    world.change(5)
    world.pos += 10
    world.topics.add("invoices", event("invoices", "d", world.pos, INVOICE | {"invoice_id": 2}))
    end(world.shell("again"))
    end(world.shell())
    assert world.current("again") == world.current("lake")
    world.is_sound("again")


@pytest.mark.parametrize(
    "after",
    [
        "account_log",
        pytest.param("invoice_features_changes", marks=pytest.mark.long),
        pytest.param("invoice_log", marks=pytest.mark.long),
    ],
)
def test_a_worker_that_commits_and_folds_between_two_pins_leaves_one_state(
    world: World, place: str, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin = module.pin

    def pin_and_go_on(store: LakeStore, name: str, version: int | None = None) -> object:
        pinned = pin(store, name, version)
        if name == after and version is None:
            world.change(2, 3)
            end(world.shell())
            fold(world)
        return pinned

    with monkeypatch.context() as patch:
        patch.setattr(module, "pin", pin_and_go_on)
        backup(world.settings(), place)
    goes_on(world, place)


def test_the_logs_are_pinned_downstream_first_and_every_table_is(world: World) -> None:
    order = pin_order([])
    assert sorted(set(LAKE_TABLES) - set(order)) == []
    at = {name: number for number, name in enumerate(order)}
    for keyed in KEYED_TABLES:
        assert at[keyed.folded] < at[keyed.log]
    assert at["invoice_features_changes"] < at["account_log"] < at["invoice_log"] < at["sku_log"]
    assert at["sku_log"] < at["accounts_private_changes"] < at["erasures"] < at["control_log"] == len(order) - 1


@pytest.mark.long
def test_backups_beside_a_worker_that_goes_on_are_sound_and_each_copies_what_is_new(world: World, place: str) -> None:
    shell, stop = world.shell(interval_s=0.05), threading.Event()

    def work() -> None:
        for number in range(2, 60):
            world.change(number)
            shell.offer_all()
            if stop.wait(0.02):
                return

    worker = threading.Thread(target=work)
    worker.start()
    try:
        made = [backup(world.settings(), place) for _ in range(3)]
    finally:
        stop.set()
        worker.join()
    end(shell)
    assert made[0].copied_files == made[0].files
    assert all(0 < later.copied_files < later.files for later in made[1:])
    for number, one in enumerate(made):
        name = f"again-{number}"
        assert restore(world.settings(name), place, at=one.made_at).made_at == one.made_at
        end(world.shell(name))
        assert world.current(name) == world.current("lake")
        world.is_sound(name)


def test_bootstrap_runs_after_a_restore_have_numbers_that_no_record_of_the_topics_has(world: World, place: str) -> None:
    lake = world.lake()
    lake.control.close_run(lake.control.open_run("batch", {}), {})
    backup(world.settings(), place)
    assert lake.control.open_run("batch", {}) == 2
    restore(world.settings("again"), place)
    again = world.lake("again").control
    assert again.open_runs() == []
    assert again.open_run("batch", {}) > SKIPPED_RUNS
    assert again.generation() != lake.control.generation()


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


def test_places_that_hold_something_else_are_refused(world: World, place: str) -> None:
    lake = world.lake("other")
    assert lake.generation != world.lake().generation
    backup(world.settings(), place)
    for to, why in ((str(world.folder / "other"), "a lake at"), (f"{world.folder}/lake/x", "one within the other")):
        with pytest.raises(UsageError, match=why):
            backup(world.settings(), to)
    with pytest.raises(UsageError, match="neither s3://BUCKET/PREFIX nor a folder"):
        backup(world.settings(), "s3a://bucket/backups")
    with pytest.raises(UsageError, match="backups of another lake"):
        backup(world.settings("other"), place)
    (world.folder / "half").mkdir()
    shutil.copytree(world.folder / "other" / "sku_log", world.folder / "half" / "sku_log")
    with pytest.raises(UsageError, match="holds tables, or backups"):
        restore(world.settings("half"), place)
    with pytest.raises(UsageError, match="there is no backup at"):
        restore(world.settings("again"), str(world.folder / "nothing"))
    first = world.current("backups")
    world.change(2)
    end(world.shell("backups"))  # a worker that was started on the place
    with pytest.raises(UsageError, match="something else wrote there"):
        backup(world.settings(), place)
    restore(world.settings("again"), place)
    assert world.current("again") == first
    assert not (world.folder / "nothing").exists()


@pytest.fixture
def s3() -> Iterator[dict[str, str]]:
    """Settings of an S3 server with the bucket `lake`."""
    with s3_server("lake") as s3:
        yield {
            "aws_endpoint": s3["AWS_ENDPOINT_URL"],
            "aws_access_key": s3["AWS_ACCESS_KEY_ID"],
            "aws_secret_key": s3["AWS_SECRET_ACCESS_KEY"],
        }


def test_a_backup_goes_to_s3_and_comes_back(world: World, s3: dict[str, str]) -> None:
    bar: list[tuple[int, int]] = []
    made = backup(
        world.settings("lake", **s3), "s3://lake/backups", watcher=lambda _table, done, of: bar.append((done, of))
    )
    assert made.copied_files == made.files == len(bar)
    assert bar[-1] == (made.copied_bytes, made.size_bytes)
    assert backup(world.settings("lake", **s3), "s3://lake/backups").copied_files == 0
    restore(world.settings("again", **s3), "s3://lake/backups")
    assert world.current("again") == world.current("lake")


def test_a_worker_does_not_start_on_a_place_of_backups(world: World, place: str) -> None:
    backup(world.settings(), place)
    with pytest.raises(SettingsError, match="holds backups"):
        build_engine(world.settings("backups"), {}, plan_of(world.settings()))


def test_the_commands_say_what_they_did(world: World, place: str) -> None:
    lake = str(world.folder / "lake")
    told = trs("lake", "backup", place, TRS_LAKE=lake)
    assert (told.code, "complete through" in told.out) == (0, True)
    told = trs("lake", "backup", place, "--json", TRS_LAKE=lake)
    second = json.loads(told.out)
    assert (second["copied_files"], second["files"] > 10) == (0, True)
    told = trs("lake", "restore", place, "--at", "2020-01-01", TRS_LAKE=str(world.folder / "again"))
    assert (told.code, "the first backup" in told.err) == (2, True)
    told = trs("lake", "restore", place, TRS_LAKE=str(world.folder / "again"))
    assert (told.code, "trs lake verify" in told.out) == (0, True)


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


def test_an_erasure_is_told_to_a_backup_beside_it_and_does_not_reach_earlier_ones(world: World, place: str) -> None:
    address = "Kirchweg 17, 3004 Bern"
    world.topics.add("accounts", event("accounts", "u", 60, ACCOUNT | {"company_address": address}))
    end(world.shell())
    backup(world.settings(), place)

    def holds(name: str) -> bool:
        return any(address.encode() in f.read_bytes() for f in (world.folder / name).rglob("*") if f.is_file())

    def forget(name: str) -> None:
        told = trs("lake", "forget", "7", "--apply", "--at-rest", TRS_LAKE=str(world.folder / name))
        assert (told.code, "backups are not touched" in told.out) == (0, True)
        assert not holds(name)

    pin = module.pin

    def pin_and_forget(store: LakeStore, name: str, version: int | None = None) -> object:
        pinned = pin(store, name, version)
        if name == "control_log":
            forget("lake")
        return pinned

    new = str(world.folder / "new")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "pin", pin_and_forget)
        with pytest.raises(RetryableError, match=r"table accounts_private_changes: .* is not there any more"):
            backup(world.settings(), new)
    backup(world.settings(), new)
    assert not holds("new")

    restore(world.settings("again"), place)
    assert holds("again")
    forget("again")
    end(world.shell("again"))
    world.is_sound("again")
