"""`trs lake register` and `trs lake ddl`: what they refuse, and that statements need nothing but settings."""

import pytest

from processors.lake_tables import LAKE_TABLES
from processors.views.catalog import VIEWS
from tests.app.commands import trs

AT = {"TRS_LAKE": "s3://bucket/lake/", "TRS_GLUE_DATABASE": "shop"}


@pytest.mark.parametrize("arguments", [("register",), ("ddl", "--engine", "athena")])
def test_lake_in_a_folder_is_refused_because_no_other_engine_reaches_it(arguments: tuple[str, ...]) -> None:
    answer = trs("lake", *arguments, TRS_LAKE="lake")
    assert answer.code == 2
    assert "TRS_LAKE" in answer.err
    assert answer.out == ""


@pytest.mark.parametrize("engine", ["athena", "trino"])
def test_statements_name_location_and_database_of_the_settings(engine: str) -> None:
    answer = trs("lake", "ddl", "--engine", engine, **AT)
    assert answer.code == 0, answer.err
    statements = [s for s in answer.out.split(";\n\n") if s.strip()]
    made = [s for s in statements if s.startswith(("CREATE EXTERNAL", "CALL", "CREATE OR REPLACE VIEW"))]
    assert len(made) == len(LAKE_TABLES) + len(VIEWS)
    assert all("shop" in s for s in statements)
    assert answer.out.count("'s3://bucket/lake/") == len(LAKE_TABLES)
    assert "s3://bucket/lake//" not in answer.out


def test_statements_of_one_view_come_with_what_it_reads() -> None:
    answer = trs("lake", "ddl", "--engine", "athena", "--view", "freshness", **AT)
    assert [line.rstrip(";") for line in answer.out.splitlines() if line.startswith("CREATE")] == [
        "CREATE DATABASE IF NOT EXISTS `shop`",
        "CREATE EXTERNAL TABLE IF NOT EXISTS `shop`.`epochs`",
        'CREATE OR REPLACE VIEW "shop"."freshness" AS',
    ]


def test_view_that_there_is_not_is_told_with_the_nearest() -> None:
    answer = trs("lake", "ddl", "--engine", "trino", "--view", "invoice", **AT)
    assert answer.code == 2
    assert "did you mean invoices?" in answer.err


def test_database_that_glue_would_refuse_is_refused_before() -> None:
    answer = trs("lake", "register", TRS_LAKE="s3://bucket/lake", TRS_GLUE_DATABASE="My Shop")
    assert answer.code == 2
    assert "TRS_GLUE_DATABASE" in answer.err
