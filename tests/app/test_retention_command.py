"""`trs lake retain` on a lake of Delta tables: what is kept answers as before, readers and folds go on."""

import json
import random
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

from app.advise import advise
from app.lake_session import LakeSession
from app.retention import retain as run
from app.settings import Settings
from connectors import retention
from connectors.compaction import compact, data_files
from connectors.delta_lake import FOLDED_LOG_ROWS_ID, DeltaLake
from connectors.lake import LakeLocation
from processors.compaction import FileGroup
from processors.features.as_of import as_of_sql
from processors.features.declarations import INVOICE_FEATURES
from processors.lake_tables import LAKE_TABLES
from processors.retention import floored, parse_tiers, zones
from processors.retention_advice import Churn, rows_after
from tests.app.commands import trs
from tests.small_lake import SmallLake

CHANGES = "invoice_features_changes"
NOW = datetime.now(UTC)
TIERS = "30d:all,60d:day,*:month"


class KilledError(BaseException):
    """The process dies here."""


@pytest.fixture
def lake(tmp_path: Path) -> SmallLake:
    """120 days of changes of ten invoices, several a day, folded through 20 days ago."""
    small = SmallLake(tmp_path / "lake")
    DeltaLake(LakeLocation(small.uri))
    chance = random.Random(4)
    begin = floored(NOW, "day") - timedelta(days=120)
    rows = []
    for number in range(1500):
        known = begin + timedelta(seconds=number * 120 * 86_400 // 1500, milliseconds=chance.randrange(1000))
        rows.append(
            {"inv_id": chance.randrange(10), "acct_id": 1, "inv_items": number, "document_version": chance.randrange(3)}
            | {"entity_bucket": 0, "feature_version": 1, "known_from": known, "valid_from": known, "epoch": number}
            | {"deleted": chance.random() < 0.1}
        )
    small.append(CHANGES, *rows)  # one file per day
    mark = NOW.date() - timedelta(days=20)
    folded = [r for r in rows if r["known_from"].date() < mark]
    greatest: dict[int, dict[str, Any]] = {}
    for row in folded:
        old = greatest.get(row["inv_id"])
        if old is None or (row["document_version"], row["epoch"]) > (old["document_version"], old["epoch"]):
            greatest[row["inv_id"]] = row
    last = {"is_mark": True, "mark_bucket": 0, "mark_date": mark, "entity_bucket": 0, "known_from": NOW}
    small.append("invoice_features_folded", last | {"epoch": max(r["epoch"] for r in folded)}, *greatest.values())
    small.epoch("accounts", 0, 1500, NOW.strftime("%Y-%m-%dT%H:%M:%S"))
    return small


def answers(lake: SmallLake, moments: list[datetime]) -> list[list[tuple[Any, ...]]]:
    with LakeSession(Settings(lake=lake.uri)) as session:
        session.create_views([CHANGES])
        session.con.execute(f"CREATE TABLE copied AS FROM {CHANGES}")
        return [
            sorted(
                session.con.sql(
                    f"FROM {as_of_sql(INVOICE_FEATURES, changes='copied', reconstructed='none', time=moment)}"
                ).fetchall()
            )
            for moment in moments
        ]


def kept_moments() -> list[datetime]:
    days = [floored(NOW, "day") - timedelta(days=n) for n in range(121)]
    cut = zones(parse_tiers(TIERS), now=NOW, complete_through=NOW)
    later = [NOW - timedelta(hours=n) for n in range(0, 29 * 24, 17)]
    return [d for d in days + later if any(z.holds(d) and z.keeps(d) for z in cut)]


def current(lake: SmallLake) -> list[tuple[Any, ...]]:
    with LakeSession(Settings(lake=lake.uri)) as session:
        session.create_views(["invoice_features"])
        return session.con.sql("FROM invoice_features ORDER BY inv_id").fetchall()


def retain(lake: SmallLake, *arguments: str) -> dict[str, Any]:
    answer = trs("lake", "retain", "--tiers", TIERS, "--json", *arguments, TRS_LAKE=lake.uri)
    assert answer.code == 0, answer.err
    told: dict[str, Any] = json.loads(answer.out)["tables"][CHANGES]
    return told


def test_kept_moments_answer_as_before_and_current_rows_stay(lake: SmallLake) -> None:
    moments = kept_moments()
    assert len(moments) > 60
    before, rows_now = answers(lake, moments), current(lake)
    files = data_files(DeltaTable(f"{lake.uri}/{CHANGES}"))
    planned = retain(lake, "--plan")
    assert data_files(DeltaTable(f"{lake.uri}/{CHANGES}")) == files
    done = retain(lake, "--apply")
    assert done["dropped"] == planned["dropped"] == done["thinned_rows"] > 500
    assert answers(lake, moments) == before
    assert current(lake) == rows_now
    left = data_files(DeltaTable(f"{lake.uri}/{CHANGES}"))
    assert sum(f.rows for f in left) == sum(f.rows for f in files) - done["dropped"]
    assert planned["bytes_left"] == pytest.approx(sum(f.size_bytes for f in left), rel=0.1)
    assert planned["day_files_left"] == len({f.day for f in left}) < planned["day_files"]
    again = retain(lake, "--apply")
    assert (again["dropped"], again["days"]) == (0, 0)


def test_days_that_are_not_folded_yet_are_left_alone(lake: SmallLake, tmp_path: Path) -> None:
    bare = SmallLake(tmp_path / "bare")
    DeltaLake(LakeLocation(bare.uri))
    for n in range(3):
        bare.feature(1, f"2024-05-01T0{n}:00", epoch=n)
    bare.epoch("accounts", 0, 1, "2024-06-01")
    told = retain(bare, "--apply")
    assert told["dropped"] == 0
    assert sum(z["not_folded_yet"] for z in told["zones"]) == 1  # that of 01:00; a month begins with the first


def test_who_asks_for_a_time_that_is_not_kept_is_told(lake: SmallLake) -> None:
    retain(lake, "--apply")
    cut = zones(parse_tiers(TIERS), now=NOW, complete_through=NOW)
    assert cut[1].end is not None
    noon = cut[1].end - timedelta(days=3, hours=12)
    midnight = cut[1].end - timedelta(days=3)

    def told(time: datetime, *options: str) -> bool:
        answer = trs("features", "as-of", time.isoformat(), "--format", "csv", *options, TRS_LAKE=lake.uri)
        assert answer.code == 0
        return "may lack versions" in answer.err

    assert told(noon)
    assert not told(midnight)
    assert told(midnight, "--axis", "valid")
    assert not told(NOW - timedelta(days=1))


@pytest.mark.long
def test_fold_knows_how_many_rows_left_its_log(lake: SmallLake) -> None:
    uri, ids = f"{lake.uri}/invoice_features_folded", {"fold": 7, FOLDED_LOG_ROWS_ID: 1400}
    properties = CommitProperties(
        custom_metadata={"trs_ids": json.dumps(ids)}, app_transactions=[Transaction(i, v) for i, v in ids.items()]
    )
    empty = LAKE_TABLES["invoice_features_folded"].schema.empty_table()
    write_deltalake(uri, empty, mode="append", commit_properties=properties)
    dropped = retain(lake, "--apply")["dropped"]
    folded = DeltaTable(uri)
    assert folded.transaction_version(FOLDED_LOG_ROWS_ID) == 1400 - dropped
    assert folded.transaction_version("fold") == 8  # a fold that has begun gives way


@pytest.mark.long
def test_run_that_dies_between_days_leaves_a_right_lake_and_the_next_goes_on(
    lake: SmallLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = kept_moments()
    before = answers(lake, moments)
    planned = retain(lake, "--plan")
    days: list[date] = []
    whole = retention._rewrite

    def dying(*arguments: Any) -> bool:
        days.append(arguments[3])
        if len(days) == 20:
            raise KilledError
        return whole(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(retention, "_rewrite", dying)
        with pytest.raises(KilledError):
            trs("lake", "retain", "--tiers", TIERS, "--apply", TRS_LAKE=lake.uri)
    assert answers(lake, moments) == before
    assert 0 < retain(lake, "--apply")["dropped"] < planned["dropped"]
    assert answers(lake, moments) == before
    assert retain(lake, "--plan")["dropped"] == 0


@pytest.mark.long
def test_of_two_runs_at_once_one_ends_and_compactions_in_between_do_not_matter(lake: SmallLake) -> None:
    moments = kept_moments()
    before = answers(lake, moments)
    planned = retain(lake, "--plan")
    seen: list[int] = []

    def compacted() -> None:
        delta = DeltaLake(LakeLocation(lake.uri))
        with duckdb.connect() as con:
            delta.prepare(con)
            for file in data_files(delta.store.open(CHANGES))[:3]:
                assert compact(delta, con, LAKE_TABLES[CHANGES], FileGroup(file.day, (file,), parts=1)).committed

    def between(table: str, what: str, done: int, total: int) -> None:
        if (table, what) == (CHANGES, "thinned"):
            seen.append(done)
            if done == 2:
                compacted()
            if done == 5:
                assert retain(lake, "--apply")["dropped"] > 0

    first = run(Settings(lake=lake.uri), TIERS, apply_it=True, progress=between)
    done = next(d for d in first.done if d.table == CHANGES)
    assert (done.overtaken, done.days, seen) == (True, 5, [1, 2, 3, 4, 5])
    left = sum(f.rows for f in data_files(DeltaTable(f"{lake.uri}/{CHANGES}")))
    assert left == 1500 - planned["dropped"]
    assert answers(lake, moments) == before


@pytest.mark.long
def test_worker_goes_on_with_the_handle_that_it_had_before(lake: SmallLake) -> None:
    worker = DeltaLake(LakeLocation(lake.uri)).fenced(CHANGES)
    worker.open({"epoch:accounts:0": 1500}, {}, seen={})
    dropped = retain(lake, "--apply")["dropped"]
    schema = LAKE_TABLES[CHANGES].schema
    row = dict.fromkeys(schema.names) | {"inv_id": 77, "bucket": 0, "epoch": 1501, "document_version": 9}
    row |= {"known_from": NOW, "valid_from": NOW, "known_date": NOW.date(), "deleted": False}
    worker.append(pa.Table.from_pylist([row], schema=schema), {"epoch:accounts:0": 1501})
    assert sum(f.rows for f in data_files(DeltaTable(f"{lake.uri}/{CHANGES}"))) == 1501 - dropped


def test_tiers_that_make_no_sense_are_refused(lake: SmallLake) -> None:
    answer = trs("lake", "retain", "--tiers", "soon", TRS_LAKE=lake.uri)
    assert (answer.code, "`soon` is none" in answer.err) == (2, True)


def test_no_lake_is_said(tmp_path: Path) -> None:
    assert trs("lake", "retain", TRS_LAKE=str(tmp_path / "none")).code == 4


def test_advice_foretells_what_retain_leaves(lake: SmallLake) -> None:
    def measured() -> Churn:
        return next(c for c in advise(Settings(lake=lake.uri), **how).churns if c.table == CHANGES)

    how: dict[str, Any] = {"own": TIERS, "prices": None, "queries_per_month": 0}
    churn = measured()
    rows, _ = rows_after(churn, parse_tiers(TIERS), churn.days)
    foretold, _ = churn.size_after(rows, churn.days)
    retain(lake, "--apply")
    left = data_files(DeltaTable(f"{lake.uri}/{CHANGES}"))
    assert rows == pytest.approx(sum(f.rows for f in left), rel=0.2)
    assert foretold == pytest.approx(sum(f.size_bytes for f in left), rel=0.2)
    again = measured()  # of the days that are still whole
    assert (churn.days, again.days) == (119, 30)
    assert again.changes_per_day == pytest.approx(churn.changes_per_day, rel=0.05)


def test_time_travel_is_priced_from_what_upkeep_noted(lake: SmallLake) -> None:
    assert "is not known" in trs("lake", "advise", TRS_LAKE=lake.uri).out
    day = (NOW - timedelta(days=4)).date()
    about = {"table_name": "x", "began_at": NOW, "known_date": day}
    lake.append("upkeep", {"action": "fold", "bytes_before": 4 * 10**9, **about}, {"action": "vacuum", **about})
    out = trs("lake", "advise", TRS_LAKE=lake.uri).out
    assert "1,000.0 MB a day: $0.05 for 2 days, $0.16 for 7 days, $0.69 for 30 days" in out


def test_advice_is_printed_and_drawn(lake: SmallLake, tmp_path: Path) -> None:
    picture = tmp_path / "history.svg"
    answer = trs("lake", "advise", "--plot", str(picture), TRS_LAKE=lake.uri)
    assert answer.code == 0, answer.err
    assert "Recommended: " in answer.out
    assert "GB and grow by" in answer.out
    assert picture.read_text().startswith("<?xml")
    told = json.loads(trs("lake", "advise", "--json", "--tiers", "7d:all,*:day", TRS_LAKE=lake.uri).out)
    assert {p["tiers"] for p in told["plans"]} >= {"7d:all,*:day", "*:all"}
    history = next(h for h in told["histories"] if h["table"] == CHANGES)
    assert (history["rows"], history["entities"]) == (1500, 10)
    assert trs("lake", "advise", "--plot", str(tmp_path / "x.gif"), TRS_LAKE=lake.uri).code == 2
