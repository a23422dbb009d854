"""The bill of materials is the image's lock, and a known vulnerability does not pass."""

import json
import re

import pytest

from deploy.dependencies import LOCK, bill_of_materials, verdict

KNOWN = {"id": "PYSEC-1", "fix_versions": ["2.0"]}


def test_bill_names_every_package_of_the_lock_with_its_hashes_and_is_the_same_each_time() -> None:
    lock = LOCK.read_text(encoding="utf-8")
    bill = json.loads(bill_of_materials(lock))
    assert bill["bomFormat"] == "CycloneDX"
    assert {c["purl"] for c in bill["components"]} == {
        f"pkg:pypi/{name}@{version}" for name, version in re.findall(r"^([a-z0-9.-]+)==(\S+)", lock, re.MULTILINE)
    }
    assert sum(len(c["hashes"]) for c in bill["components"]) == lock.count("--hash=sha256:")
    assert bill_of_materials(lock) == bill_of_materials(lock)
    assert bill_of_materials(lock.replace("\n", "\n\n", 1)) != bill_of_materials(lock)


@pytest.mark.parametrize(
    ("packages", "passes", "said"),
    [
        ([{"name": "a", "version": "1", "vulns": []}], True, "no known vulnerability in 1 packages"),
        ([{"name": "a", "version": "1", "vulns": [KNOWN]}], False, "a 1: PYSEC-1, mended in 2.0"),
        ([{"name": "a", "skip_reason": "unknown"}], True, "was not audited"),
        (
            [{"name": "a", "skip_reason": "unknown"}, {"name": "b", "version": "1", "vulns": [KNOWN]}],
            False,
            "not audited, unknown to the service: a\nb 1: PYSEC-1",
        ),
    ],
)
def test_verdict_fails_for_a_vulnerability_and_says_what_was_not_audited(
    packages: list[dict[str, object]], passes: bool, said: str
) -> None:
    outcome, told = verdict(packages)
    assert outcome is passes
    assert said in "\n".join(told)
