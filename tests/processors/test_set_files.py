"""Feature sets from files: what is read, and the one line that says what is wrong."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from processors.errors import SettingsError
from processors.features.declarations import FOLDER_VARIABLE
from processors.features.set_files import read_feature_sets
from tests.feature_set_example import NAME, write_example

SQL = "SELECT account_id AS acct, count(*) AS n FROM documents GROUP BY account_id"
TOML = """
doc = "Invoices of an account."
version = 2
grain = "account"
entity_key = ["acct"]
owner_column = "acct"

[columns]
acct = { type = "BIGINT", doc = "The account." }
n = { type = "BIGINT", doc = "How many." }
"""


def write(folder: Path, *, toml: str = TOML, sql: str = SQL, name: str = "counts") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.toml").write_text(toml, encoding="utf-8")
    (folder / f"{name}.sql").write_text(sql, encoding="utf-8")
    return folder


def test_set_of_a_folder_is_as_declared(tmp_path: Path) -> None:
    (found,) = read_feature_sets(write(tmp_path / "sets"), what="F", check_sql=True)
    assert (found.name, found.version, found.grain, found.entity_key) == ("counts", 2, "account", ("acct",))
    assert [(c.name, c.sql_type) for c in found.columns] == [("acct", "BIGINT"), ("n", "BIGINT")]
    assert (found.sql, found.window_days, found.month_column) == (SQL, None, None)


def test_example_of_the_documentation_is_read(tmp_path: Path) -> None:
    (found,) = read_feature_sets(write_example(tmp_path), what="F", check_sql=True)
    assert (found.name, found.grain, found.month_column) == (NAME, "article", "month")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('doc = "Inv', 'docs = "Inv', "unknown field `docs`"),
        ("version = 2", "", "`version` is missing"),
        ("version = 2", 'version = "2"', "`version` is not a whole number"),
        ("version = 2", "version = true", "`version` is not a whole number"),
        ("version = 2", "version = 0", "`version` is below 1"),
        ("version = 2", "version = ", "not readable: Invalid value"),
        ('"account"', '"acount"', "`grain` is none of invoice, account, article"),
        ('["acct"]', "[1]", "`entity_key` is not a list of columns"),
        ('["acct"]', '["acct", "acct"]', "names a column twice"),
        ('["acct"]', '["n"]', "`entity_key` lacks `acct`"),
        ('["acct"]', '["other"]', "`other` is none of the columns"),
        ('n = { type = "BIGINT"', 'n = { type = "FLOAT"', "type `FLOAT` is none of BIGINT"),
        ('n = { type = "BIGINT", doc = "How many." }', 'n = "BIGINT"', "column `n`: write it as"),
        ("\nn = ", "\nepoch = ", "column `epoch`"),
        ("\nn = ", '\nacct = { type = "BIGINT", doc = "Again." }\nn = ', "not readable"),
        ("\nn = ", "\nm = ", "the SQL gives the columns acct, n, declared are acct, m"),
        ('acct = { type = "BIGINT"', 'acct = { type = "VARCHAR"', "its type is BIGINT"),
        ("version = 2", "version = 2\nwindow_days = 3", "`window_days` is a number above 0, of grain invoice only"),
        ("version = 2", 'version = 2\nmonth_column = "n"', "`month_column` is of grain article only"),
        ('"How many."', '" "', "a `doc` is empty"),
    ],
)
def test_wrong_declaration_is_one_line_that_names_file_and_fault(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in TOML
    folder = write(tmp_path / "sets", toml=TOML.replace(old, new, 1))
    with pytest.raises(SettingsError, match=re.escape(told)) as error:
        read_feature_sets(folder, what="F", check_sql=True)
    assert str(error.value).startswith(f"F: {folder / 'counts.toml'}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("SELECT nothing", "the SQL does not run"),
        (f"{SQL};", "the SQL does not run"),
        ("SELECT item_id AS acct, 1 AS n FROM charged_lines", "the SQL does not run"),
    ],
)
def test_sql_that_cannot_run_is_told(tmp_path: Path, sql: str, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        read_feature_sets(write(tmp_path / "sets", sql=sql), what="F", check_sql=True)


def test_file_without_its_other_half_a_missing_folder_and_a_taken_name_are_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no folder"):
        read_feature_sets(tmp_path / "nowhere", what="F")
    folder = write(tmp_path / "sets")
    with pytest.raises(SettingsError, match="a shipped set has this name"):
        read_feature_sets(folder, what="F", taken=("counts",))
    (folder / "counts.sql").unlink()
    with pytest.raises(SettingsError, match=re.escape("has counts.toml and no counts.sql")):
        read_feature_sets(folder, what="F")


def trs(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {FOLDER_VARIABLE: str(folder)}
    command = [sys.executable, "-m", "app.cli.main", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_command_shows_the_set_or_ends_with_the_one_line(tmp_path: Path) -> None:
    assert NAME in trs(write_example(tmp_path / "sets"), "features", "list", "--json").stdout
    settings = trs(tmp_path / "sets", "settings", "--json")
    assert str(tmp_path / "sets") in settings.stdout, settings.stderr
    wrong = trs(write(tmp_path / "wrong", toml=TOML.replace("doc", "docs", 1)), "features", "list")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1), wrong.stderr
    assert "unknown field `docs`" in wrong.stderr
    clash = trs(write(tmp_path / "clash", name="monthly_revenue"), "sql")
    assert (clash.returncode, clash.stderr.count("\n")) == (2, 1), clash.stderr
