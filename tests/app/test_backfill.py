"""`trs bootstrap backfill`: features at past month ends, against plain Python over the rows cut at each month end."""

import csv
import io
import json
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest
from deltalake import DeltaTable

from processors.features.declarations import FEATURE_SETS
from processors.lake_tables import reconstructed_name
from tests.app.commands import Answer, trs
from tests.oracle import HEADER, invoice_features
from tests.small_lake import SmallLake, at

OBSERVED = "2024-05-15T10:00"
"""When the lake saw its first row: invoice 1, all others it has only as documents."""
MONTH_ENDS = [date(y, m, 1) for y in (2023, 2024) for m in range(1, 13) if date(2023, 1, 1) < date(y, m, 1)][:16]
"""The ends of 2023-01 to 2024-04: the first moment of the next month."""


@dataclass(frozen=True)
class Invoice:
    number: int
    account: int
    issued: date
    paid: date | None
    total: int


@dataclass(frozen=True)
class Rows:
    """A source. An invoice has `total` pieces of an article that costs 1."""

    joined: dict[int, date]
    invoices: list[Invoice]

    def before(self, end: date) -> "Rows":
        """What existed before that day, by its dates."""
        return Rows(
            {a: day for a, day in self.joined.items() if day < end},
            [
                replace(i, paid=i.paid if i.paid is not None and i.paid < end else None)
                for i in self.invoices
                if i.issued < end
            ],
        )


def random_rows(seed: int) -> Rows:
    """Accounts that join before, within and after the months or are unknown; payments early, late, never, too early."""
    chance = random.Random(seed)
    joined = {a: date(2022, 10, 1) + timedelta(chance.randrange(700)) for a in range(1, 9)}
    invoices = []
    for number in range(1, 161):
        issued = date(2023, 1, 1) + timedelta(chance.randrange(580))
        # On the edges of months, where an error of a day shows.
        issued = issued.replace(day=1) - timedelta(chance.randrange(2)) if chance.random() < 0.3 else issued
        paid = None if chance.random() < 0.2 else issued + timedelta(chance.randrange(-3, 95))
        if paid is not None and chance.random() < 0.3:
            paid = paid.replace(day=1)
        invoices.append(Invoice(number, chance.randrange(1, 11), issued, paid, chance.randrange(-3, 40)))
    return Rows(joined, invoices)


def write_lake(rows: Rows, folder: Path) -> SmallLake:
    """A lake that holds these rows and observed invoice 1 at `OBSERVED`."""
    lake = SmallLake(folder)
    accounts = [
        {"kind": "account", "account_id": a, "invoice_id": -1, "company_name": f"Company {a}", "joining_date": day}
        for a, day in rows.joined.items()
    ]
    documents = [
        {
            "kind": "document",
            "account_id": i.account,
            "invoice_id": i.number,
            "document_state": "live",
            "document_version": 1,
            "date_issued": i.issued,
            "payment_dates": i.paid,
            "inv_total": Decimal(i.total),
            "inv_items": i.total,
            "unpriced_lines": 0,
            "lines": [],
        }
        for i in rows.invoices
    ]
    lake.append("account_log", *accounts, *documents)
    lake.append("control_log", {"entry": 1, "kind": "generation", "at": at(OBSERVED)})
    lake.feature(1, OBSERVED, acct_id=777, inv_total=Decimal(777))
    lake.epoch("accounts", 0, 1, "2024-05-16")
    return lake


def expected_invoices(rows: Rows, folder: Path) -> list[list[str]]:
    """`invoice_features` by the oracle of the extracts, which reads CSV files."""
    folder.mkdir(parents=True, exist_ok=True)
    tables: dict[str, list[dict[str, object]]] = {
        "skus": [{"item_id": "x", "item_retail_price": 1}],
        "accounts": [{"account_id": a, "joining_date": day} for a, day in rows.joined.items()],
        "invoices": [
            {"invoice_id": i.number, "account_id": i.account, "date_issued": i.issued, "payment_dates": i.paid}
            for i in rows.invoices
        ],
        "invoice_line_items": [{"invoice_id": i.number, "item_id": "x", "quantity": i.total} for i in rows.invoices],
    }
    headers = {"accounts": ["account_id", "joining_date"], "invoices": ["invoice_id", "account_id", "date_issued"]}
    for name, lines in tables.items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]) if lines else headers.get(name, ["invoice_id"]))
            writer.writeheader()
            writer.writerows(lines)
    return invoice_features(folder)[1:]


