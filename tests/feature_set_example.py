"""The worked example of docs/feature_sets.md as files, so that the page cannot rot."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "feature_sets.md"
NAME = "sku_demand_features"
WITHOUT_MONTHS = "sku_demand_of_whole_articles"
"""The same rows by a set that makes no promise of months."""


def write_example(folder: Path) -> Path:
    """Writes the page's two files into a folder and returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, text in _blocks().items():
        (folder / f"{NAME}.{kind}").write_text(text, encoding="utf-8")
    return folder


def write_example_without_months(folder: Path) -> None:
    """Adds the same set under another name, without `month_column`."""
    found = _blocks()
    assert 'month_column = "month"\n' in found["toml"]
    found["toml"] = found["toml"].replace('month_column = "month"\n', "")
    for kind, text in found.items():
        (folder / f"{WITHOUT_MONTHS}.{kind}").write_text(text, encoding="utf-8")


def _blocks() -> dict[str, str]:
    """The code blocks of the page by language."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.findall(r"```(sql|toml)\n(.*?)```", text, flags=re.DOTALL)
    assert sorted(kind for kind, _ in found) == ["sql", "toml"]
    return dict(found)
