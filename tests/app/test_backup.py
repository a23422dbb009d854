"""Backup and restore on lakes that the engine made, in every state in which a backup may meet them."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from app import backup as module
from app.backup import PIN_ORDER, SKIPPED_RUNS, backup, restore
from app.settings import Settings
from app.verify import verify
from connectors.delta_lake import DeltaLake
from connectors.fold import fold_all
from connectors.lake import LakeLocation
from processors.errors import UsageError
from processors.fold import all_that_waits
from processors.lake_tables import LAKE_TABLES
from processors.tables import DOCUMENTS_TOPIC
from tests.app.commands import trs
from tests.processors.test_engine import ACCOUNT, INVOICE, LINE, PREFIX, SETTLE_S, SKU, Shell, Topics, event
from tests.waiting import wait_until


class World:
    """One set of topics, lakes beside each other, and engines on them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.topics, self.opened = folder, Topics(), list[Shell]()
        self.pos = 100

    def settings(self, name: str = "lake") -> Settings:
        return Settings(lake=str(self.folder / name), partitions=1, topic_prefix=PREFIX, threads=1)

    def lake(self, name: str = "lake") -> DeltaLake:
        return DeltaLake(LakeLocation(str(self.folder / name)))

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


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.fill()
    yield made
    made.close()


def end(shell: Shell) -> None:
    shell.settle()
    shell.engine.stop()


def test_a_restored_lake_goes_on_where_the_backup_stood_and_comes_to_the_same_rows(world: World) -> None:
    end(world.shell())
    made = backup(world.settings(), str(world.folder / "backup"))
    world.change(2, 3)
    end(world.shell())

    restored = restore(world.settings("again"), str(world.folder / "backup"))
    assert restored == made.__class__(**made.__dict__)
    assert world.current("again") != world.current("lake")
    shell = world.shell("again")
    assert shell.positions[f"{PREFIX}.invoices"] == 1, "it reads on behind the backup's records"
    end(shell)

    assert world.current("again") == world.current("lake")
    world.is_sound("again")


def test_documents_that_were_on_their_way_at_the_backup_are_not_lost(world: World) -> None:
    """A had sent them, B had not read them; in the topic they carry the generation of the former lake."""
    before = world.shell()
    before.offer_all()
    documents = f"{PREFIX}.{DOCUMENTS_TOPIC}"
    wait_until(lambda: bool(world.topics.records.get(documents)), timeout_s=SETTLE_S, what="documents are sent")
    log = world.lake().fenced("invoice_log")
    wait_until(lambda: bool(log.stored(("documents:0",)).get("documents:0")), timeout_s=SETTLE_S, what="A says so")
    backup(world.settings(), str(world.folder / "backup"))
    assert world.lake().fenced("account_log").stored((f"offset:{documents}:0",)).get(f"offset:{documents}:0", 0) == 0
    end(before)

    restore(world.settings("again"), str(world.folder / "backup"))
    end(world.shell("again"))
    assert world.current("again") == world.current("lake")
    world.is_sound("again")


def test_what_happened_after_the_backup_in_another_life_of_the_lake_does_not_win(world: World) -> None:
    """The former lake went on to later epochs, and so to greater versions of documents, than the restored one."""
    end(world.shell())
    backup(world.settings(), str(world.folder / "backup"))
    for number in (2, 3, 4):
        world.change(number)
        end(world.shell())
    restore(world.settings("again"), str(world.folder / "backup"))
    world.change(5)
    world.pos += 10
    world.topics.add("invoices", event("invoices", "d", world.pos, INVOICE | {"invoice_id": 2}))
    end(world.shell("again"))
    end(world.shell())
    assert world.current("again") == world.current("lake")
    world.is_sound("again")


