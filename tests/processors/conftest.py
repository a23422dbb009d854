"""An engine on a lake in a folder, and a decoder, for the tests of this folder that need them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connectors.delta_lake import DeltaLake
from connectors.lake import LakeLocation
from processors.decode import Decoder
from tests.processors.decode_records import SOURCE_NAMES
from tests.processors.engine_shell import ACCOUNT, INVOICE, LINE, SKU, Open, Shell, Topics, event


@pytest.fixture
def location(tmp_path: Path) -> LakeLocation:
    """Where the test's lake is."""
    return LakeLocation(str(tmp_path / "lake"))


@pytest.fixture
def shell(location: LakeLocation, tmp_path: Path) -> Iterator[Open]:
    """Opens engines on the test's lake; stops them afterwards."""
    opened: list[Shell] = []

    def start(topics: Topics, lake: DeltaLake | None = None, **options: Any) -> Shell:
        opened.append(Shell(lake or DeltaLake(location), topics, tmp_path / f"spill-{len(opened)}", **options))
        return opened[-1]

    yield start
    for one in opened:
        one.engine.stop()


@pytest.fixture
def topics() -> Topics:
    """A SKU, an account, an invoice and its line."""
    made = Topics()
    made.add("skus", event("skus", "r", 1, SKU))
    made.add("accounts", event("accounts", "r", 2, ACCOUNT))
    made.add("invoices", event("invoices", "c", 3, INVOICE))
    made.add("invoice_line_items", event("invoice_line_items", "c", 4, LINE))
    return made


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    """A decoder that knows the source names of the captured records."""
    decoder = Decoder(source_names=SOURCE_NAMES)
    yield decoder
    decoder.close()
