"""Fixtures for all tests: the stack (started once per run), settings of one's own per test, the real extracts.

    stack            environment of a running stack: containers where a Docker engine answers, else embedded
    stack_settings   Settings on that stack with a topic prefix, consumer group, S3 lake and database of the test's own
    local_settings   the same with the lake in a local folder
    fresh_database   URL of an empty database of the test's own (part of both)
    extracts         folder of the real CSV extracts; the test is skipped without them

All xdist workers share one embedded stack; a file's tests run on one worker (`--dist loadfile`), as do those of all
files that share a Kafka Connect. TRS_TEST_HOME names a folder whose embedded stack is used and left running: it saves a
start per run.
"""

import json
import logging
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from filelock import FileLock
from hypothesis import settings as hypothesis_settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from app.logs import CONFIGURED
from app.settings import ENV_PREFIX, Settings

hypothesis_settings.register_profile("trs", deadline=None)  # how long an example takes says nothing on a busy machine
hypothesis_settings.load_profile("trs")

# The servers of a run live for minutes: what the optimising compiler would cost is not earned back.
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")

_REPOSITORY = Path(__file__).parent.parent


def kept_home(environment: Mapping[str, str]) -> Path | None:
    """The folder that TRS_TEST_HOME names, None where it is unset or empty."""
    name = environment.get("TRS_TEST_HOME")
    return Path(name) if name else None


_KEPT_HOME = kept_home(os.environ)
_LONGEST = (
    "test_whole_life_on_stack.py",
    "test_cluster_laws.py",
    "test_sets_by_article.py",
    "test_chaos.py",
    "test_main_path.py",
)
"""Files whose tests take a minute each and more."""
_WITH_CONNECT = (
    "test_whole_life_on_stack.py",
    "test_connector_on_stack.py",
    "test_cutover_on_stack.py",
    "test_schema_changes_on_stack.py",
)
"""Files that share one Kafka Connect, which takes half a minute of a core to start: they run on one xdist worker."""
_EXTRACTS = Path(os.environ.get("TRS_EXTRACTS") or _REPOSITORY.parent / "shared" / "data" / "trs_extracts")


class _ByFile(LoadFileScheduling):
    """The tests of a file, or of files that share a server, run on one worker."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "with Kafka Connect" if Path(file).name in _WITH_CONNECT else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _ByFile | None:
    """What `--dist loadfile` means here."""
    return _ByFile(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what uses the stack, and puts the files with long tests first, so that no worker is left with one alone."""
    for item in items:
        if "stack" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.stack)
    with_stack = {item.path for item in items if item.get_closest_marker("stack") is not None}
    items.sort(key=lambda item: (item.path.name not in _LONGEST, item.path not in with_stack))


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the developer's own shell, `.env` or stack reaches a test."""
    for name in [n for n in os.environ if n.startswith(ENV_PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TRS_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(Settings.model_config, "env_file", None)


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """What a command's set-up of the log changes lasts as long as the test that ran it in this process."""
    loggers = [logging.getLogger(name) for name in CONFIGURED]
    before = [(logger.handlers, logger.level) for logger in loggers]
    yield
    for logger, (handlers, level) in zip(loggers, before, strict=True):
        logger.handlers = handlers
        logger.setLevel(level)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment variables that lead to a running stack, shared by all workers of the run."""
    from devstack.stack import Stack
    from tests.containers import docker_answers, running_containers

    if _KEPT_HOME is not None:
        yield Stack(_KEPT_HOME).up()
        return
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    if docker_answers():
        with running_containers(tmp_path_factory.mktemp("containers")) as environment:
            yield environment
        return
    embedded = Stack(shared / "stack-home")
    with _counted(shared / "stack-users.json") as users:
        environment = embedded.up()
        users.append(os.getpid())
    try:
        yield environment
    finally:
        with _counted(shared / "stack-users.json") as users:
            users.remove(os.getpid())
            if not users:
                embedded.down(wipe=True)


@pytest.fixture
def fresh_database(stack: dict[str, str]) -> Iterator[str]:
    """URL of an empty database that is dropped afterwards."""
    import pymysql

    name = f"trs_{uuid.uuid4().hex[:12]}"
    url = urlsplit(stack["TRS_DATABASE"])
    connection = pymysql.connect(
        host=url.hostname, port=url.port or 3306, user=url.username, password=url.password or "", autocommit=True
    )
    with connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE `{name}`")
        yield url._replace(path=f"/{name}").geturl()
        cursor.execute(f"DROP DATABASE `{name}`")


@pytest.fixture
def stack_settings(stack: dict[str, str], fresh_database: str, tmp_path: Path) -> Settings:
    """Settings on the stack that no other test shares; the lake is on S3."""
    unique = uuid.uuid4().hex[:12]
    own = {
        **stack,
        "TRS_HOME": str(tmp_path / "home"),
        "TRS_DATABASE": fresh_database,
        "TRS_TOPIC_PREFIX": f"t{unique}.trs",
        "TRS_GROUP": f"trs-worker-{unique}",
        "TRS_LAKE": f"s3://{_own_bucket(stack, unique)}/lake",
        "TRS_EPOCH_INTERVAL_S": "0.2",
        "TRS_SESSION_TIMEOUT_S": "10",
        "TRS_WEB_PORT": "0",
    }
    return Settings(**{name.removeprefix(ENV_PREFIX).lower(): value for name, value in own.items()})


def _own_bucket(stack: dict[str, str], unique: str) -> str:
    """A bucket of the test's own: the S3 server lists a bucket by looking at all of its keys."""
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=stack["TRS_AWS_ENDPOINT"],
        aws_access_key_id=stack["TRS_AWS_ACCESS_KEY"],
        aws_secret_access_key=stack["TRS_AWS_SECRET_KEY"],
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=f"trs-{unique}")
    return f"trs-{unique}"


@pytest.fixture
def local_settings(stack_settings: Settings, tmp_path: Path) -> Settings:
    """The same with the lake in a local folder."""
    return stack_settings.model_copy(update={"lake": str(tmp_path / "lake")})


@pytest.fixture(scope="session")
def extracts() -> Path:
    """The real extracts: TRS_EXTRACTS, or shared/data/trs_extracts beside the repository."""
    if not (_EXTRACTS / "invoices.csv").exists():
        pytest.skip(f"the real extracts are not at {_EXTRACTS} (TRS_EXTRACTS names another folder)")
    return _EXTRACTS


@contextmanager
def _counted(file: Path) -> Iterator[list[int]]:
    """The pids of the stack's users, from a file that the workers share; changes are written back."""
    with FileLock(f"{file}.lock"):
        pids: list[int] = json.loads(file.read_text()) if file.exists() else []
        yield pids
        file.write_text(json.dumps(pids))
