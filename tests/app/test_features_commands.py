"""`trs features`: as of any time on both axes, and what changed between two."""

import csv
import json
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from processors.features.declarations import INVOICE_FEATURES
from tests.app.commands import Answer, trs
from tests.small_lake import SmallLake, at


@pytest.fixture
def lake(tmp_path: Path) -> SmallLake:
    """Invoices 1 (changed), 2 (removed), 3 (added), 4 (unchanged); complete through 2024-05-20."""
    lake = SmallLake(tmp_path / "lake")
    total = {"inv_total": Decimal("10"), "cum_tot_inv_acct": Decimal("10"), "is_late": 0, "acct_age": 5}
    total |= {"inv_items": 1, "num_inv_120d": 0}
    lake.feature(1, "2024-05-01T10:00", valid="2024-04-01", epoch=1, **total)
    lake.feature(2, "2024-05-01T10:00", valid="2024-04-01", epoch=1, **total)
    lake.feature(4, "2024-05-01T10:00", valid="2024-04-01", epoch=1, **total)
    changed = total | {"inv_total": Decimal("12.125"), "cum_tot_inv_acct": Decimal("12.125"), "acct_age": None}
    lake.feature(1, "2024-05-10T10:00", valid="2024-05-03", epoch=2, document_version=2, **changed)
    lake.feature(2, "2024-05-10T10:00", valid="2024-05-03", epoch=2, document_version=2, deleted=True)
    lake.feature(3, "2024-05-10T10:00", valid="2024-05-03", epoch=2, document_version=1, **total)
    lake.feature(1, "2024-05-11T10:00", valid="2024-04-02", epoch=3, document_version=1, **total)
    for stage in ("skus", "invoices", "accounts"):
        lake.epoch(stage, 0, 1, "2024-05-18")
        lake.epoch(stage, 0, 2, "2024-05-20")
    return lake


def features(lake: SmallLake, *arguments: str) -> Answer:
    return trs("features", *arguments, TRS_LAKE=lake.uri)


def ids(lake: SmallLake, *arguments: str) -> list[tuple[str, str]]:
    answer = features(lake, "as-of", *arguments, "--format", "csv")
    assert answer.code == 0, answer.err
    return [(row["inv_id"], row["inv_total"]) for row in csv.DictReader(answer.out.splitlines())]


def test_as_of_before_the_first_change_is_empty(lake: SmallLake) -> None:
    assert ids(lake, "2024-05-01T09:59:59.999999Z") == []


def test_as_of_the_very_moment_of_a_change_includes_it(lake: SmallLake) -> None:
    assert ids(lake, "2024-05-01T10:00:00") == [("1", "10.00"), ("2", "10.00"), ("4", "10.00")]


def test_as_of_with_a_zone_is_turned_to_utc(lake: SmallLake) -> None:
    assert ids(lake, "2024-05-01T12:00:00+02:00") == ids(lake, "2024-05-01T10:00:00")
    assert ids(lake, "2024-05-01T11:59:59+02:00") == []


def test_as_of_after_changes_drops_the_deleted_and_ignores_late_lower_versions(lake: SmallLake) -> None:
    assert ids(lake, "2024-05-15") == [("1", "12.125"), ("3", "10.00"), ("4", "10.00")]


def test_as_of_on_the_valid_axis_uses_the_sources_clock(lake: SmallLake) -> None:
    assert ids(lake, "2024-04-15", "--axis", "valid") == [("1", "10.00"), ("2", "10.00"), ("4", "10.00")]
    assert ids(lake, "2024-05-03", "--axis", "valid") == [("1", "12.125"), ("3", "10.00"), ("4", "10.00")]


def test_as_of_past_the_watermark_warns_and_answers(lake: SmallLake) -> None:
    at_mark = features(lake, "as-of", "2024-05-20", "--format", "csv")
    past = features(lake, "as-of", "now", "--format", "csv")
    assert "may still change" not in at_mark.err
    assert "complete through 2024-05-20" in past.err
    assert past.out == at_mark.out


def test_as_of_watermark_is_that_of_the_slowest_bucket(lake: SmallLake) -> None:
    lake.epoch("accounts", 1, 1, "2024-05-12")
    assert "complete through 2024-05-12" in features(lake, "as-of", "2024-05-20").err


def test_as_of_says_as_of_when_on_stderr(lake: SmallLake) -> None:
    assert "3 rows of invoice_features as of 2024-05-15T00:00:00Z" in features(lake, "as-of", "2024-05-15").err


