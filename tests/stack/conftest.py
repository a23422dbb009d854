"""Kafka Connect, and a browser, for the tests of this folder that need them."""

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from selenium import webdriver

from app.connector import connect_client
from app.settings import Settings
from connectors.mysql import DatabaseUrl, connect, ddl, execute
from devstack import ports, processes
from devstack.connect import Connect
from devstack.stack import start_part
from processors.tables import TABLES

_CHROMIUM, _DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


class OwnConnect(Connect):
    """A worker that shares nothing with an earlier run on a stack that was kept."""

    group = f"connect-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def kafka_connect(stack: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connect]:
    """One Kafka Connect for all tests of a process, on the stack's Kafka."""
    folder = tmp_path_factory.mktemp("connect-home") / "devstack"
    folder.mkdir()
    numbers = ports.assign(folder / "ports.json", needed=Connect.port_names, in_use=())
    part = OwnConnect(folder, {**numbers, "kafka": int(stack["TRS_KAFKA"].rpartition(":")[2])})
    try:
        start_part(part)
        yield part
    finally:
        processes.stop(part.record, timeout_s=part.stop_timeout_s)


@pytest.fixture(scope="session")
def connect_url(kafka_connect: Connect) -> str:
    """The address of that Kafka Connect."""
    return f"http://127.0.0.1:{kafka_connect.port}"


@pytest.fixture
def captured_settings(local_settings: Settings, connect_url: str) -> Iterator[Settings]:
    """Settings with a source and a connector of the test's own; the database has the declared tables."""
    name = f"s{uuid.uuid4().hex[:8]}"
    own = local_settings.model_copy(
        update={"connect": SecretStr(connect_url), "source_names": (name,), "price_at": "current"}
    )
    assert own.database is not None
    with connect(DatabaseUrl.parse(own.database.get_secret_value())) as connection:
        for table in TABLES:
            execute(connection, ddl(table))
    yield own
    client = connect_client(own)
    for registered in client.names():
        if registered == f"trs-{name}":
            client.delete(registered)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    if _CHROMIUM is None or _DRIVER is None:
        pytest.skip("Chromium and its driver are not installed (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = _CHROMIUM
    switches = "headless no-sandbox disable-gpu no-first-run disable-background-networking disable-component-update"
    for switch in (*switches.split(), "disable-sync", f"user-data-dir={tmp_path / 'chromium'}"):
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(_DRIVER))
    phone = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    yield driver
    driver.quit()
