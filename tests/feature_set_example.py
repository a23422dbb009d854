"""The worked example of docs/feature_sets.md as files, so that the page cannot rot."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "feature_sets.md"
NAME = "sku_demand_features"


def write_example(folder: Path, *, version: int | None = None, sql: tuple[str, str] | None = None) -> Path:
    """Writes the page's two files into a folder and returns it. `version`, and a replacement in the SQL, if given."""
    folder.mkdir(parents=True, exist_ok=True)
    found = dict(re.findall(r"```(sql|toml)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL))
    assert found.keys() == {"sql", "toml"}
    if sql is not None:
        assert sql[0] in found["sql"]
        found["sql"] = found["sql"].replace(*sql)
    if version is not None:
        found["toml"] = found["toml"].replace("version = 1", f"version = {version}")
    for kind, text in found.items():
        (folder / f"{NAME}.{kind}").write_text(text, encoding="utf-8")
    return folder
