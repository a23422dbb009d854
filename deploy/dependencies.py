"""What the image holds, by `python -m deploy.dependencies`: known vulnerabilities, and the bill of materials.

Both are of `requirements-worker.lock`, all that is installed besides our own wheel. pip-audit asks PyPI for its
advisories; where they are not to be had, nothing was audited, which is said and is no failure. The bill (CycloneDX)
goes to `build/sbom.json`; the same lock gives the same bytes.
"""

import json
import re
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from trs import __version__

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements-worker.lock"
BILL = ROOT / "build" / "sbom.json"
_PINNED = re.compile(r"^(?P<name>[a-z0-9.-]+)==(?P<version>\S+)(?P<rest>(?:.*\\\n)+.*)$", re.MULTILINE)
_PATIENCE_S = 120


def pinned(lock: str) -> Iterator[tuple[str, str, list[str]]]:
    """Name, version and SHA-256 of the files of each package of a lock."""
    for found in _PINNED.finditer(lock):
        yield found["name"], found["version"], re.findall(r"--hash=sha256:([0-9a-f]{64})", found["rest"])


def bill_of_materials(lock: str) -> str:
    """CycloneDX, as JSON. Hashes are of every file that may be installed, as wheels differ by platform."""
    own = Component(name="trs-stream", version=__version__, type=ComponentType.APPLICATION, bom_ref="trs-stream")
    packages = [
        Component(
            name=name,
            version=version,
            purl=PackageURL("pypi", name=name, version=version),
            bom_ref=f"pypi:{name}@{version}",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in hashes],
        )
        for name, version, hashes in pinned(lock)
    ]
    bom = Bom(components=packages, serial_number=uuid.uuid5(uuid.NAMESPACE_URL, lock))
    bom.metadata.component, bom.metadata.timestamp = own, datetime.fromtimestamp(0, UTC)
    bom.register_dependency(own, packages)
    return JsonV1Dot6(bom).output_as_string(indent=2) + "\n"


def verdict(packages: list[dict[str, Any]]) -> tuple[bool, list[str]]:
    """Whether what pip-audit found lets the image pass, and what to say of it."""
    skipped = [p["name"] for p in packages if "skip_reason" in p]
    found = [
        f"{p['name']} {p['version']}: {v['id']}, mended in {', '.join(v['fix_versions']) or 'no version yet'}"
        for p in packages
        for v in p.get("vulns", ())
    ]
    if len(skipped) == len(packages):
        return True, ["requirements-worker.lock was not audited: the service of advisories knows no package of it"]
    told = [f"not audited, unknown to the service: {', '.join(skipped)}"] if skipped else []
    told += found or [f"no known vulnerability in {len(packages) - len(skipped)} packages of requirements-worker.lock"]
    return not found, told


def answers(name: str, version: str) -> bool:
    """Whether PyPI tells a package's advisories; a mirror of packages does not, and pip-audit would ask 70 times."""
    try:
        with urllib.request.urlopen(f"https://pypi.org/pypi/{name}/{version}/json", timeout=5) as answer:
            return "vulnerabilities" in json.load(answer)
    except (OSError, ValueError):
        return False


def audit() -> tuple[bool, list[str]]:
    """Asks the service."""
    name, version, _ = next(pinned(LOCK.read_text(encoding="utf-8")))
    if not answers(name, version):
        return True, [f"requirements-worker.lock was not audited: PyPI's advisories do not answer for {name}"]
    command = ["pip-audit", "--disable-pip", "--require-hashes", "--timeout", "5", "--progress-spinner", "off"]
    command += ["--format", "json", "--requirement", str(LOCK)]
    try:
        done = subprocess.run(
            [str(Path(sys.executable).with_name(command[0])), *command[1:]],
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
        return verdict(json.loads(done.stdout)["dependencies"])
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        return True, ["requirements-worker.lock was not audited: the service of advisories does not answer"]


def main() -> int:
    """Writes the bill, audits; 1 for a known vulnerability."""
    BILL.parent.mkdir(exist_ok=True)
    BILL.write_text(bill_of_materials(LOCK.read_text(encoding="utf-8")), encoding="utf-8")
    passes, told = audit()
    sys.stdout.write("\n".join(told) + "\n")
    return 0 if passes else 1


if __name__ == "__main__":
    sys.exit(main())
