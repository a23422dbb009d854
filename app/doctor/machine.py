"""Checks of this machine and of the settings: no outside system is asked."""

import importlib.metadata
import os
import platform
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from app.doctor.checks import Finding, failed, ok, warning
from app.durations import seconds
from app.settings import Settings, origins, unknown_variables, variable

_MB = 1_000_000
_LEAST_FREE_MB = 500
_FEW_FREE_MB = 5_000
_FEW_FREE_PERCENT = 5
_PROGRAM_MB = 700
"""What a worker takes beside its state: libraries, batches of records on their way."""
CONTAINER = "the container"
_LOCAL = ("localhost", "127.", "[::1]")
_SHOWN = ("deltalake", "duckdb", "pyarrow", "confluent-kafka", "aiokafka", "faust-streaming")
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?>=([0-9.]+)(?:; extra == '(\w+)')?$")


def look_at_settings(settings: Settings) -> list[Finding]:
    """Where values come from, and those that are allowed but seldom meant."""
    where: dict[str, list[str]] = {}
    for name, origin in origins(settings).items():
        where.setdefault(origin.name, []).append(variable(name))
    told = ", ".join(f"{len(names)} from {place}" for place, names in where.items() if place != "default")
    given = [name for place, names in where.items() if place != "default" for name in names]
    findings = [ok(f"{told or 'all settings have their defaults'}{': ' if told else ''}{', '.join(given)}")]
    for name, likely in unknown_variables():
        advice = "`trs settings --describe` lists every setting" if likely is None else f"did you mean {likely}?"
        findings.append(warning(f"{name} is not a setting and has no effect", advice))
    return [*findings, *suspicious_values(settings)]


def suspicious_values(settings: Settings) -> Iterator[Finding]:
    """Values that are valid by themselves and yet lead to trouble, alone or together."""
    brokers = [b.strip() for b in settings.kafka.split(",") if b.strip()]
    local_kafka = all(b.startswith(_LOCAL) for b in brokers)
    local_lake = not settings.lake_uri.startswith("s3://")
    if not settings.source_names:
        yield failed("TRS_SOURCE_NAMES is empty: every record with a binlog position is refused", "name the source")
    if len(set(settings.source_names)) < len(settings.source_names):
        yield failed("TRS_SOURCE_NAMES has a name twice", "append a new name for a new server, and keep the others")
    if not local_kafka and settings.replication == 1:
        yield warning(
            "TRS_REPLICATION=1 with brokers elsewhere: topics made by us have one copy", "set it to 3 in production"
        )
    if not local_kafka and settings.kafka_security in ("plaintext", "sasl_plaintext"):
        yield warning(
            f"TRS_KAFKA_SECURITY={settings.kafka_security}: rows with personal data go over the network unencrypted",
            "use ssl or sasl_ssl",
        )
    if not local_kafka and local_lake:
        yield warning(
            f"the lake is a folder of this machine ({settings.lake_uri}) and Kafka is not",
            "set TRS_LAKE=s3://BUCKET/PREFIX, unless this is a test",
        )
    if settings.aws_access_key is not None and settings.aws_endpoint is None:
        yield warning(
            "TRS_AWS_ACCESS_KEY is set and TRS_AWS_ENDPOINT is not: keys do not renew themselves",
            "on AWS leave both keys to the task's role",
        )
    if (settings.aws_access_key is None) != (settings.aws_secret_key is None):
        yield failed("of TRS_AWS_ACCESS_KEY and TRS_AWS_SECRET_KEY only one is set", "set both, or none")
    if settings.session_timeout_s < 10:
        yield warning(
            f"TRS_SESSION_TIMEOUT_S={settings.session_timeout_s:g}: a pause of a worker leads to a rebalance",
            "45 s is the default",
        )
    if settings.reconcile_every is not None and settings.database is None:
        yield failed("TRS_RECONCILE_EVERY is set and TRS_DATABASE is not", "set TRS_DATABASE, or take the other out")
    if settings.reconcile_every is not None and seconds(settings.reconcile_every) < 300:
        yield warning(
            f"TRS_RECONCILE_EVERY={settings.reconcile_every}: the source is compared whole each time",
            "an hour or more is usual",
        )
    yield from _readable_secrets(Path.cwd() / ".env")


def _readable_secrets(file: Path) -> Iterator[Finding]:
    try:
        mode = file.stat().st_mode
    except OSError:
        return
    if mode & 0o077:
        yield warning(f"{file} can be read by others ({mode & 0o777:o})", f"chmod 600 {file}")


