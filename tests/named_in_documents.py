"""What a document names: code, commands, tests, files, settings, targets, links. For tests/test_documents.py."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from typer.main import get_command

from app.cli.main import build

ROOT = Path(__file__).parents[1]
FOLDERS = (
    *("app", "batch_bootstrap", "benchmarks", "connectors", "deploy", "devstack", "docs", "notebooks", "processors"),
    *("tests", "trs"),
)
"""Whatever begins with one of these and a slash is a path of the repository."""

_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^ {4}\S.*\n)+", re.MULTILINE)
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")


def read(name: str) -> str:
    """The text of a file of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def prose(text: str) -> str:
    """The text without its fenced blocks."""
    return _FENCE.sub("", text)


def spans(text: str) -> list[str]:
    """Code in the prose, each on one line."""
    return [" ".join(span.split()) for span in _SPAN.findall(prose(text))]


def shell(text: str) -> list[str]:
    """What may hold commands: blocks of shell or of no language by lines, without comments; code in the prose."""
    blocks = [body for language, body in _FENCE.findall(text) if language in ("", "sh")]
    blocks += _INDENTED.findall(prose(text))
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [re.sub(r"(^|\s)#.*", "", line) for line in lines] + spans(text)


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each `trs …` as the text that was written and its words, up to what ends a command in a shell."""
    for line in shell(text):
        for found in re.finditer(r"(?:^|[\s(`\"/])(?<!from )trs (?=[a-z-])([^|;&>)·#]*)", line):
            words = re.sub(r"\"[^\"]*\"?|'[^']*'?", "TEXT", found[1]).split()
            yield found[0].strip(), words


@cache
def command_line() -> Any:
    """The program's own tree of commands."""
    return get_command(build())


def wrong_with(words: list[str]) -> str | None:
    """What the program does not know of a command's words; None if it knows all."""
    node, path = command_line(), "trs"
    while words and hasattr(node, "commands") and re.fullmatch(r"[a-z][a-z-]*", words[0]):
        path, word = f"{path} {words[0]}", words[0]
        node, words = node.commands.get(word), words[1:]
        if node is None:
            return f"no command {path}"
    known = options_of(node)
    unknown = [o for o in _options(words) if o not in known]
    return f"{path} has no {unknown[0]}" if unknown else None


def options_of(node: Any) -> set[str]:
    """The options of one command."""
    own = {name for parameter in node.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return own | {"--help", "-h"}


def all_options() -> set[str]:
    """The options of all commands."""
    nodes, found = [command_line()], set[str]()
    while nodes:
        node = nodes.pop()
        found |= options_of(node)
        nodes += getattr(node, "commands", {}).values()
    return found


def _options(words: list[str]) -> list[str]:
    return [o for word in words for o in re.findall(r"^\[?(--[a-z][a-z-]*)", word)]


def bare_options(text: str) -> list[str]:
    """Options that stand alone, without their command."""
    return [m[1] for span in spans(text) if (m := re.match(r"(--[a-z][a-z-]*)", span))]


def targets(text: str) -> list[str]:
    """Targets of make."""
    found = (re.match(r"\s*make ((?:[A-Z]+=\S+ )*)([a-z-]+)", line) for line in shell(text))
    return [m[2] for m in found if m]


def modules(text: str) -> list[str]:
    """What `python -m` is given."""
    return [m for line in shell(text) for m in re.findall(r"python -m ([\w.]+)", line)]


def settings(text: str) -> list[str]:
    """Names of settings; a family is written with a star at its end."""
    return re.findall(r"(?<![A-Z_])TRS_[A-Z_]*[A-Z](?:_?\*)?|(?<![A-Z_])TRS_\*", text)


def paths(text: str) -> list[str]:
    """Files and folders of the repository, in code."""
    names = "|".join(FOLDERS)
    found = [m[0] for span in spans(text) if (m := re.match(rf"(?:{names})/[\w./-]*[\w/]", span))]
    return [path for path in found if "*" not in path]


def names_in_files(text: str) -> list[tuple[str, str]]:
    """(file, name) of what is written as `file.py`, `Name`."""
    return re.findall(r"`([\w/]+/\w+\.py)`,\s+`(\w+)`", prose(text))


def tests(text: str) -> list[tuple[str, str]]:
    """(file, function) of named tests."""
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)


def links(text: str) -> list[tuple[str, str]]:
    """(file, anchor) of links within the repository; either may be empty."""
    without_code = _SPAN.sub("`x`", prose(text))
    return [
        (file, anchor or "")
        for file, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", without_code)
        if not re.match(r"[a-z]+:", file)
    ]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as the site makes them."""
    titles = re.findall(r"^#+ (.+?) *$", prose(text), re.MULTILINE)
    plain = (re.sub(r"\]\([^)]*\)", "", title).lower() for title in titles)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title).strip()) for title in plain}
