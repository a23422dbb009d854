"""The image, as far as it can be held without an engine: its file, its lock, and both in a clean venv."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from deploy.tasks import HEALTH_CHECK, HOME, WEB_PORT, WORKER

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [
        (line.split(maxsplit=1)[0], line.split(maxsplit=1)[1].strip()) for line in text.splitlines() if line.strip()
    ]


def last_stage() -> list[tuple[str, str]]:
    found = instructions()
    return found[max(i for i, (name, _) in enumerate(found) if name == "FROM") :]


def last(name: str) -> str:
    return [value for instruction, value in last_stage() if instruction == name][-1]


def pins(name: str) -> dict[str, frozenset[str]]:
    """Of a lock file: each name and version with its hashes. Markers differ: those of one extra are narrower."""
    blocks = re.split(r"\n(?=\S)", (ROOT / name).read_text())
    return {
        re.split(r"[;\\]", block)[0].strip(): frozenset(re.findall(r"--hash=(sha256:[0-9a-f]{64})", block))
        for block in blocks
        if block.strip()
    }


def test_image_runs_the_worker_as_the_service_does() -> None:
    assert json.loads(last("ENTRYPOINT")) == ["trs"]
    assert tuple(json.loads(last("CMD"))) == WORKER.command
    options, _, command = last("HEALTHCHECK").partition("CMD ")
    assert tuple(json.loads(command)) == HEALTH_CHECK
    assert "--timeout=10s" in options
    assert last("EXPOSE") == str(WEB_PORT)
    assert last("STOPSIGNAL") == "SIGTERM"


def test_image_is_of_no_privileged_user_and_writes_to_volumes_alone() -> None:
    user, group = last("USER").split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert last("WORKDIR") == HOME
    assert set(json.loads(last("VOLUME"))) == {HOME, "/tmp"}
    environment = dict(pair.split("=", 1) for pair in " ".join(v for n, v in last_stage() if n == "ENV").split())
    assert environment["PYTHONSAFEPATH"] == "1"
    assert environment["TRS_HOME"] == HOME


def test_every_installation_in_the_image_is_held_by_hashes_or_is_of_our_own_wheel() -> None:
    commands = [c.strip() for name, value in instructions() if name == "RUN" for c in value.split("&&")]
    installs = [c for c in commands if re.search(r"pip (install|wheel|download)", c)]
    assert len(installs) == 4
    for command in installs:
        assert "--require-hashes" in command or "--no-deps" in command, command
    assert not any(re.search(r"\b(apt-get|curl|wget|git)\b", c) for c in commands)


def test_what_the_image_copies_is_there_and_is_all_of_the_wheel() -> None:
    copied = [
        source
        for name, value in instructions()
        if name == "COPY" and not value.startswith("--from")
        for source in value.split()[:-1]
    ]
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied) == allowed
    assert all((ROOT / source).exists() for source in copied)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(packages["packages"]) == {source for source in copied if (ROOT / source).is_dir()}


def test_lock_of_the_image_is_a_part_of_the_whole_lock() -> None:
    whole, image = pins("requirements.lock"), pins("requirements-worker.lock")
    assert image.items() <= whole.items()
    assert all(image.values())
    names = {requirement.partition("==")[0] for requirement in image}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]

    def declared(group: list[str]) -> set[str]:
        return {re.split(r"[\[><=]", requirement)[0].lower() for requirement in group}

    assert declared(project["dependencies"]) | declared(extras["worker"]) <= names
    assert not names & (declared(extras["devstack"]) | declared(extras["dev"]) | declared(extras["notebooks"]))


@pytest.fixture(scope="module")
def clean_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the Dockerfile's first stage makes, without the engine: the lock and our wheel in a venv of their own."""
    folder = tmp_path_factory.mktemp("image")
    build, image, wheels = folder / "build", folder / "trs", folder / "wheels"
    for venv, lock in ((build, "requirements-build.lock"), (image, "requirements-worker.lock")):
        _run(UV, "venv", "--quiet", "--python", sys.executable, venv)
        python = venv / "bin" / "python"
        _run(UV, "pip", "install", "--quiet", "--python", python, "--require-hashes", "--requirement", ROOT / lock)
    code = f"from hatchling.build import build_wheel; print(build_wheel({str(wheels)!r}))"
    wheels.mkdir()
    name = _run(build / "bin" / "python", "-c", code, cwd=ROOT).splitlines()[-1]
    _run(UV, "pip", "install", "--quiet", "--python", image / "bin" / "python", "--no-deps", wheels / name)
    return image


def _run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=cwd, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_worker_of_the_clean_venv_starts_and_finds_its_own_modules(clean_venv: Path, tmp_path: Path) -> None:
    decoy = tmp_path / "decoy"
    for name in ("app", "processors", "connectors", "trs"):
        (decoy / name).mkdir(parents=True)
        (decoy / name / "__init__.py").write_text("raise SystemExit('taken from the working directory')\n")
    environment = {"PATH": f"{clean_venv / 'bin'}:{os.environ['PATH']}", "PYTHONSAFEPATH": "1", "TRS_HOME": "home"}

    def in_decoy(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=decoy, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    assert in_decoy("trs", "--version").stdout.startswith("trs-stream ")
    # The whole of a worker's imports, Kafka clients and Faust included.
    modules = "app.run_worker, app.maintain, app.bootstrap, connectors.aiokafka_tokens, connectors.delta_lake"
    loaded = in_decoy("python", "-c", f"import {modules}; print(app.run_worker.__file__)")
    assert loaded.returncode == 0, loaded.stderr
    assert Path(loaded.stdout.strip()).is_relative_to(clean_venv)
    assert in_decoy(*HEALTH_CHECK).returncode != 0  # nothing listens there