def expected_accounts(rows: Rows) -> list[list[object]]:
    """`account_features` in plain Python."""
    of_account: dict[int, list[Invoice]] = defaultdict(list)
    for invoice in rows.invoices:
        of_account[invoice.account].append(invoice)
    result: list[list[object]] = []
    for account, own in sorted(of_account.items()):
        waits = [(i.paid - i.issued).days for i in own if i.paid is not None]
        revenue, first, last = sum(i.total for i in own), min(i.issued for i in own), max(i.issued for i in own)
        basket = (Decimal(revenue) / len(own)).quantize(Decimal("1e-10"), ROUND_HALF_UP)
        late = sum(w > 30 for w in waits) / len(own)
        to_pay = sum(waits) / len(waits) if waits else None
        between = (last - first).days / (len(own) - 1) if len(own) > 1 else None
        result.append([account, len(own), Decimal(revenue), basket, late, to_pay, first, last, between])
    return result


def backfill(lake: SmallLake, *arguments: str) -> Answer:
    return trs("bootstrap", "backfill", *arguments, TRS_LAKE=lake.uri)


def as_of(lake: SmallLake, time: str, *arguments: str) -> list[dict[str, str]]:
    answer = trs("features", "as-of", time, "--format", "csv", *arguments, TRS_LAKE=lake.uri)
    assert answer.code == 0, answer.err
    return list(csv.DictReader(io.StringIO(answer.out)))


