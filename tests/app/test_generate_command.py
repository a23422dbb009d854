"""`trs generate`: places that cannot take files end in one line."""

from pathlib import Path

import pytest

from tests.app.commands import trs


@pytest.mark.parametrize("place", ["/proc/extracts", "{file}/extracts"])
def test_generate_into_an_impossible_place_is_one_line(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = place.format(file=tmp_path / "file")
    answer = trs("generate", "--invoices", "10", "--to", f"csv:{folder}")
    assert answer.code == 2
    assert folder in answer.err
    assert answer.err.count("\n") == 1
