"""Backup and restore on lakes that the engine made, in every state in which a backup may meet them."""

import json
import shutil
import threading
from collections.abc import Iterator

import pytest

from app import backup as module
from app.backup import SKIPPED_RUNS, backup, pin_order, restore
from app.memory import plan_of
from app.wiring import build_engine
from connectors.lake import LakeStore
from processors.errors import OffsetGapError, RetryableError, SettingsError, UsageError
from processors.lake_tables import KEYED_TABLES, LAKE_TABLES
from processors.resume import PartitionLog, start_offset
from processors.tables import DOCUMENTS_TOPIC
from tests.app.commands import trs
from tests.app.lake_world import World, end, fold, goes_on
from tests.moto_s3 import s3_server
from tests.processors.engine_shell import ACCOUNT, INVOICE, PREFIX, SETTLE_S, event
from tests.waiting import wait_until


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
