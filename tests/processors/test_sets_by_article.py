"""The laws hold with a feature set by article too, and without one nothing of it is there.

Tables and stages are declared at import, from the folder that TRS_FEATURE_SETS names: hence a process of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from processors.features.declarations import FEATURE_SETS, FOLDER_VARIABLE, SETS_BY_ARTICLE
from processors.lake_tables import LAKE_TABLES, STAGE_LOGS, outputs_of_invoices
from processors.tables import TOPICS
from tests.feature_set_example import write_example, write_example_without_months

_REPOSITORY = Path(__file__).parents[2]
_LAW_RUNS = os.environ.get("TRS_LAW_RUNS")  # before a fixture takes all settings away
_WITH_A_SET = ("tests/by_article", "tests/processors/test_cluster_laws.py")


@pytest.mark.timeout(1200)
def test_laws_hold_with_a_set_by_article(tmp_path: Path) -> None:
    sets = write_example(tmp_path / "sets")
    write_example_without_months(sets)
    # The other price mode is played by `make laws`, and by the test on the stack.
    fewer = ("-k", "not current") if _LAW_RUNS is None else ()
    environment = os.environ | {"TRS_LAW_RUNS": _LAW_RUNS or "1", FOLDER_VARIABLE: str(sets)}
    options = ("-n", "0", "-q", "-x", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'tests'}")
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *fewer, *_WITH_A_SET],
        cwd=_REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert tests.returncode == 0, tests.stdout[-8000:] + tests.stderr[-2000:]


def test_installation_without_a_set_by_article_has_nothing_of_it() -> None:
    assert SETS_BY_ARTICLE == ()
    assert {f.name for f in FEATURE_SETS} == {"invoice_features", "account_features"}
    assert "charged_lines" not in TOPICS
    assert set(STAGE_LOGS) == {"skus", "invoices", "accounts"}
    assert outputs_of_invoices() == ("documents",)
    assert not [name for name in LAKE_TABLES if name.startswith("item_")]
