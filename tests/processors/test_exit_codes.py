"""The page of exit codes: every error has a code with advice, and the page is the one that the errors make."""

from pathlib import Path

from processors.exit_codes import ADVICE, markdown, tree

PAGE = Path(__file__).parents[2] / "docs" / "exit_codes.md"


def test_the_page_is_as_the_errors_make_it() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown()


def test_every_code_has_advice_and_no_advice_is_of_a_code_that_nothing_gives() -> None:
    assert {e.exit_code for e in tree()} == ADVICE.keys()


def test_every_error_says_what_it_means() -> None:
    assert [e.__name__ for e in tree() if not e.__doc__] == []
