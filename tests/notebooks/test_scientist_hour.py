"""notebooks/scientist_hour.ipynb runs from its first cell to its last over a small lake, and shows what it promises."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.months_of_trs import fill_months
from tests.small_lake import SmallLake

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "scientist_hour.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("notebook")
    lake = SmallLake(folder / "lake")
    fill_months(lake, datetime.now(UTC))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TRS_LAKE", lake.uri)
        environment.setenv("TRS_HOME", str(folder / "home"))
        environment.setenv("IPYTHONDIR", str(folder / "ipython"))
        environment.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
        client = NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": folder}})
        return client.execute()


def outputs(executed: Any, part_of_source: str) -> list[Any]:
    (cell,) = [c for c in executed.cells if c.cell_type == "code" and part_of_source in c.source]
    found: list[Any] = cell.outputs
    return found


def text(executed: Any, part_of_source: str) -> str:
    return "\n".join(o.get("text") or o["data"]["text/plain"] for o in outputs(executed, part_of_source))


def cells(shown: str) -> list[list[str]]:
    """The cells of a frame that polars printed."""
    return [[cell.strip(" │") for cell in line.split("┆")] for line in shown.splitlines() if "┆" in line]


def test_notebook_is_kept_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    kept = [c for c in notebook.cells if c.cell_type == "code" and (c.outputs or c.execution_count is not None)]
    assert kept == []


def test_nothing_warns(executed: Any) -> None:
    streams = [o for c in executed.cells if c.cell_type == "code" for o in c.outputs if o.output_type == "stream"]
    assert [s.text for s in streams if s.name == "stderr"] == []


def test_it_says_what_is_there(executed: Any) -> None:
    assert "invoice_features: 600 entities" in text(executed, "lake.describe()\nhere")


def test_the_month_that_differs_is_seen(executed: Any) -> None:
    assert " added, 0 removed, " in text(executed, "lake.compare(")
    (moved,) = [row for row in cells(text(executed, "lake.drift(")) if row[0] == "inv_items"]
    index, before, after = (float(moved[at]) for at in (1, 2, 4))
    assert index > 0.25
    assert 1.6 < after / before < 2.4, "its baskets are twice as large"


def test_drift_is_plotted(executed: Any) -> None:
    assert any("image/png" in o.get("data", {}) for o in outputs(executed, "PSI per feature"))


def test_the_leak_is_shown_beside_what_was_known(executed: Any) -> None:
    assert [row[1] for row in cells(text(executed, "leaky = "))][-2:] == ["0.0", "1.0"]


def test_time_before_the_first_version_is_refused(executed: Any) -> None:
    assert "lies too far back" in text(executed, "2001-01-01")
