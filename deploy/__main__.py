"""Writes the templates anew, or says which of them are not as declared.

python -m deploy            # writes deploy/*.json
python -m deploy --check    # exit code 1, and the differences, where a file is not what would be written
"""

import difflib
import sys
from collections.abc import Callable
from pathlib import Path

from deploy.backups import backups_template
from deploy.bi_access import template as bi_access
from deploy.cloudformation import Json, rendered
from deploy.debezium import debezium_template
from deploy.foundation import foundation_template
from deploy.service import service_template

FOLDER = Path(__file__).parent
TEMPLATES: dict[str, Callable[[], Json]] = {
    "foundation.json": foundation_template,
    "service.json": service_template,
    "backups.json": backups_template,
    "debezium.json": debezium_template,
    "bi_access.json": bi_access,
}
_SHOWN = 40


def write() -> None:
    """Writes every template."""
    for name, body in TEMPLATES.items():
        (FOLDER / name).write_text(rendered(body()), encoding="utf-8")


def differences() -> list[str]:
    """Lines of a diff between the files and what would be written; empty where they agree."""
    found: list[str] = []
    for name, body in TEMPLATES.items():
        path = FOLDER / name
        there = path.read_text(encoding="utf-8") if path.exists() else ""
        before, after = there.splitlines(), rendered(body()).splitlines()
        found += difflib.unified_diff(before, after, f"deploy/{name}", "declared", lineterm="")
    return found


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: python -m deploy [--check]\n")
        return 2
    if not arguments:
        write()
        return 0
    lines = differences()
    if lines:
        more = f"\n... and {len(lines) - _SHOWN} lines more" if len(lines) > _SHOWN else ""
        sys.stderr.write("\n".join(lines[:_SHOWN]) + more + "\nwrite them anew: python -m deploy\n")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