@pytest.mark.parametrize("axis", ["known", "valid"])
def test_as_of_before_the_history_says_when_it_begins(lake: SmallLake, axis: str) -> None:
    before = features(lake, "as-of", "2020-01-01", "--axis", axis)
    assert before.code == 0
    assert f"nothing was {axis} then: the first row of invoice_features is of 2024-0" in before.err
    assert "nothing was" not in features(lake, "as-of", "2024-05-15", "--axis", axis).err


def test_as_of_to_parquet_has_the_declared_types(lake: SmallLake, tmp_path: Path) -> None:
    out = tmp_path / "features.parquet"
    assert features(lake, "as-of", "2024-05-15", "--out", str(out)).code == 0
    table = pq.read_table(out)
    assert table.schema.names == list(INVOICE_FEATURES.column_names)
    assert table.schema.types == [c.arrow_type for c in INVOICE_FEATURES.columns]
    assert table["inv_id"].to_pylist() == [1, 3, 4]


def test_as_of_with_json_keeps_decimals_exact(lake: SmallLake) -> None:
    first = json.loads(features(lake, "as-of", "2024-05-15", "--format", "json").out)[0]
    assert (first["inv_id"], first["inv_total"], first["acct_age"]) == (1, "12.125", None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("as-of", "yesterday"), "`yesterday` is not a time"),
        (("as-of", "now", "--feature-set", "invoice_feature"), "did you mean invoice_features?"),
        (("as-of", "now", "--out", "x.xlsx"), "neither .csv nor .parquet"),
        (("as-of", "now", "--out", "/nowhere/at/all/x.csv"), "does not exist"),
    ],
)
def test_wrong_argument_is_one_line_and_exit_code_2(lake: SmallLake, arguments: tuple[str, ...], said: str) -> None:
    answer = features(lake, *arguments)
    assert answer.code == 2
    assert said in answer.err
    assert len(answer.err.splitlines()) == 1


def test_compare_counts_entities_and_changes_per_column(lake: SmallLake) -> None:
    answer = json.loads(features(lake, "compare", "2024-05-02", "2024-05-15", "--json").out)
    counts = {k: answer[k] for k in ("entities", "added", "removed", "changed")}
    assert counts == {"entities": {"before": 3, "after": 3}, "added": 1, "removed": 1, "changed": 1}
    assert answer["columns"]["inv_total"] == {
        "changed": 1,
        "sum_before": "30.00",
        "sum_after": "32.125",
        "mean_before": 10.0,
        "mean_after": 32.125 / 3,
    }
    assert {c for c, v in answer["columns"].items() if v["changed"]} == {"inv_total", "cum_tot_inv_acct", "acct_age"}
    assert answer["columns"]["acct_age"]["mean_after"] == 5.0


def test_compare_shows_old_beside_new(lake: SmallLake) -> None:
    answer = features(lake, "compare", "2024-05-02", "2024-05-15")
    assert "1 added, 1 removed, 1 changed" in answer.out
    cells = [line.split() for line in answer.out.splitlines()]
    assert ["1", "inv_total", "10.00", "12.125"] in cells
    assert ["acct_age", "5", "null"] in cells


def test_compare_of_a_time_with_itself_finds_nothing(lake: SmallLake) -> None:
    answer = json.loads(features(lake, "compare", "2024-05-15", "2024-05-15", "--json").out)
    assert (answer["added"], answer["removed"], answer["changed"]) == (0, 0, 0)


def test_compare_writes_every_difference(lake: SmallLake, tmp_path: Path) -> None:
    out = tmp_path / "differences.csv"
    assert features(lake, "compare", "2024-05-02", "2024-05-15", "--out", str(out)).code == 0
    with out.open(newline="") as file:
        rows = {r["inv_id"]: (r["change"], r["inv_total_before"], r["inv_total_after"]) for r in csv.DictReader(file)}
    assert rows == {"1": ("changed", "10.00", "12.125"), "2": ("removed", "10.00", ""), "3": ("added", "", "10.00")}


def test_list_names_every_column(lake: SmallLake) -> None:
    listed = json.loads(features(lake, "list", "--json").out)
    assert [c["name"] for c in listed[0]["columns"]] == list(INVOICE_FEATURES.column_names)


