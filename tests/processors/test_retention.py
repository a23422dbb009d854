"""Tiers, and the thinning of any history: at every kept moment the same answer as before."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.errors import SettingsError
from processors.features.as_of import as_of_sql
from processors.features.declarations import INVOICE_FEATURES
from processors.lake_tables import LAKE_TABLES, changes_name
from processors.retention import DEFAULT_TIERS, Zone, floored, parse_tiers, verdicts_sql, zones

CHANGES = LAKE_TABLES[changes_name(INVOICE_FEATURES)].schema
NOW = datetime(2024, 6, 15, 13, 30, tzinfo=UTC)
DAY = timedelta(days=1)


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "`` is none"),
        ("90d", "`90d` is none"),
        ("90d:hour,*:month", "`90d:hour` is none"),
        ("0d:all,*:day", "`0d:all` is none"),
        ("90d:all", "the last one must be `*`"),
        ("*:all,90d:day", "comes after `*`"),
        ("90d:all,90d:day,*:month", "is not greater"),
        ("9d:all,90d:day,1y:all,*:month", "keeps no less"),
        ("9d:all,90d:day,1y:day,*:month", "keeps no less"),
        ("90d:day,*:month", "the first one must keep `all`"),
        ("*:month", "the first one must keep `all`, not `month`"),
    ],
)
def test_tiers_that_make_no_sense_are_refused(text: str, told: str) -> None:
    with pytest.raises(SettingsError, match=told.replace("*", r"\*")):
        parse_tiers(text)


def test_zones_are_cut_at_whole_days_and_months() -> None:
    cut = zones(parse_tiers(DEFAULT_TIERS), now=NOW, complete_through=NOW)
    assert cut == (
        Zone(None, day("2023-06-01"), "month"),
        Zone(day("2023-06-01"), day("2024-03-17"), "day"),
        Zone(day("2024-03-17"), None, "all"),
    )


def test_nothing_is_thinned_of_what_may_still_grow() -> None:
    cut = zones(parse_tiers("1d:all,2d:day,*:month"), now=NOW, complete_through=day("2024-02-10T05:00"))
    assert cut == (
        Zone(None, day("2024-02-01"), "month"),
        Zone(day("2024-02-01"), day("2024-02-10"), "day"),
        Zone(day("2024-02-10"), None, "all"),
    )


def test_week_begins_on_monday() -> None:
    assert floored(day("2024-06-16T23:59"), "week") == day("2024-06-10")
    assert floored(day("2024-06-10"), "week") == day("2024-06-10")


def history(seed: int, *, dense: bool = False) -> list[dict[str, Any]]:
    """Versions of a few invoices over two buckets: late ones, deletions, moments on the very edges of days."""
    chance = random.Random(seed)
    begin = NOW - (190 if dense else 800) * DAY
    clocks = {0: begin, 1: begin}
    epochs = {0: 0, 1: 0}
    rows = []
    lengths = [timedelta(milliseconds=1), timedelta(hours=3), DAY, *([] if dense else [9 * DAY, 70 * DAY])]
    for _ in range(1000 if dense else chance.randrange(1, 60)):
        bucket = chance.randrange(2)
        step = chance.choice(lengths)
        moment = clocks[bucket] + step
        if chance.random() < (0.1 if dense else 0.4):
            moment = max(floored(moment, chance.choice(["day", "month"])), clocks[bucket] + timedelta(milliseconds=1))
        clocks[bucket] = moment
        if moment > NOW:
            continue
        epochs[bucket] += 1
        for inv_id in chance.sample(range(4), chance.randrange(1, 4)):
            row = dict.fromkeys(CHANGES.names)
            rows.append(
                row
                | {"inv_id": inv_id, "acct_id": bucket, "inv_items": len(rows), "bucket": bucket}
                | {
                    "epoch": epochs[bucket],
                    "entity_bucket": 0,
                    "document_version": chance.randrange(8) + len(rows) // 50,
                }
                | {"deleted": chance.random() < 0.2, "known_from": moment, "valid_from": moment}
                | {"known_date": moment.date(), "feature_version": 1}
            )
    return list({(r["inv_id"], r["document_version"], r["epoch"]): r for r in rows}.values())


def as_of(con: duckdb.DuckDBPyConnection, rows: str, time: datetime) -> list[tuple[Any, ...]]:
    query = as_of_sql(INVOICE_FEATURES, changes=rows, reconstructed="nothing", time=time)
    return sorted(con.sql(f"FROM {query}").fetchall())


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    tiers=st.sampled_from(
        [
            DEFAULT_TIERS,
            "1d:all,*:year",
            "10d:all,40d:day,300d:week,*:month",
            "30d:all,100d:month,*:none",
            "5d:all,*:week",
            "1d:all,100d:week,*:month",
        ]
    ),
    held_s=st.sampled_from([0, 10**6, 5 * 10**7]),
)
def test_as_of_at_every_kept_moment_is_the_same_after_thinning(seed: int, tiers: str, held_s: int) -> None:
    rows = history(seed)
    cut = zones(parse_tiers(tiers), now=NOW, complete_through=NOW - timedelta(seconds=held_s))
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        con.register("arrow", pa.Table.from_pylist(rows, schema=CHANGES))
        con.execute("CREATE TABLE whole AS FROM arrow")
        con.execute(f"CREATE TABLE verdicts AS {verdicts_sql(INVOICE_FEATURES, 'whole', cut)}")
        con.execute("""
            CREATE TABLE thinned AS SELECT w.* FROM whole AS w
            SEMI JOIN (SELECT * FROM verdicts WHERE keep) AS v
              ON w.inv_id = v.inv_id AND w.document_version = v.document_version AND w.epoch = v.epoch
        """)
        assert con.sql("SELECT count(*) FROM verdicts").fetchall() == [(len(rows),)]
        moments = {r["known_from"] for r in random.Random(seed).sample(rows, min(len(rows), 15))} | {NOW}
        for zone in cut:
            edges = [z for z in (zone.begin, zone.end) if z is not None]
            moments |= {e + n * timedelta(milliseconds=1) for e in edges for n in (-1, 0, 1)}
        moments |= {
            floored(m, step) + n * DAY for m in moments for step in ("day", "week", "month", "year") for n in (0, 1)
        }
        kept = 0
        for moment in random.Random(seed).sample(sorted(moments), min(len(moments), 60)):
            zone = next(z for z in cut if z.end is None or moment <= z.end)
            if zone.keeps(moment):
                kept += 1
                assert as_of(con, "thinned", moment) == as_of(con, "whole", moment), (moment, zone)
        assert kept


@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    tiers=st.sampled_from([DEFAULT_TIERS, "10d:all,40d:day,200d:week,500d:month,*:year", "5d:all,90d:week,*:none"]),
    steps=st.lists(st.integers(1, 200), min_size=1, max_size=5),
)
def test_history_that_is_thinned_again_as_it_ages_still_answers_at_every_kept_moment(
    seed: int, tiers: str, steps: list[int]
) -> None:
    rows = history(seed, dense=True)
    parsed = parse_tiers(tiers)
    times = [NOW + timedelta(days=sum(steps[:n])) for n in range(len(steps) + 1)]
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        con.register("arrow", pa.Table.from_pylist(rows, schema=CHANGES))
        con.execute("CREATE TABLE whole AS FROM arrow")
        con.execute("CREATE TABLE thinned AS FROM whole")
        for now in times:
            cut = zones(parsed, now=now, complete_through=now)
            con.execute(f"CREATE OR REPLACE TABLE verdicts AS {verdicts_sql(INVOICE_FEATURES, 'thinned', cut)}")
            con.execute("""
                DELETE FROM thinned AS t USING verdicts AS v WHERE NOT v.keep
                AND t.inv_id = v.inv_id AND t.document_version = v.document_version AND t.epoch = v.epoch
            """)
        ends = {floored(r["known_from"], step) for r in rows for step in ("day", "week", "month", "year")}
        ends |= {floored(end + 32 * DAY, "month") for end in ends} | {times[-1]}
        kept = sorted(m for m in ends if any(z.holds(m) and z.keeps(m) for z in cut))
        for moment in random.Random(seed).sample(kept, min(len(kept), 40)):
            assert as_of(con, "thinned", moment) == as_of(con, "whole", moment), moment


def test_tier_of_weeks_keeps_the_ends_of_months() -> None:
    cut = zones(parse_tiers("30d:all,300d:week,*:month"), now=NOW, complete_through=NOW)
    assert cut[1].holds(day("2024-02-01"))
    assert [d for d in ("2024-01-29", "2024-02-01", "2024-02-05", "2024-02-06") if cut[1].keeps(day(d))] == [
        "2024-01-29",
        "2024-02-01",
        "2024-02-05",
    ]


def test_thinning_leaves_few_rows_of_a_busy_past() -> None:
    moments = [day("2023-01-01") + n * timedelta(hours=1) for n in range(24 * 500)]
    rows = [
        dict.fromkeys(CHANGES.names)
        | {"inv_id": 1, "bucket": 0, "epoch": n, "document_version": 1, "deleted": False, "known_from": m}
        | {"valid_from": m, "known_date": m.date()}
        for n, m in enumerate(moments)
    ]
    cut = zones(parse_tiers("90d:all,365d:day,*:month"), now=moments[-1], complete_through=moments[-1])
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        con.register("arrow", pa.Table.from_pylist(rows, schema=CHANGES))
        kept = dict(
            con.sql(
                f"SELECT zone, count(*) FROM ({verdicts_sql(INVOICE_FEATURES, 'arrow', cut)}) WHERE keep GROUP BY zone"
            ).fetchall()
        )
    assert cut[0].end == day("2023-05-01")
    assert kept[0] == 5  # January to April, and the very first row: the first moment of January
    assert kept[1] == (cut[1].end - cut[0].end).days  # type: ignore[operator]
    assert kept[2] == sum(m > cut[1].end for m in moments)  # type: ignore[operator]
