"""The engine with a feature set by article: lines in, rows of `sku_demand_features` out, equal to the batch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from app.probes import parked_troubles
from connectors.delta_lake import DeltaLake
from connectors.lake import LakeLocation
from connectors.object_files import LakeReader
from processors.errors import UnavailableError
from processors.feature_stages import ItemStage
from processors.features.batch import LAKE_VIEWS, inputs_from_lake
from processors.features.declarations import SETS_BY_ARTICLE, feature_set
from processors.features.derive import derive_sql
from processors.fold import first_marks
from processors.lake_tables import INVOICES_KEYED
from processors.tables import CHARGED_LINES_TOPIC, DOCUMENTS_TOPIC
from processors.views.catalog import create_views
from tests.feature_set_example import NAME
from tests.processors.engine_shell import INVOICE, LINE, PREFIX, SKU, Shell, Topics, event, rows
from tests.waiting import wait_until

Demand = dict[tuple[str, str], tuple[Any, ...]]


@pytest.fixture
def location(tmp_path: Path) -> LakeLocation:
    return LakeLocation(str(tmp_path / "lake"))


@pytest.fixture
def topics() -> Topics:
    """Two articles, two invoices of January 2019 and one of March, with lines of both."""
    made = Topics()
    made.add("skus", event("skus", "r", 1, SKU), event("skus", "r", 2, SKU | {"item_id": "b"}))
    for number, day in ((1, 17_897), (2, 17_900), (3, 17_960)):
        made.add("invoices", event("invoices", "c", 10 * number, INVOICE | {"invoice_id": number, "date_issued": day}))
        for place, item in enumerate("ab" if number < 3 else "a"):
            row = LINE | {"invoice_id": number, "item_id": item}
            made.add("invoice_line_items", event("invoice_line_items", "c", 10 * number + 1 + place, row))
    return made


Open = Callable[..., Shell]


@pytest.fixture
def start(location: LakeLocation, topics: Topics, tmp_path: Path) -> Iterator[Open]:
    """Opens engines on the test's lake, `without` the stage of articles if told so; ends the one before."""
    opened: list[Shell] = []

    def begin(*, without: bool = False, **options: Any) -> Shell:
        for one in opened:
            one.engine.stop()
        given = Topics()
        given.records = topics.records
        given.sinks = {n: s for n, s in topics.sinks.items() if not (without and n == CHARGED_LINES_TOPIC)}
        opened.append(Shell(DeltaLake(location), given, tmp_path / f"spill-{len(opened)}", **options))
        return opened[-1]

    yield begin
    for one in opened:
        one.engine.stop()


@pytest.fixture
def shell(start: Open) -> Shell:
    return start()


def sent(topics: Topics, name: str) -> int:
    """How many documents, or lines, were sent."""
    values = [value for _, value in topics.records.get(f"{PREFIX}.{name}", [])]
    return sum(pa.ipc.open_stream(value).read_all().num_rows for value in values)


def look(location: LakeLocation) -> tuple[Demand, Demand]:
    """The current rows of the stream, and those of the batch over the logs."""
    declared = feature_set(NAME)
    assert declared is not None
    reader = LakeReader(location.uri, location.storage_options)
    con = reader.connect()
    create_views(con, [NAME, *LAKE_VIEWS], reader.relations)
    inputs_from_lake(con, price_at="creation")
    found: list[Demand] = []
    for relation in (NAME, derive_sql(declared)):
        table = con.sql(f"FROM {relation}").fetchall()
        found.append({(item, str(month)): tuple(values) for item, month, *values in table})
        assert len(found[-1]) == len(table), "a key twice"
    reader.close()
    return found[0], found[1]


def test_lines_become_rows_by_article_and_month_as_the_batch_has_them(shell: Shell, location: LakeLocation) -> None:
    shell.settle()
    stream, batch = look(location)
    assert stream == batch
    assert stream.keys() == {("a", "2019-01-01"), ("b", "2019-01-01"), ("a", "2019-03-01")}
    assert stream["a", "2019-01-01"][2] == 8


def test_invoice_that_moves_to_another_month_takes_its_lines_along(
    shell: Shell, topics: Topics, location: LakeLocation
) -> None:
    shell.settle()
    moved = INVOICE | {"invoice_id": 3, "date_issued": 17_990, "account_id": 8}
    topics.add("invoices", event("invoices", "u", 100, moved))
    shell.settle()
    stream, batch = look(location)
    assert stream == batch
    assert stream.keys() == {("a", "2019-01-01"), ("b", "2019-01-01"), ("a", "2019-04-01")}


def test_deleted_invoice_ends_the_rows_that_only_it_had(shell: Shell, topics: Topics, location: LakeLocation) -> None:
    shell.settle()
    topics.add("invoices", event("invoices", "d", 100, INVOICE | {"invoice_id": 3}))
    topics.add("invoice_line_items", event("invoice_line_items", "d", 101, LINE | {"invoice_id": 1, "item_id": "b"}))
    shell.settle()
    stream, batch = look(location)
    assert stream == batch
    assert stream.keys() == {("a", "2019-01-01"), ("b", "2019-01-01")}
    assert stream["b", "2019-01-01"][2] == 4


def test_price_that_arrives_late_is_in_the_rows_of_its_lines(
    start: Open, topics: Topics, location: LakeLocation
) -> None:
    prices = topics.records.pop(f"{PREFIX}.skus")
    shell = start()
    shell.settle()
    assert {values[4:6] for values in look(location)[0].values()} == {(0, 2), (0, 1)}
    topics.records[f"{PREFIX}.skus"] = prices
    shell.settle()
    stream, batch = look(location)
    assert stream == batch
    assert {values[5] for values in stream.values()} == {0}