def reconstructed(lake: SmallLake, name: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = DeltaTable(f"{lake.uri}/{name}_reconstructed").to_pyarrow_table().to_pylist()
    return rows


def state(lake: SmallLake, name: str, key: str, end: date) -> list[list[object]]:
    """The latest row of each entity at a month end, by key, read without our code."""
    latest: dict[object, dict[str, object]] = {}
    for row in sorted(reconstructed(lake, name), key=lambda r: str(r["valid_from"])):
        if str(row["valid_from"]) <= f"{end} 00:00:00+00:00":
            latest[row[key]] = row
    columns = next(f.column_names for f in FEATURE_SETS if f.name == name)
    return [[latest[k][c] for c in columns] for k in sorted(latest, key=lambda k: int(str(k)))]


@pytest.fixture(scope="module")
def rows() -> Rows:
    return random_rows(1)


@pytest.fixture(scope="module")
def lake(rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> SmallLake:
    """A lake after a backfill."""
    lake = write_lake(rows, tmp_path_factory.mktemp("backfill") / "lake")
    answer = backfill(lake)
    assert answer.code == 0, answer.err
    return lake


@pytest.mark.parametrize("end", MONTH_ENDS, ids=str)
def test_invoice_features_at_every_month_end_equal_the_oracle(
    lake: SmallLake, rows: Rows, end: date, tmp_path: Path
) -> None:
    expected = expected_invoices(rows.before(end), tmp_path)
    found = as_of(lake, end.isoformat(), "--axis", "valid")
    assert [[row[c] for c in HEADER] for row in found] == expected


@pytest.mark.parametrize("end", MONTH_ENDS, ids=str)
def test_account_features_at_every_month_end_equal_the_oracle(lake: SmallLake, rows: Rows, end: date) -> None:
    assert state(lake, "account_features", "acct_id", end) == expected_accounts(rows.before(end))


def test_an_unchanged_entity_has_no_second_row(lake: SmallLake) -> None:
    for name, key in (("invoice_features", "inv_id"), ("account_features", "acct_id")):
        columns = next(f.column_names for f in FEATURE_SETS if f.name == name)
        previous: dict[object, list[object]] = {}
        for row in sorted(reconstructed(lake, name), key=lambda r: str(r["valid_from"])):
            values = [row[c] for c in columns]
            assert previous.get(row[key]) != values
            previous[row[key]] = values


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_what_is_dated_later_changes_no_month_before(seed: int, tmp_path: Path) -> None:
    rows, end = random_rows(seed), date(2023, 9, 1)
    whole, cut = write_lake(rows, tmp_path / "whole"), write_lake(rows.before(end), tmp_path / "cut")
    for lake in (whole, cut):
        assert backfill(lake).code == 0
    for feature_set in FEATURE_SETS:

        def until(lake: SmallLake, name: str = feature_set.name, key: str = feature_set.entity_key[0]) -> list[object]:
            found = [r for r in reconstructed(lake, name) if str(r["valid_from"]) <= f"{end} 00:00:00+00:00"]
            left_out = ("run_id", "backfilled_at")
            kept = [{k: v for k, v in r.items() if k not in left_out} for r in found]
            return sorted(kept, key=lambda r: (str(r["valid_from"]), int(str(r[key]))))

        assert until(whole) == until(cut) != []


def test_axis_known_and_the_plain_names_ignore_what_is_reconstructed(lake: SmallLake) -> None:
    assert as_of(lake, "2024-05-01") == []
    assert [row["inv_id"] for row in as_of(lake, "2024-05-16")] == ["1"]
    counted = "SELECT count(*) AS n, any_value(acct_id) AS acct_id FROM invoice_features"
    answer = trs("sql", counted, "--format", "json", TRS_LAKE=lake.uri)
    assert json.loads(answer.out) == [{"n": 1, "acct_id": 777}]


def test_an_observed_row_wins_on_axis_valid(lake: SmallLake, rows: Rows) -> None:
    first = next(i for i in rows.invoices if i.number == 1)
    assert first.issued < MONTH_ENDS[-1]
    before = {row["inv_id"]: row["acct_id"] for row in as_of(lake, "2024-05-15T09:59:59", "--axis", "valid")}
    after = {row["inv_id"]: row["acct_id"] for row in as_of(lake, "2024-05-15T10:00", "--axis", "valid")}
    assert before["1"] == str(first.account)
    assert after == before | {"1": "777"}


def test_a_deletion_that_was_observed_hides_the_reconstructed_rows(rows: Rows, tmp_path: Path) -> None:
    lake = write_lake(rows, tmp_path / "lake")
    lake.feature(1, "2024-05-20", epoch=2, document_version=2, deleted=True)
    assert backfill(lake).code == 0
    assert "1" in {row["inv_id"] for row in as_of(lake, "2024-05-18", "--axis", "valid")}
    assert "1" not in {row["inv_id"] for row in as_of(lake, "2024-05-21", "--axis", "valid")}


def test_history_tells_the_origin_and_claims_no_knowledge(lake: SmallLake) -> None:
    query = """SELECT origin, count(*) AS n, count(known_from) AS known FROM invoice_features_history
        GROUP BY origin ORDER BY origin"""
    answer = trs("sql", query, "--format", "json", TRS_LAKE=lake.uri)
    observed, rebuilt = json.loads(answer.out)
    assert observed == {"origin": "observed", "n": 1, "known": 1}
    n = len(reconstructed(lake, "invoice_features"))
    assert rebuilt == {"origin": "reconstructed", "n": n, "known": 0}


def test_every_row_says_what_it_cannot_know(lake: SmallLake) -> None:
    for feature_set in FEATURE_SETS:
        found = reconstructed(lake, feature_set.name)
        assert {r["origin"] for r in found} == {"reconstructed"}
        assert {tuple(r["unknowns"]) for r in found} == {("prices", "deletions", "edits", "entry_dates")}  # type: ignore[arg-type]
        assert {r["watermark"] for r in found} == {at("2024-05-16")}


def test_another_run_replaces_the_one_before(rows: Rows, tmp_path: Path) -> None:
    lake = write_lake(rows, tmp_path / "lake")
    assert backfill(lake).code == 0
    answer = backfill(lake, "--from", "2023-06", "--to", "2023-07", "--json")
    summary = json.loads(answer.out)
    assert (summary["from"], summary["to"], summary["months"]) == ("2023-06", "2023-07", 2)
    for feature_set in FEATURE_SETS:
        found = reconstructed(lake, feature_set.name)
        assert {r["run_id"] for r in found} == {summary["run_id"]}
        assert {str(r["valid_from"])[:10] for r in found} == {"2023-07-01", "2023-08-01"}
        keys = {r[feature_set.entity_key[0]] for r in found}
        assert summary["feature_sets"][feature_set.name] == {"rows": len(found), "entities": len(keys)}
    assert state(lake, "account_features", "acct_id", date(2023, 8, 1)) == expected_accounts(
        rows.before(date(2023, 8, 1))
    )


def test_a_run_that_stops_leaves_what_was_there(rows: Rows, tmp_path: Path) -> None:
    from app.backfill import backfill as run
    from app.settings import Settings

    lake = write_lake(rows, tmp_path / "lake")
    assert backfill(lake).code == 0
    before = {f.name: DeltaTable(f"{lake.uri}/{reconstructed_name(f)}").version() for f in FEATURE_SETS}

    def stop(done: int, _: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Settings(lake=lake.uri), first=None, last=None, progress=stop)
    assert before == {f.name: DeltaTable(f"{lake.uri}/{reconstructed_name(f)}").version() for f in FEATURE_SETS}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--from", "2023-13"), "`2023-13` is not a month"),
        (("--from", "2023"), "`2023` is not a month"),
        (("--to", "2024-05"), "give 2024-04 at the latest"),
        (("--from", "2023-05", "--to", "2023-04"), "no month lies between 2023-05 and 2023-04"),
    ],
)
def test_months_that_make_no_sense_are_refused(lake: SmallLake, arguments: tuple[str, ...], said: str) -> None:
    answer = backfill(lake, *arguments)
    assert answer.code == 2
    assert said in answer.err


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda _: None, "there is no lake at"),
        (lambda lake: lake.append("control_log", {"entry": 1, "kind": "generation"}), "no features yet"),
    ],
    ids=["none", "empty"],
)
def test_a_lake_without_rows_is_refused(tmp_path: Path, prepare: Callable[[SmallLake], None], said: str) -> None:
    lake = SmallLake(tmp_path / "lake")
    prepare(lake)
    answer = backfill(lake)
    assert answer.code != 0
    assert said in answer.err


