"""Downloads: complete, checked, once, also when two processes start together."""

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from devstack import artifacts
from processors.errors import UnavailableError


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> artifacts.Artifact:
    """The smallest locked artifact, and a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return min(artifacts.read_lock()["kafka"], key=lambda a: a.size_bytes)


def test_fetch_into_an_empty_cache_reports_every_byte_and_keeps_the_file(small: artifacts.Artifact) -> None:
    counted: list[int] = []
    assert artifacts.missing_bytes((small,)) == small.size_bytes
    (path,) = artifacts.fetch((small,), counted.append)
    assert path.stat().st_size == sum(counted) == small.size_bytes
    assert artifacts.missing_bytes((small,)) == 0
    assert artifacts.fetch((small,), counted.append) == [path]
    assert sum(counted) == small.size_bytes


def test_fetch_of_what_has_another_hash_fails_and_keeps_nothing(
    small: artifacts.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = artifacts.Artifact(small.coordinate, "0" * 64, small.size_bytes)
    with pytest.raises(UnavailableError, match="SHA-256"):
        artifacts.fetch((changed,), lambda _: None)
    assert list((artifacts.cache_folder() / "jars").iterdir()) == []


def test_fetch_by_two_processes_at_once_gives_both_the_file(small: artifacts.Artifact) -> None:
    code = (
        "from devstack import artifacts as a; s = min(a.read_lock()['kafka'], key=lambda x: x.size_bytes); "
        "print(a.fetch((s,), lambda _: None)[0].stat().st_size)"
    )
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [int(p.communicate(timeout=60)[0]) for p in both] == [small.size_bytes] * 2


def test_unpacked_keeps_what_is_named_with_the_targets_of_its_links(
    small: artifacts.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(_artifact: artifacts.Artifact, target: Path, _advance: object) -> None:
        with tarfile.open(target, "w:gz") as archive:
            for name in ("server-1/plugin/other/shared.jar", "server-1/lib/own.jar"):
                entry = tarfile.TarInfo(name)
                entry.size = len(name)
                archive.addfile(entry, io.BytesIO(name.encode()))
            link = tarfile.TarInfo("server-1/plugin/mine/shared.jar")
            link.type, link.linkname = tarfile.LNKTYPE, "server-1/plugin/other/shared.jar"
            archive.addfile(link)

    monkeypatch.setattr(artifacts, "_download", download)
    archive = artifacts.Artifact("group:server:tar.gz:1", small.sha256, 1)
    assert not artifacts.is_unpacked(archive)
    folder = artifacts.unpacked(archive, "server-1", lambda _: None, only=("lib", "plugin/mine"))
    assert artifacts.is_unpacked(archive)
    files = {str(Path(at, name).relative_to(folder)) for at, _, names in os.walk(folder) for name in names}
    assert files == {"lib/own.jar", "plugin/mine/shared.jar"}
    assert (folder / "plugin/mine/shared.jar").read_text() == "server-1/plugin/other/shared.jar"
    assert artifacts.missing_bytes((archive,)) == 1  # the archive itself is not kept
