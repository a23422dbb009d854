"""What stage C makes of charged lines: in any order, repetition and split into epochs, the batch over the latest."""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processors import feature_rows, item_features, item_rows
from processors.block_codec import BlockDecoder, encode_blocks, placed_rows
from processors.errors import UsageError
from processors.features.feature_set import FeatureSet
from processors.features.set_files import read_feature_sets
from processors.line_codec import LINE_BLOCKS, LINE_SCHEMA
from processors.records import RawBatch
from tests.feature_set_example import write_example, write_example_without_months
from tests.murmur2 import murmur2
from tests.processors.block_records import rows_sent
from tests.processors.row_oracle import Line, sku_demand_features_of

Row = dict[str, Any]
DAYS = [date(2024, 1, 30) + timedelta(n) for n in range(4)]


def stamp(version: int) -> datetime:
    """A version's source time."""
    return datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=version)


@st.composite
def histories(draw: st.DrawFn) -> list[list[Row]]:
    """Versions of the lines of some invoices, in epochs; some come twice, some in the wrong order."""
    versions: list[Row] = []
    for invoice in range(1, draw(st.integers(1, 4)) + 1):
        for version in range(1, draw(st.integers(1, 4)) + 1):
            account, day = draw(st.integers(1, 2)), draw(st.sampled_from(DAYS))
            for item in draw(st.lists(st.sampled_from("ab"), unique=True)):
                line: Row = dict.fromkeys(LINE_SCHEMA.names)
                line |= {"bucket": ord(item) % 2, "item_id": item, "invoice_id": invoice, "line_version": version}
                line |= {"invoice_bucket": 0, "deleted": draw(st.booleans()), "source_ts": stamp(version)}
                if not line["deleted"]:
                    price = draw(st.sampled_from([None, Decimal("1.5"), Decimal("-0.0000000001")]))
                    line |= {
                        "account_id": account,
                        "date_issued": day,
                        "quantity": draw(st.integers(-2, 2)),
                        "price": price,
                    }
                versions.append(line)
    arriving = draw(st.permutations(versions + draw(st.lists(st.sampled_from(versions or [{}]), max_size=3))))
    arriving = [v for v in arriving if v]
    cuts = sorted(draw(st.lists(st.integers(0, len(arriving)), max_size=3)))
    return [arriving[a:b] for a, b in zip([0, *cuts], [*cuts, len(arriving)], strict=True)]


class World:
    """Both buckets in one place, and everything that was written of each set."""

    def __init__(self, con: duckdb.DuckDBPyConnection, sets: tuple[FeatureSet, ...]) -> None:
        self.con = con
        self.sets = sets
        self.written: dict[str, list[Row]] = {f.name: [] for f in sets}
        self._epoch = 0
        item_rows.create_state(con)
        for feature_set in sets:
            feature_rows.create_state(con, feature_set)

    def rows(self, query: str) -> list[Row]:
        found: list[Row] = self.con.sql(query).to_arrow_table().to_pylist()
        return found

    def epoch(self, lines: list[Row]) -> None:
        self._epoch += 1
        self.con.execute(
            f"CREATE OR REPLACE TEMP TABLE owned AS SELECT range::INTEGER AS bucket, {self._epoch}::BIGINT AS epoch"
            " FROM range(2)"
        )
        numbered = [line | {"row_offset": offset} for offset, line in enumerate(lines)]
        self.con.register("arrived", pa.Table.from_pylist(numbered, schema=LINE_SCHEMA))
        item_rows.merge_lines(self.con, lines="arrived", owned="owned")
        item_features.touch_changed(self.con)
        self.derive()

    def derive(self, *, whole: bool = False) -> None:
        for feature_set in self.sets:
            if whole:
                self.con.execute("CREATE OR REPLACE TEMP TABLE cursors AS SELECT * FROM owned")
                item_features.touch_buckets(self.con, feature_set, cursors="cursors")
            item_features.derive(self.con, feature_set, owned="owned", whole=whole)
            self.written[feature_set.name] += self.rows(feature_rows.rows_sql(feature_set))


@pytest.fixture(scope="module")
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'; SET threads = 1")
        yield connection


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureSet, ...]:
    """The example of the documentation, with and without its promise of months."""
    folder: Path = write_example(tmp_path_factory.mktemp("sets"))
    write_example_without_months(folder)
    return read_feature_sets(folder, what="F", check_sql=True)


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(epochs=histories())
def test_rows_after_any_arrival_are_the_batch_over_the_latest_lines(
    con: duckdb.DuckDBPyConnection, sets: tuple[FeatureSet, ...], epochs: list[list[Row]]
) -> None:
    world = World(con, sets)
    for lines in epochs:
        world.epoch(lines)
    latest: dict[tuple[str, int], Row] = {}
    for line in (line for lines in epochs for line in lines):
        key = line["item_id"], line["invoice_id"]
        if key not in latest or line["line_version"] > latest[key]["line_version"]:
            latest[key] = line
    names = ("item_id", "invoice_id", "account_id", "date_issued", "quantity", "price")
    wanted = sku_demand_features_of(Line(**{n: r[n] for n in names}) for r in latest.values() if not r["deleted"])
    for feature_set in sets:
        newest = {(r["item_id"], r["month"]): r for r in world.written[feature_set.name]}
        values = feature_set.column_names[2:]
        live = {key: tuple(r[c] for c in values) for key, r in newest.items() if not r["deleted"]}
        assert live == wanted
        state = world.rows(f"FROM {feature_rows.state_name(feature_set)}")
        assert {(r["item_id"], r["month"]): tuple(r[c] for c in values) for r in state} == wanted
        assert len(state) == len(wanted), "a key twice"
    before = {name: len(rows) for name, rows in world.written.items()}
    world.derive(whole=True)
    assert {name: len(rows) for name, rows in world.written.items()} == before


