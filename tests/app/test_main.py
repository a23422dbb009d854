"""The command line as a whole: wrong arguments, help, exit codes."""

from collections.abc import Iterator

import pytest
import typer
from typer.core import TyperGroup

from app.cli.main import build
from tests.app.commands import trs, trs_process


def commands() -> Iterator[tuple[str, ...]]:
    """Every command and group, as the words after `trs`."""

    def below(command: object, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield words
        if isinstance(command, TyperGroup):
            for name, each in command.commands.items():
                yield from below(each, (*words, name))

    return below(typer.main.get_command(build()), ())


@pytest.mark.parametrize("words", tuple(commands()), ids=" ".join)
def test_every_command_has_help_with_an_example(words: tuple[str, ...]) -> None:
    answer = trs(*words, "--help")
    assert answer.code == 0
    assert "Example: " in answer.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("features", "as-off", "now"), "Did you mean 'as-of'? (see trs features --help)"),
        (("features", "as-of", "now", "--fromat", "csv"), "No such option: --fromat"),
        (("features", "as-of", "now", "--axis", "foo"), "'--axis': 'foo' is not one of 'known', 'valid'"),
        (("features", "compare", "now"), "Missing argument 'time2' (see trs features compare --help)"),
        (("etl", "--source", "csv:x"), "Missing option '--out' (see trs etl --help)"),
        (("generate", "--to", "csv:x", "--invoices", "many"), "'--invoices'"),
        (("--unknown",), "No such option: --unknown (see trs --help)"),
        (("features", "as-of", "[red]now[/red]"), "`[red]now[/red]` is not a time"),
    ],
)
def test_wrong_argument_is_one_line(arguments: tuple[str, ...], said: str) -> None:
    answer = trs(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: ")
    assert said in answer.err
    assert len(answer.err.splitlines()) == 1


def test_group_alone_shows_its_help() -> None:
    answer = trs_process("lake")
    assert answer.code == 2
    assert "fold" in answer.out + answer.err
    assert "error" not in answer.err


def test_exit_code_of_a_command_is_that_of_the_process() -> None:
    assert trs_process("--version").code == 0
    assert trs_process("devstack", "status").code == 1