@pytest.mark.parametrize("table", ["account_log", "invoice_features_changes", "epochs", "sku_log"])
def test_a_backup_between_two_commits_of_a_worker_is_one_state(
    world: World, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker commits everything else, and is folded, between the pin of one table and the next."""
    end(world.shell())
    pin = module.pin

    def pin_and_go_on(store: object, name: str, version: int | None = None) -> object:
        pinned = pin(store, name, version)  # type: ignore[arg-type]
        if name == table and version is None:
            world.change(2, 3)
            end(world.shell())
            with duckdb.connect() as con:
                lake = world.lake()
                lake.prepare(con)
                fold_all(lake, con, 1, all_that_waits())
            world.change(4)
            end(world.shell())
        return pinned

    with monkeypatch.context() as patch:
        patch.setattr(module, "pin", pin_and_go_on)
        backup(world.settings(), str(world.folder / "backup"))

    restore(world.settings("again"), str(world.folder / "backup"))
    end(world.shell("again"))
    assert world.current("again") == world.current("lake")
    world.is_sound("again")


def test_a_backup_beside_a_worker_that_goes_on_is_sound_every_time(world: World) -> None:
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
        for number in range(3):
            backup(world.settings(), str(world.folder / f"backup-{number}"))
    finally:
        stop.set()
        worker.join()
    end(shell)
    expected = world.current("lake")
    for number in range(3):
        restore(world.settings(f"again-{number}"), str(world.folder / f"backup-{number}"))
        end(world.shell(f"again-{number}"))
        assert world.current(f"again-{number}") == expected
        world.is_sound(f"again-{number}")


def test_bootstrap_runs_after_a_restore_have_numbers_that_no_record_of_the_topics_has(world: World) -> None:
    lake = world.lake()
    lake.control.close_run(lake.control.open_run("batch", {}), {})
    backup(world.settings(), str(world.folder / "backup"))
    assert lake.control.open_run("batch", {}) == 2
    restore(world.settings("again"), str(world.folder / "backup"))
    again = world.lake("again").control
    assert again.open_runs() == []
    assert again.open_run("batch", {}) > SKIPPED_RUNS
    assert again.generation() != lake.control.generation()


def test_interrupted_copies_go_on_and_finished_ones_are_not_overwritten(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    end(world.shell())
    copy, left = module.copy_table, [7]

    def some(*args: object, **options: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        copy(*args, **options)  # type: ignore[arg-type]

    place = str(world.folder / "backup")
    monkeypatch.setattr(module, "copy_table", some)
    with pytest.raises(KeyboardInterrupt):
        backup(world.settings(), place)
    with pytest.raises(UsageError, match="was not finished"):
        restore(world.settings("again"), place)
    world.change(2)
    end(world.shell())  # the backup goes on with the versions that it began with
    left[0] = 100
    made = backup(world.settings(), place)
    with pytest.raises(UsageError, match="holds a backup of"):
        backup(world.settings(), place)

    left[0] = 7
    with pytest.raises(KeyboardInterrupt):
        restore(world.settings("again"), place)
    left[0] = 100
    assert restore(world.settings("again"), place).rows == made.rows
    with pytest.raises(UsageError, match="there is a lake at"):
        restore(world.settings("again"), place)
    end(world.shell("again"))
    assert world.current("again") == world.current("lake")


def test_every_table_is_pinned_and_what_is_derived_before_what_it_follows_from() -> None:
    assert sorted(PIN_ORDER) == sorted(LAKE_TABLES)
    place = {name: number for number, name in enumerate(PIN_ORDER)}
    assert place["invoice_features_changes"] < place["account_log"] < place["invoice_log"] < place["sku_log"]
    assert place["account_log_folded"] < place["account_log"] < place["accounts_private_changes"]
    assert place["sku_log"] < place["dead_letters"] < place["control_log"]


def test_the_commands_say_what_they_did_and_refuse_a_place_in_the_lake(world: World) -> None:
    end(world.shell())
    lake, place = str(world.folder / "lake"), str(world.folder / "backup")
    told = trs("lake", "backup", place, TRS_LAKE=lake)
    assert (told.code, "complete through" in told.out) == (0, True)
    assert trs("lake", "backup", f"{lake}/below", TRS_LAKE=lake).code == 2
    told = trs("lake", "restore", place, TRS_LAKE=str(world.folder / "again"))
    assert (told.code, "trs lake verify" in told.out) == (0, True)
    shutil.rmtree(place)
    assert trs("lake", "restore", place, TRS_LAKE=str(world.folder / "third")).code == 2