def test_row_bears_the_time_of_the_line_that_changed_it(
    con: duckdb.DuckDBPyConnection, sets: tuple[FeatureSet, ...]
) -> None:
    line = {"bucket": 0, "item_id": "a", "invoice_bucket": 0, "account_id": 1, "quantity": 1, "deleted": False}
    early = line | {"invoice_id": 1, "date_issued": DAYS[0], "line_version": 1, "source_ts": stamp(1)}
    late = line | {"invoice_id": 2, "date_issued": DAYS[3], "line_version": 2, "source_ts": stamp(2)}
    (by_month,) = (f for f in sets if f.month_column is not None)
    world = World(con, (by_month,))
    world.epoch([early])
    world.epoch([late, early | {"line_version": 2, "source_ts": stamp(2)}])  # says the same again
    written = [(r["month"].month, r["valid_from"]) for r in world.written[by_month.name]]
    assert written == [(1, stamp(1)), (2, stamp(2))]


def test_set_that_breaks_its_promise_of_months_is_told(
    con: duckdb.DuckDBPyConnection, sets: tuple[FeatureSet, ...]
) -> None:
    (by_month,) = (f for f in sets if f.month_column is not None)
    broken = FeatureSet(**vars(by_month) | {"sql": by_month.sql.replace("date_trunc('month', ", "(")})
    line = {"bucket": 0, "item_id": "a", "invoice_id": 1, "line_version": 1, "deleted": False, "date_issued": DAYS[0]}
    with pytest.raises(UsageError, match="is not the first day of a month"):
        World(con, (broken,)).epoch([line | {"account_id": 1, "quantity": 1, "source_ts": stamp(1)}])


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)


def line_rows(items: list[str], price: Decimal) -> list[dict[str, Any]]:
    """A live and a deleted line in turns."""
    return [
        dict.fromkeys(LINE_SCHEMA.names)
        | {"item_id": item, "invoice_id": 2**62, "deleted": bool(place % 2), "line_version": 7, "invoice_bucket": 3}
        | ({} if place % 2 else {"account_id": -1, "date_issued": DAYS[0], "quantity": -3, "price": price})
        | {"source_ts": stamp(place)}
        for place, item in enumerate(items)
    ]


def encode_lines(
    con: duckdb.DuckDBPyConnection, rows: list[dict[str, Any]], partitions: int
) -> list[tuple[bytes, bytes]]:
    con.register("written", pa.Table.from_pylist(rows, schema=LINE_SCHEMA))
    parts = placed_rows(con, LINE_BLOCKS, "written", partitions=partitions)
    slices = [s for rows in parts for s in encode_blocks(LINE_BLOCKS, rows, generation='g"1')]
    return [record for keys, values in slices for record in zip(keys, values, strict=True)]


@settings(max_examples=20)
@given(items=st.lists(TEXTS, min_size=1, max_size=4), price=st.decimals("-9999999999", "9999999999", places=10))
def test_line_is_read_as_it_was_written(con: duckdb.DuckDBPyConnection, items: list[str], price: Decimal) -> None:
    written = line_rows(items, price)
    ((key, value),) = encode_lines(con, written, 1)
    assert json.loads(key) == {"item_id": items[0]}
    rows, ignored, dead = BlockDecoder(LINE_BLOCKS, generation='g"1').decode([RawBatch.of("t", 5, [(key, value)])])
    assert (dict(ignored), dead.num_rows) == ({}, 0)
    assert rows.to_pylist() == [r | {"bucket": 5, "row_offset": 0} for r in written]


def test_lines_of_an_article_lie_in_its_partition(con: duckdb.DuckDBPyConnection) -> None:
    items = ["a", "b", "\u00e9", 'q"', "a"] * 3
    for key, value in encode_lines(con, line_rows(items, Decimal(1)), 8):
        found = {row["item_id"] for row in rows_sent(LINE_BLOCKS, [value], generation='g"1')}
        keys = [json.dumps({"item_id": i}, ensure_ascii=False, separators=(",", ":")).encode() for i in found]
        assert {murmur2(k) % 8 for k in keys} == {murmur2(key) % 8}


@pytest.mark.parametrize(
    "changes",
    [
        *({name: None} for name in ("item_id", "invoice_id", "deleted", "line_version", "invoice_bucket")),
        *({name: None} for name in ("account_id", "date_issued", "quantity")),
        {"deleted": True},
        {"deleted": True, "account_id": None, "date_issued": None, "quantity": None},  # with a price
    ],
)
def test_line_that_we_would_not_write_is_dead(con: duckdb.DuckDBPyConnection, changes: dict[str, Any]) -> None:
    (line,) = line_rows(["a"], Decimal(1))
    bad, good = (encode_lines(con, [row], 1)[0] for row in (line | changes, line))
    rows, _, dead = BlockDecoder(LINE_BLOCKS, generation='g"1').decode([RawBatch.of("t", 5, [bad, good])])
    assert (rows["row_offset"].to_pylist(), dead["reason"].to_pylist()) == ([1], ["bad_document"])
