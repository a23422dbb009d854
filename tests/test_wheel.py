"""The wheel holds every file that the program reads, and works where the repository is not."""

import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from trs import __version__

ROOT = Path(__file__).parents[1]
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"][
    "wheel"
]["packages"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a new environment that has the wheel with its extra `worker`, and nothing else."""
    uv, home = Path(sys.executable).with_name("uv"), tmp_path_factory.mktemp("environment") / "venv"
    run(uv, "venv", "--quiet", "--python", sys.executable, home, cwd=home.parent)
    wanted = f"trs-stream[worker] @ {wheel.as_uri()}"
    run(uv, "pip", "install", "--quiet", "--python", home / "bin" / "python", wanted, cwd=home.parent)
    return home / "bin"


@pytest.fixture
def decoy(tmp_path: Path) -> Path:
    """A folder that has others' packages of our names."""
    for name in ("app", "processors"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not ours')\n", encoding="utf-8")
    return tmp_path


def run(*command: object, cwd: Path, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command without the settings of this one, and expects its exit code."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TRS_", "PYTHON"))}
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=cwd, env=kept | environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def test_wheel_holds_each_file_of_the_packages_and_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        facts = "\n".join(
            archive.read(n).decode() for n in archive.namelist() if n.endswith(("METADATA", "points.txt"))
        )
        licences = [name for name in archive.namelist() if name.endswith("licenses/LICENSE")]
    assert held == set(_files())
    assert f"\nVersion: {__version__}\n" in facts
    assert "trs = app.cli.main:main" in facts
    assert len(licences) == 1


def _files() -> Iterator[str]:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                yield path.relative_to(ROOT).as_posix()


def test_package_of_our_name_in_the_working_directory_is_told(decoy: Path) -> None:
    done = run(sys.executable, "-c", "import trs", cwd=decoy, code=1)
    assert f"package app is taken from {decoy / 'app'}" in done.stderr
    assert "PYTHONSAFEPATH=1" in done.stderr
    run(sys.executable, "-c", "import trs.lake", cwd=decoy, PYTHONSAFEPATH="1")


@pytest.mark.long
def test_installed_wheel_reads_computes_and_has_its_worker_beside_decoys(installed: Path, decoy: Path) -> None:
    trs = installed / "trs"
    assert __version__ in run(trs, "--version", cwd=decoy).stdout
    assert "dead-letters" in run(trs, "--help", cwd=decoy).stdout
    lake = {"TRS_LAKE": "s3://bucket/lake", "TRS_GLUE_DATABASE": "trs"}
    assert "invoice_features" in run(trs, "lake", "ddl", "--engine", "athena", cwd=decoy, **lake).stdout
    run(trs, "generate", "--invoices", "500", "--to", "csv:extracts", cwd=decoy)
    run(trs, "etl", "--source", "csv:extracts", "--out", "features.csv", cwd=decoy)
    assert len((decoy / "features.csv").read_text(encoding="utf-8").splitlines()) == 501
    run(installed / "python", "-c", "import app.run_worker, app.dms, trs.lake", cwd=decoy, PYTHONSAFEPATH="1")
    nobody = {"TRS_KAFKA": "127.0.0.1:9", "TRS_LAKE": str(decoy / "lake")}
    assert "127.0.0.1:9" in run(trs, "worker", cwd=decoy, code=4, **nobody).stderr
    assert "trs-stream[devstack]" in run(trs, "devstack", "up", cwd=decoy, code=2).stderr
