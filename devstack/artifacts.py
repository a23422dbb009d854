"""Downloads of the embedded stack: a lock file of Maven artifacts, fetched once per user and checked by SHA-256.

`maven.lock.json` names every file with its size and hash, so a start needs no dependency resolution, and two machines
run the same jars. `python -m devstack.lock` writes it anew.
"""

import hashlib
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_dir
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential

from processors.errors import UnavailableError

LOCK_FILE = Path(__file__).with_name("maven.lock.json")
_PARALLEL_DOWNLOADS = 4


@dataclass(frozen=True)
class Artifact:
    """One file of a Maven repository. `coordinate` is group:artifact:packaging:version."""

    coordinate: str
    sha256: str
    size_bytes: int

    @property
    def packaging(self) -> str:
        return self.coordinate.split(":")[2]

    @property
    def filename(self) -> str:
        _, name, packaging, version = self.coordinate.split(":")
        return f"{name}-{version}.{packaging}"


class _IncompleteError(Exception):
    """A download broke off or its hash is wrong; worth another try."""


def cache_folder() -> Path:
    """Where downloads are kept: one folder per user, shared by all stacks."""
    return Path(user_cache_dir("trs-stream")) / "devstack"


def read_lock(file: Path = LOCK_FILE) -> dict[str, tuple[Artifact, ...]]:
    """The locked artifacts by part; the stack's own unless another lock file is named."""
    parts = json.loads(file.read_text(encoding="utf-8"))
    return {
        part: tuple(Artifact(entry["coordinate"], entry["sha256"], entry["size_bytes"]) for entry in entries)
        for part, entries in parts.items()
    }


def fetch(artifacts: tuple[Artifact, ...], advance: Callable[[int], None]) -> list[Path]:
    """Paths of the artifacts in the cache, in order; what is missing is downloaded.

    `advance` is called with the bytes as they arrive, from several threads. Safe when several processes start at once:
    files appear under their name only when complete and checked. Raises UnavailableError when a download fails.
    """
    folder = cache_folder() / "jars"
    paths = [folder / f"{a.sha256[:12]}-{a.filename}" for a in artifacts]
    missing = [(a, p) for a, p in zip(artifacts, paths, strict=True) if not p.exists()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(_PARALLEL_DOWNLOADS) as pool:
            list(pool.map(lambda item: _download(item[0], item[1], advance), missing))
    return paths


def missing_bytes(artifacts: tuple[Artifact, ...]) -> int:
    """How much `fetch` would download."""
    folder = cache_folder() / "jars"
    return sum(a.size_bytes for a in artifacts if not (folder / f"{a.sha256[:12]}-{a.filename}").exists())


def unpacked(
    archive: Artifact, prefix: str, advance: Callable[[int], None], *, only: Collection[str] | None = None
) -> Path:
    """The folder that holds the archive's members below `prefix`, executables marked; downloaded and unpacked once.

    `only` names the folders below `prefix` that are kept; all unless given.
    """
    folder = _unpacked_folder(archive)
    if folder.exists():
        return folder
    (path,) = fetch((archive,), advance)
    with _locked(folder.name), _staging(folder.name) as temporary:
        if folder.exists():
            return folder
        if archive.packaging == "tar.gz":
            with tarfile.open(path) as tarred:
                # Whole: what is kept may be a hard link to what is not.
                tarred.extractall(temporary, filter="data")
        else:
            with zipfile.ZipFile(path) as zipped:
                members = [m for m in zipped.namelist() if m.startswith(prefix) and not m.endswith("/")]
                zipped.extractall(temporary, members)  # noqa: S202  (its hash is locked)
        root = temporary / prefix
        for file in (*root.glob("bin/*"), *root.glob("scripts/*")):
            file.chmod(0o755)
        if only is not None:
            _keep(root, only)
        root.rename(folder)
    path.unlink(missing_ok=True)
    return folder


def is_unpacked(archive: Artifact) -> bool:
    """Whether `unpacked` has nothing left to do."""
    return _unpacked_folder(archive).exists()


def _unpacked_folder(archive: Artifact) -> Path:
    return cache_folder() / f"{archive.sha256[:12]}-{archive.filename.removesuffix(f'.{archive.packaging}')}"


def _keep(root: Path, only: Collection[str]) -> None:
    """Leaves these folders of `root` and removes all else."""
    kept = root.with_name("kept")
    for name in only:
        (kept / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).rename(kept / name)
    shutil.rmtree(root)
    kept.rename(root)


@contextmanager
def _locked(name: str) -> Iterator[None]:
    cache_folder().mkdir(parents=True, exist_ok=True)
    with FileLock(cache_folder() / f"{name}.lock"):
        yield


@contextmanager
def _staging(name: str) -> Iterator[Path]:
    """An empty folder on the cache's own file system; what a killed process left in it is removed."""
    folder = cache_folder() / f"{name}.partial"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _download(artifact: Artifact, target: Path, advance: Callable[[int], None]) -> None:
    import requests  # comes with jgo; slow to import, and needed only on a first start

    with _locked(artifact.filename):
        if target.exists():
            advance(artifact.size_bytes)
            return
        attempt = retry(
            retry=retry_if_exception_type((requests.RequestException, _IncompleteError)),
            stop=stop_after_attempt(4),
            wait=wait_exponential(multiplier=0.5, max=8),
            reraise=True,
        )(_download_once)
        try:
            attempt(artifact, target, advance)
        except (requests.RequestException, _IncompleteError, RuntimeError) as error:
            raise UnavailableError(
                f"download of {artifact.coordinate} failed: {type(error).__name__}: {str(error)[:200]}",
                hint="check the network (HTTPS_PROXY, or `repositories` in ~/.config/jgo.conf), then start again: "
                "what is complete is kept",
            ) from error


def _download_once(artifact: Artifact, target: Path, advance: Callable[[int], None]) -> None:
    from jgo.config import GlobalSettings
    from jgo.maven import MavenContext, PythonResolver

    received = 0

    @contextmanager
    def report(_filename: str, _size: int) -> Iterator[Callable[[int], None]]:
        def update(count: int) -> None:
            nonlocal received
            received += count
            advance(count)

        yield update

    group, name, packaging, version = artifact.coordinate.split(":")
    with _staging(artifact.filename) as staging:
        context = MavenContext(
            resolver=PythonResolver(progress_callback=report),
            repo_cache=staging,
            remote_repos=GlobalSettings.load().repositories or None,
            timeout=60,
        )
        path = context.project(group, name).at_version(version).artifact(packaging=packaging).resolve()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != artifact.sha256:
            advance(-received)
            raise _IncompleteError(f"SHA-256 is {digest}, locked is {artifact.sha256}")
        path.replace(target)