@pytest.mark.parametrize("axis", ["known", "valid"])
@pytest.mark.parametrize("time", ["2024-05-05", "2024-05-15", "latest"])
def test_as_of_sql_for_duckdb_asks_what_the_command_answers(lake: SmallLake, time: str, axis: str) -> None:
    statement = features(lake, "as-of", time, "--axis", axis, "--sql")
    assert statement.code == 0, statement.err
    pasted = trs("sql", statement.out, "--format", "csv", TRS_LAKE=lake.uri)
    assert pasted.out == features(lake, "as-of", time, "--axis", axis, "--format", "csv").out
    assert len(pasted.out.splitlines()) > 1


def test_as_of_latest_is_what_counts_now(lake: SmallLake) -> None:
    assert ids(lake, "latest") == ids(lake, "now")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("--sql", "--out", "x.csv"), "leave out one of them"), (("--engine", "spark"), "add --sql")],
)
def test_as_of_sql_with_what_does_not_belong_to_it_is_refused(
    lake: SmallLake, arguments: tuple[str, ...], said: str
) -> None:
    answer = features(lake, "as-of", "now", *arguments)
    assert answer.code == 2
    assert said in answer.err


def history(lake: SmallLake, *arguments: str) -> list[dict[str, object]]:
    answer = features(lake, "history", *arguments, "--format", "json")
    assert answer.code == 0, answer.err
    rows: list[dict[str, object]] = json.loads(answer.out)
    return rows


def test_history_has_every_version_with_its_interval_and_what_it_changed(lake: SmallLake) -> None:
    rows = history(lake, "1")
    names = ("inv_total", "known_from", "known_until", "valid_until", "changed", "document_version")
    first, second, third = ("2024-05-01T10:00:00Z", "2024-05-10T10:00:00Z", "2024-05-11T10:00:00Z")
    assert [tuple(row[n] for n in names) for row in rows] == [
        ("10.00", first, second, "2024-04-02T00:00:00Z", None, 1),
        # Known after version 2 was: it never counted for the lake, at the source it did until that.
        ("10.00", third, third, "2024-05-03T00:00:00Z", [], 1),
        ("12.125", second, None, None, ["inv_total", "acct_age", "cum_tot_inv_acct"], 2),
    ]


def test_history_of_a_deleted_entity_ends_with_its_deletion(lake: SmallLake) -> None:
    rows = history(lake, "2")
    assert [(r["deleted"], r["changed"], r["origin"]) for r in rows] == [
        (False, None, "observed"),
        (True, None, "observed"),
    ]


def test_history_begins_with_what_was_reconstructed(lake: SmallLake) -> None:
    past = {
        "inv_id": 4,
        "acct_id": 1,
        "inv_total": Decimal(9),
        "valid_from": at("2024-03-01"),
        "origin": "reconstructed",
    }
    lake.append("invoice_features_reconstructed", past)
    rows = history(lake, "4")
    assert [(r["origin"], r["known_from"], r["valid_until"]) for r in rows] == [
        ("reconstructed", None, "2024-04-01T00:00:00Z"),
        ("observed", "2024-05-01T10:00:00Z", None),
    ]


def test_history_of_an_unknown_entity_is_empty_and_says_so(lake: SmallLake) -> None:
    answer = features(lake, "history", "99")
    assert answer.code == 0
    assert "0 versions in invoice_features of inv_id 99; the lake is complete through 2024-05-20" in answer.err


def test_history_prints_like_its_sisters(lake: SmallLake, tmp_path: Path) -> None:
    rows = list(csv.DictReader(features(lake, "history", "1", "--format", "csv").out.splitlines()))
    assert [r["inv_total"] for r in rows] == ["10.00", "10.00", "12.125"]
    assert "12.125" in features(lake, "history", "1").out
    out = tmp_path / "history.parquet"
    assert features(lake, "history", "1", "--out", str(out)).code == 0
    assert pq.read_table(out)["changed"].to_pylist()[2] == ["inv_total", "acct_age", "cum_tot_inv_acct"]


@pytest.mark.parametrize(
    ("key", "said"),
    [(["x"], "`x` is not a value of inv_id"), (["1.5"], "whole number"), (["1", "2"], "2 values for the key")],
)
def test_history_of_a_wrong_key_is_refused(lake: SmallLake, key: list[str], said: str) -> None:
    answer = features(lake, "history", *key)
    assert answer.code == 2
    assert said in answer.err
