"""`trs lake verify` on lakes that the engine made: sound as it left them, each kind of damage is told."""

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

from app.settings import Settings
from app.verify import Verification, verify
from connectors.delta_lake import DeltaLake
from connectors.fold import fold_all
from connectors.lake import LakeLocation
from processors.errors import DamagedLakeError, UnavailableError, UnsettledLakeError
from processors.fold import all_that_waits
from processors.lake_tables import LAKE_TABLES
from processors.verify import checks
from tests.app.commands import trs
from tests.processors.engine_shell import ACCOUNT, INVOICE, LINE, PREFIX, SKU, Shell, Topics, event

Change = Callable[[pa.Table], pa.Table]
MOVED = INVOICE | {"account_id": 8, "payment_dates": 18100}


def shop() -> Topics:
    """Two SKUs, two accounts, three invoices; one invoice moves, one is deleted."""
    topics = Topics()
    topics.add("skus", event("skus", "r", 1, SKU), event("skus", "r", 2, SKU | {"item_id": "b"}))
    topics.add("accounts", event("accounts", "r", 3, ACCOUNT), event("accounts", "r", 4, ACCOUNT | {"account_id": 8}))
    topics.add("invoices", *(event("invoices", "c", 10 + n, INVOICE | {"invoice_id": n}) for n in (1, 2, 3)))
    topics.add(
        "invoice_line_items", *(event("invoice_line_items", "c", 20 + n, LINE | {"invoice_id": n}) for n in (1, 2))
    )
    return topics


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with a fold, a tail beyond it and two openings, all derived."""
    folder = tmp_path_factory.mktemp("sound")
    lake, topics = DeltaLake(LakeLocation(str(folder / "lake"))), shop()
    for number in range(2):
        shell = Shell(lake, topics, folder / f"spill-{number}")
        shell.settle()
        topics.add("invoices", event("invoices", "u", 40 + number, MOVED if number else INVOICE))
        topics.add("invoices", event("invoices", "d", 50 + number, INVOICE | {"invoice_id": 2 + number}))
        shell.settle()
        shell.engine.stop()
        if number == 0:
            with duckdb.connect() as con:
                lake.prepare(con)
                assert fold_all(lake, con, 1, all_that_waits())
    return folder / "lake"


@pytest.fixture
def lake(sound: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(sound, tmp_path / "lake")


def verified(lake: Path) -> Verification:
    settings = Settings(lake=str(lake), partitions=1, topic_prefix=PREFIX, threads=1)
    return verify(settings, price_at="creation", ask_kafka=False)


def failed(report: Verification) -> list[tuple[str, str, str]]:
    return [(o.check, o.table, o.promise) for o in report.outcomes if o.holds is False]


def add_rows(lake: Path, name: str, change: Change, *, where: str = "TRUE") -> None:
    """Appends changed copies of the rows of one table that are `where`."""
    store = DeltaLake(LakeLocation(str(lake)))
    with duckdb.connect() as con:
        store.prepare(con)
        rows = con.sql(f"SELECT * FROM {store.relation(name)} WHERE {where}").to_arrow_table()
    assert rows.num_rows > 0
    write_deltalake(f"{lake}/{name}", change(rows).cast(LAKE_TABLES[name].schema), mode="append")


def set_column(name: str, value: Callable[[object], object]) -> Change:
    """The rows with another value in one column."""

    def change(rows: pa.Table) -> pa.Table:
        place = rows.schema.get_field_index(name)
        values = pa.array([value(v) for v in rows[name].to_pylist()], rows.schema.field(place).type)
        return rows.set_column(place, rows.schema.field(place), values)

    return change


def set_ids(lake: Path, name: str, **ids: int) -> None:
    """An empty commit with application ids; `epoch_accounts_0` is `epoch:accounts:0`."""
    table = DeltaTable(f"{lake}/{name}")
    named = {key.replace("__", ":"): value for key, value in ids.items()}
    properties = CommitProperties(
        custom_metadata={"trs_ids": json.dumps(named)}, app_transactions=[Transaction(i, v) for i, v in named.items()]
    )
    write_deltalake(table, LAKE_TABLES[name].schema.empty_table(), mode="append", commit_properties=properties)


def same(rows: pa.Table) -> pa.Table:
    return rows


def test_lake_as_the_engine_left_it_holds_every_check(sound: Path) -> None:
    report = verified(sound)
    report.raise_unless_sound()
    assert len(report.outcomes) == len(checks())
    assert all(o.holds for o in report.outcomes)
    assert {o.table: o.rows for o in report.outcomes if o.check in ("features", "documents")} == {
        "account_log": 1,
        "invoice_features": 1,
        "account_features": 1,
    }


def test_lake_that_is_empty_holds_every_check(tmp_path: Path) -> None:
    DeltaLake(LakeLocation(str(tmp_path / "lake")))
    verified(tmp_path / "lake").raise_unless_sound()


@pytest.mark.parametrize("table", ["sku_log", "invoice_log", "account_log", "invoice_features_changes"])
def test_row_that_stands_twice_in_a_log_is_told(lake: Path, table: str) -> None:
    add_rows(lake, table, same)
    report = verified(lake)
    with pytest.raises(DamagedLakeError, match=f"keys of {table}"):
        report.raise_unless_sound()
    (told,) = [o for o in report.outcomes if o.holds is False and o.table == table]
    assert told.promise.startswith("no key twice per ")
    assert told.example is not None


def test_row_that_stands_twice_in_a_fold_is_told_there_and_in_the_current_rows(lake: Path) -> None:
    add_rows(lake, "sku_log_folded", same, where="NOT is_mark AND item_id = 'a'")
    keys = [(o.rows, o.failures, o.example) for o in verified(lake).outcomes if o.check == "keys" and not o.holds]
    assert keys == [(3, 1, "item_id a"), (3, 1, "item_id a")]


def test_second_mark_of_a_bucket_is_told(lake: Path) -> None:
    add_rows(lake, "account_log_folded", same, where="is_mark")
    assert ("keys", "account_log_folded", "one mark per bucket") in failed(verified(lake))


def test_row_that_a_fold_left_out_is_told(lake: Path) -> None:
    add_rows(lake, "invoice_log", set_column("item_id", lambda _: "b"), where="kind = 'line' AND invoice_id = 1")
    (told,) = [o for o in verified(lake).outcomes if not o.holds]
    assert (told.check, told.table, told.example) == (
        "folds",
        "invoice_log_folded",
        "kind line, invoice_id 1, item_id b",
    )


def test_epoch_that_stands_twice_is_told(lake: Path) -> None:
    add_rows(lake, "epochs", same, where="stage = 'skus' AND epoch = 2")
    assert failed(verified(lake)) == [("epochs", "epochs", "numbers rise strictly per stage and bucket")]


def test_epochs_row_ahead_of_its_log_with_offsets_that_step_back_is_told(lake: Path) -> None:
    def later(rows: pa.Table) -> pa.Table:
        entries = [{"topic": f"{PREFIX}.skus", "topic_id": "skus", "next_offset": 1}]
        rows = set_column("offsets", lambda _: entries)(rows)
        rows = set_column("known_through", lambda _: datetime.now(UTC) + timedelta(hours=1))(rows)
        return set_column("epoch", lambda _: 1000)(rows)

    add_rows(lake, "epochs", later, where="stage = 'skus' AND epoch = 2")
    assert failed(verified(lake)) == [
        ("epochs", "epochs", "offsets never step back"),
        ("epochs", "epochs", "the last row is not ahead of its log"),
    ]


def test_log_whose_offset_is_another_than_the_last_epochs_row_is_told(lake: Path) -> None:
    set_ids(lake, "sku_log", **{f"offset__{PREFIX}.skus__0": 77})
    assert failed(verified(lake)) == [("epochs", "epochs", "the last row has the offsets of its log")]


def test_rows_beyond_the_last_epoch_of_their_bucket_are_told(lake: Path) -> None:
    add_rows(lake, "invoice_log", set_column("epoch", lambda _: 1000), where="kind = 'line' AND invoice_id = 1")
    add_rows(lake, "account_features_changes", set_column("epoch", lambda _: 1000), where="NOT deleted")
    assert [told for told in failed(verified(lake)) if "beyond" in told[2]] == [
        ("epochs", "invoice_log", "no row beyond the bucket's last epoch"),
        ("history", "account_features_changes", "no row beyond the bucket's epoch in account_log"),
    ]


def test_history_that_steps_back_is_told(lake: Path) -> None:
    earlier = set_column("known_from", lambda t: t - timedelta(days=1) if isinstance(t, datetime) else None)
    add_rows(
        lake,
        "invoice_features_changes",
        lambda rows: set_column("document_version", lambda _: 0)(earlier(rows)),
        where="NOT deleted",
    )
    assert ("history", "invoice_features_changes", "known_from never steps back") in failed(verified(lake))


def test_feature_row_with_another_value_is_told_with_its_key(lake: Path) -> None:
    def another(rows: pa.Table) -> pa.Table:
        rows = set_column("inv_items", lambda _: 99)(rows)
        return set_column("document_version", lambda v: v + 100 if isinstance(v, int) else v)(rows)

    add_rows(lake, "invoice_features_changes", another, where="inv_id = 1 AND NOT deleted AND acct_id = 8")
    report = verified(lake)
    (told,) = [o for o in report.outcomes if not o.holds]
    assert (told.check, told.table, told.failures, told.example) == (
        "features",
        "invoice_features",
        1,
        "inv_id 1, lake has another",
    )


def test_line_that_no_document_holds_is_told_with_documents_and_features(lake: Path) -> None:
    last = DeltaTable(f"{lake}/invoice_log").transaction_version("epoch:invoices:0")

    def another_article(rows: pa.Table) -> pa.Table:
        return set_column("epoch", lambda _: last)(set_column("item_id", lambda _: "b")(rows))

    add_rows(lake, "invoice_log", another_article, where="kind = 'line' AND invoice_id = 1")
    assert failed(verified(lake)) == [
        ("documents", "account_log", "live documents equal those of invoice_log and sku_log"),
        ("features", "invoice_features", "rows equal those of the batch job over the logs"),
        ("features", "account_features", "rows equal those of the batch job over the logs"),
    ]


@pytest.mark.parametrize(
    ("table", "ids", "reason"),
    [
        ("invoice_log", {"epoch__invoices__0": 1000}, "documents are derived through less than the last epoch"),
        ("account_log", {"epoch__accounts__0": 1000}, "account_features are derived through less than the last"),
    ],
)
def test_cursor_behind_its_log_skips_what_is_derived(lake: Path, table: str, ids: dict[str, int], reason: str) -> None:
    set_ids(lake, table, **ids)
    report = verified(lake)
    assert [o.check for o in report.outcomes if o.holds is None] == ["documents", "features", "features"]
    assert not failed(report)
    with pytest.raises(UnsettledLakeError, match=reason):
        report.raise_unless_sound()


def test_price_that_no_invoice_has_used_skips_what_is_derived(lake: Path) -> None:
    add_rows(lake, "sku_log", set_column("epoch", lambda _: 1000), where="item_id = 'a'")
    set_ids(lake, "sku_log", epoch__skus__0=1000)
    with pytest.raises(UnsettledLakeError, match="prices of 1 SKU buckets are newer"):
        verified(lake).raise_unless_sound()


def test_command_prints_every_check_and_ends_with_the_codes_of_the_readme(
    lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise UnavailableError("Kafka does not answer")

    monkeypatch.setattr("app.verify.watermarks", away)
    settings = {"TRS_LAKE": str(lake), "TRS_PARTITIONS": "1", "TRS_TOPIC_PREFIX": PREFIX}
    answer = trs("lake", "verify", **settings)
    assert answer.code == 0, answer
    assert answer.out.count(" ok") == len(checks())
    assert "no document waits in Kafka: Kafka does not answer" in answer.err

    monkeypatch.setattr("app.verify.watermarks", lambda *_: {(f"{PREFIX}.invoice_documents", 0): (0, 1000)})
    answer = trs("lake", "verify", **settings)
    assert (answer.code, "invoice_documents wait in Kafka" in answer.err) == (13, True)

    add_rows(lake, "epochs", same, where="stage = 'skus' AND epoch = 2")
    answer = trs("lake", "verify", "--json", **settings)
    assert answer.code == 12
    assert sum(o["holds"] is False for o in json.loads(answer.out)["outcomes"]) == 1