def look_at_packages() -> list[Finding]:
    """Versions of what the program stands on, against what it asks for."""
    own = importlib.metadata.distribution("trs-stream")
    versions = [f"{name} {_version(name)}" for name in _SHOWN if _version(name) is not None]
    findings = [ok(f"trs-stream {own.version}, Python {platform.python_version()}, {', '.join(versions)}")]
    missing_worker = []
    for name, least, extra in _requirements(own.requires or ()):
        if extra not in (None, "worker"):
            continue
        found = _version(name)
        if found is None and extra == "worker":
            missing_worker.append(name)
        elif found is None:
            findings.append(failed(f"{name} is not installed", "pip install --force-reinstall trs-stream"))
        elif _numbers(found) < _numbers(least):
            findings.append(failed(f"{name} is {found}, at least {least} is needed", f"pip install '{name}>={least}'"))
    if missing_worker:
        findings.append(
            warning(f"no worker can run here: {', '.join(missing_worker)} missing", "pip install 'trs-stream[worker]'")
        )
    return findings


def _requirements(lines: Iterable[str]) -> Iterator[tuple[str, str, str | None]]:
    """(name, least version, extra) of the requirements that have a least version."""
    for line in lines:
        found = _REQUIREMENT.match(line)
        if found is not None:
            yield found[1], found[2], found[3]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, as far as they decide between 1.9 and 1.10."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(n) for n in found[0].split(".")) if found else ()


def look_at_disk(settings: Settings) -> list[Finding]:
    """Free space and the right to write, where state spills to and where a lake on this machine lies."""
    places = {"TRS_HOME": settings.home}
    if not settings.lake_uri.startswith("s3://"):
        places["TRS_LAKE"] = Path(settings.lake_uri)
    return [_judge_folder(name, folder) for name, folder in places.items()]


def _judge_folder(name: str, folder: Path) -> Finding:
    there = next(p for p in (folder, *folder.parents) if p.exists())
    usage = shutil.disk_usage(there)
    free_mb, percent = usage.free // _MB, 100 * usage.free / usage.total
    said = f"{name} {folder}: {free_mb:,} MB free ({percent:.0f} %)"
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return failed(f"{name}: {there} cannot be written", f"give access, or set {name} to another folder")
    if free_mb < _LEAST_FREE_MB:
        return failed(said, f"free some, or set {name} to another disk: a worker ends with exit code 10 soon")
    if free_mb < _FEW_FREE_MB or percent < _FEW_FREE_PERCENT:
        return warning(said, "free some before state spills here")
    return ok(said)


def look_at_memory(settings: Settings) -> list[Finding]:
    """What a worker may take against what this machine, or its container, has."""
    limit_mb, of = memory_limit_mb()
    needed_mb, why = settings.memory_mb + _PROGRAM_MB, f"TRS_MEMORY_MB={settings.memory_mb}"
    if settings.memory_budget_mb is not None:
        needed_mb, why = settings.memory_budget_mb, f"TRS_MEMORY_BUDGET_MB={settings.memory_budget_mb}"
    elif of == CONTAINER and "memory_mb" not in settings.model_fields_set:
        needed_mb, why = limit_mb, "it divides what the container has"
    cores = len(os.sched_getaffinity(0))
    said = f"{limit_mb:,} MB of {of}, a worker takes about {needed_mb:,} MB ({why})"
    findings = [
        ok(said)
        if needed_mb <= limit_mb
        else failed(said, f"set TRS_MEMORY_BUDGET_MB to {limit_mb} or less, or give more memory")
    ]
    if settings.threads > cores:
        findings.append(
            warning(f"TRS_THREADS={settings.threads} on {cores} cores", "more threads than cores only take turns")
        )
    return findings


def memory_limit_mb(root: Path = Path("/")) -> tuple[int, str]:
    """The memory in MB that processes here may use, and whose limit that is: the container (cgroup) or the machine."""
    meminfo = (root / "proc/meminfo").read_text(encoding="ascii")
    found = re.search(r"^MemTotal:\s+(\d+) kB", meminfo, re.MULTILINE)
    machine_mb = int(found[1]) * 1024 // _MB if found else 0
    for file in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = (root / file).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit() and int(text) // _MB < machine_mb:
            return int(text) // _MB, CONTAINER
    return machine_mb, "the machine"