def test_verify_finds_a_row_that_claims_a_time_after_the_first_observation(rows: Rows, tmp_path: Path) -> None:
    from app.settings import Settings
    from app.verify import verify

    lake = write_lake(rows, tmp_path / "lake")
    assert backfill(lake, "--from", "2024-03").code == 0

    def broken() -> set[tuple[str, str]]:
        found = verify(Settings(lake=lake.uri), price_at="creation", ask_kafka=False)
        return {(o.table, o.promise) for o in found.outcomes if o.failures and o.table.endswith("_reconstructed")}

    assert broken() == set()
    late = {"inv_id": 5, "valid_from": at("2024-06-01"), "origin": "reconstructed", "run_id": "another"}
    lake.append("invoice_features_reconstructed", late, late)
    assert broken() == {
        ("invoice_features_reconstructed", "no entity twice per month end"),
        ("invoice_features_reconstructed", "no month end after the first observation"),
        ("invoice_features_reconstructed", "the rows of one run alone"),
    }


def test_an_account_that_joins_in_a_quiet_month_gets_its_age_then(tmp_path: Path) -> None:
    """Nothing but the joining is dated in 2023-06; random rows are too dense to show it."""
    rows = Rows(
        {1: date(2023, 6, 20)}, [Invoice(1, 1, date(2023, 2, 3), None, 5), Invoice(2, 2, date(2023, 2, 4), None, 6)]
    )
    lake = write_lake(rows, tmp_path / "lake")
    assert backfill(lake).code == 0
    for end in (date(2023, 6, 1), date(2023, 7, 1)):
        found = as_of(lake, end.isoformat(), "--axis", "valid")
        assert [[row[c] for c in HEADER] for row in found] == expected_invoices(rows.before(end), tmp_path / str(end))
    assert len(reconstructed(lake, "invoice_features")) == 3
