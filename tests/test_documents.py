"""What the documents name exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(p.relative_to(ROOT).as_posix() for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_tests_and_files_that_a_document_names_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    missing = [f"{file}::{test}" for file, test in tests if f"\ndef {test}(" not in _content(ROOT / file)]
    links = [link for link in re.findall(r"\]\(([^)#:]+)", text) if not ((ROOT / name).parent / link).exists()]
    files = [f for f in re.findall(r"`([\w/]+/[\w/]*\w\.(?:py|sql|md|yml))`", text) if not (ROOT / f).exists()]
    assert missing + links + files == []


def _content(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.exists() else ""
