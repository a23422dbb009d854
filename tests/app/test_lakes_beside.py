"""A new lake beside the present one, filled from the same topics; topics that are read again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.beside import COMPARED, compare_lakes, prepare
from connectors.rewind import rewind, stored_offsets
from processors.errors import FencedError, UsageError
from processors.installation import agree
from processors.tables import DOCUMENTS_TOPIC
from tests.app.commands import trs
from tests.app.lake_world import World, end
from tests.processors.engine_shell import PREFIX, event
from tests.waiting import wait_until


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.fill()
    yield made
    made.close()


def differing(world: World, other: str) -> list[str]:
    return [v.view for v in compare_lakes(world.settings(), str(world.folder / other)) if not v.equal]


def test_a_lake_prepared_beside_is_filled_from_the_same_topics_and_says_the_same(world: World) -> None:
    world.change(2, 3)
    end(world.shell())
    world.lake().control.close_run(world.lake().control.open_run("batch", {}), {})
    prepared = prepare(world.settings(), str(world.folder / "new"), partitions=1)
    assert world.lake("new").control.open_run("batch", {}) > prepared.runs_after > 1
    assert set(differing(world, "new")) == set(COMPARED)

    # both lakes read what both send: each takes its own documents alone
    end(world.shell("new"))
    assert differing(world, "new") == []
    world.change(4)
    end(world.shell("new"))
    assert set(differing(world, "new")) >= {"invoices", "invoice_features"}
    end(world.shell())
    assert differing(world, "new") == []
    world.is_sound("lake")
    world.is_sound("new")


def test_a_truncate_that_the_topics_hold_no_more_is_known_to_the_new_lake(world: World) -> None:
    world.topics.add("accounts", event("accounts", "t", 50, None))
    end(world.shell())
    world.topics.records[f"{PREFIX}.accounts"].pop()
    prepare(world.settings(), str(world.folder / "new"), partitions=1)
    end(world.shell("new"))
    assert differing(world, "new") == []


def test_a_prepared_lake_takes_workers_of_its_number_of_partitions_alone(world: World) -> None:
    end(world.shell())
    prepare(world.settings(), str(world.folder / "new"), partitions=4)
    lake = world.lake("new")
    agree(lake.control, lake.fenced("sku_log"), partitions=4, feature_sets=())
    with pytest.raises(UsageError, match="topics of 4 partitions"):
        agree(lake.control, lake.fenced("sku_log"), partitions=1, feature_sets=())


def test_compare_says_how_many_rows_differ_and_ends_with_15(world: World) -> None:
    end(world.shell())
    prepare(world.settings(), str(world.folder / "new"), partitions=1)
    told = trs("lake", "compare", str(world.folder / "new"), TRS_LAKE=str(world.folder / "lake"))
    assert told.code == 15
    assert "the lakes differ in accounts, skus, invoices" in told.err
    end(world.shell("new"))
    told = trs("lake", "compare", str(world.folder / "new"), "--json", TRS_LAKE=str(world.folder / "lake"))
    assert (told.code, '"equal": false' in told.out) == (0, False)


def test_prepare_refuses_a_place_with_a_lake(world: World) -> None:
    end(world.shell())
    with pytest.raises(UsageError, match="there is a lake at"):
        prepare(world.settings(), str(world.folder / "lake"), partitions=1)


@pytest.mark.parametrize(
    ("stage", "log", "topic"),
    [
        pytest.param("skus", "sku_log", "skus", marks=pytest.mark.long),
        pytest.param("invoices", "invoice_log", "invoice_line_items", marks=pytest.mark.long),
        ("accounts", "account_log", DOCUMENTS_TOPIC),
    ],
)
def test_a_topic_that_is_read_again_changes_no_row(world: World, stage: str, log: str, topic: str) -> None:
    world.change(2, 3)
    end(world.shell())
    before, name = world.current("lake"), f"{PREFIX}.{topic}"
    stood = stored_offsets(world.lake().store, log, name, 1)

    told = rewind(world.lake().store, stage=stage, log=log, topic=name, offsets={0: 0})
    assert told == stood
    assert stored_offsets(world.lake().store, log, name, 1) == {0: 0}

    again = world.shell()
    assert again.positions[name] == 0
    end(again)
    assert stored_offsets(world.lake().store, log, name, 1)[0] >= stood[0]
    assert world.current("lake") == before
    world.is_sound("lake")


def test_records_that_were_read_and_lost_come_back_by_reading_again(world: World) -> None:
    """A lake whose position ran ahead of its rows, as after a gap that was accepted too far."""
    end(world.shell())
    missed = event("invoices", "c", 60, {"invoice_id": 9, "account_id": 7, "date_issued": 18011, "payment_dates": None})
    name = f"{PREFIX}.invoices"
    world.topics.add("invoices", b"{}")  # stands at its offset while the lake passes it: a dead letter
    end(world.shell())
    place = len(world.topics.records[name]) - 1
    world.topics.records[name][place] = (b"{}", missed)
    assert not any(row[0] == "9" for row in world.current("lake"))
    rewind(world.lake().store, stage="invoices", log="invoice_log", topic=name, offsets={0: place})
    end(world.shell())
    assert any(row[0] == "9" for row in world.current("lake"))


def test_a_running_worker_is_refused_after_a_rewind_and_the_next_one_reads_from_there(world: World) -> None:
    running, name = world.shell(), f"{PREFIX}.invoices"
    running.settle()
    rewind(world.lake().store, stage="invoices", log="invoice_log", topic=name, offsets={0: 0})
    world.change(2)
    running.offer_all()
    wait_until(lambda: running.engine.failure.done(), timeout_s=60, what="the worker is refused")
    assert isinstance(running.engine.failure.exception(), FencedError)
    running.engine.stop()
    again = world.shell()
    assert again.positions[name] == 0
    end(again)
    world.is_sound("lake")


def test_nothing_is_skipped_by_a_rewind(world: World) -> None:
    end(world.shell())
    store, name = world.lake().store, f"{PREFIX}.invoices"
    for offset, reason in ((2, "stands at 1, 2 is not behind"),):
        with pytest.raises(UsageError, match=reason):
            rewind(store, stage="invoices", log="invoice_log", topic=name, offsets={0: offset})
    with pytest.raises(UsageError, match="has read nothing of it"):
        rewind(store, stage="invoices", log="invoice_log", topic=f"{PREFIX}.other", offsets={0: 0})
    assert stored_offsets(store, "invoice_log", name, 1) == {0: 1}