def test_truncate_of_invoices_ends_every_row(shell: Shell, topics: Topics, location: LakeLocation) -> None:
    shell.settle()
    topics.add("invoices", event("invoices", "t", 500, None))
    wait_until(lambda: shell.settled() and not look(location)[0], timeout_s=60, what="no row is left")


def test_change_that_says_nothing_of_lines_writes_no_row(shell: Shell, topics: Topics, location: LakeLocation) -> None:
    shell.settle()
    before = rows(location, f"{NAME}_changes")
    topics.add("invoices", event("invoices", "u", 100, INVOICE | {"date_issued": 17_897, "payment_dates": 17_910}))
    shell.settle()
    assert max(r["epoch"] for r in rows(location, "item_log")) > max(r["epoch"] for r in before)
    assert rows(location, f"{NAME}_changes") == before


def test_first_set_on_a_lake_that_has_rows_is_filled_and_no_document_is_sent_again(
    start: Open, topics: Topics, location: LakeLocation
) -> None:
    start(without=True).settle()
    assert sent(topics, CHARGED_LINES_TOPIC) == 0
    documents = sent(topics, DOCUMENTS_TOPIC)
    shell = start()
    shell.settle()
    stream, batch = look(location)
    assert stream == batch
    assert len(stream) == 3
    assert sent(topics, DOCUMENTS_TOPIC) == documents
    assert sent(topics, CHARGED_LINES_TOPIC) == 5
    assert {r["valid_from"].timestamp() for r in rows(location, f"{NAME}_changes")} == {1_700_000_000}


@pytest.mark.parametrize("folded", [False, True])
def test_set_that_was_away_learns_what_happened_meanwhile(
    start: Open, topics: Topics, location: LakeLocation, folded: bool
) -> None:
    start().settle()
    away = start(without=True)
    topics.add("invoices", event("invoices", "d", 100, INVOICE | {"invoice_id": 3}))
    topics.add("invoice_line_items", event("invoice_line_items", "u", 101, LINE | {"item_id": "b", "quantity": 9}))
    away.settle()
    if folded:  # as a worker without the set does: no further than documents are sent
        epoch = max(r["epoch"] for r in rows(location, "invoice_log"))
        marks = first_marks(INVOICES_KEYED, [(0, 0)])
        marks = marks.set_column(marks.schema.get_field_index("epoch"), "epoch", pa.array([epoch], pa.int64()))
        states = pa.Table.from_pylist(
            [r | {"is_mark": False} for r in latest(rows(location, "invoice_log"))], schema=marks.schema
        )
        write_deltalake(location.table("invoice_log_folded"), pa.concat_tables([marks, states]), mode="append")
    before = sent(topics, CHARGED_LINES_TOPIC)
    start().settle()
    stream, batch = look(location)
    assert stream == batch
    assert stream["b", "2019-01-01"][2] == 13
    assert sent(topics, CHARGED_LINES_TOPIC) - before == (5 if folded else 3)


class DeafSink:
    """A topic whose brokers do not answer."""

    partitions = 1
    asked = 0

    def send(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        self.asked = len(keys)
        raise UnavailableError("no broker answers")

    def flush(self) -> dict[int, int]:
        return {}


def test_lines_that_were_committed_and_not_sent_are_sent_by_the_next_owner(
    start: Open, topics: Topics, location: LakeLocation
) -> None:
    hears, deaf = topics.sinks[CHARGED_LINES_TOPIC], DeafSink()
    topics.sinks[CHARGED_LINES_TOPIC] = deaf  # type: ignore[assignment]  # what the engine asks of a sink
    start(interval_s=0.1).offer_all()
    wait_until(lambda: deaf.asked > 0, timeout_s=60, what="lines are to be sent")
    topics.sinks[CHARGED_LINES_TOPIC] = hears
    start().settle()
    stream, batch = look(location)
    assert stream == batch
    assert len(stream) == 3


def latest(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The state of each key."""
    return list({(r["kind"], r["invoice_id"], r["item_id"]): r for r in sorted(log, key=lambda r: r["epoch"])}.values())


def test_higher_version_writes_what_differs(
    start: Open, location: LakeLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    start().settle()
    before = rows(location, f"{NAME}_changes")
    declared, other = SETS_BY_ARTICLE
    sql = declared.sql.replace("count(*) AS num_lines", "count(*) + (count(*) > 1)::INT AS num_lines")
    newer = replace(declared, version=2, sql=sql)

    class Newer(ItemStage):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given, feature_sets=(newer, other))

    monkeypatch.setattr("processors.engine.ItemStage", Newer)
    start().settle()
    written = [r for r in rows(location, f"{NAME}_changes") if r not in before]
    assert {(r["item_id"], str(r["month"]), r["num_lines"], r["feature_version"]) for r in written} == {
        ("a", "2019-01-01", 3, 2),
        ("b", "2019-01-01", 3, 2),
    }


def test_articles_of_newer_sets_are_parked_while_accounts_go_on(
    start: Open, topics: Topics, location: LakeLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Newer(ItemStage):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given, feature_sets=tuple(replace(f, version=f.version + 1) for f in SETS_BY_ARTICLE))

    with monkeypatch.context() as patched:
        patched.setattr("processors.engine.ItemStage", Newer)
        start().settle()
    demand = rows(location, f"{NAME}_changes")
    older = start()
    assert older.engine.parked == {0}
    (trouble,) = parked_troubles(older.engine.activities)
    assert trouble.sentence.startswith("stage items does nothing")
    topics.add("invoice_line_items", event("invoice_line_items", "u", 90, LINE | {"invoice_id": 1, "quantity": 70}))
    older.settle()
    assert any(r["inv_id"] == 1 and r["inv_items"] == 74 for r in rows(location, "invoice_features_changes"))
    assert rows(location, f"{NAME}_changes") == demand
