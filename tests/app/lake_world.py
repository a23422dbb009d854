"""Topics and lakes beside each other, and engines that fill them."""

from pathlib import Path
from typing import Any

import duckdb

from app.backup import restore
from app.settings import Settings
from app.verify import verify
from connectors.delta_lake import DeltaLake
from connectors.fold import fold_all
from connectors.lake import LakeLocation, LakeStore
from processors.fold import all_that_waits
from tests.app.commands import trs
from tests.processors.engine_shell import ACCOUNT, INVOICE, LINE, PREFIX, SKU, Shell, Topics, event


class World:
    """One set of topics, lakes beside each other, and engines on them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.topics, self.opened = folder, Topics(), list[Shell]()
        self.pos = 100

    def settings(self, name: str = "lake", **more: Any) -> Settings:
        place = name if "://" in name else str(self.folder / name)
        return Settings(lake=place, partitions=1, topic_prefix=PREFIX, threads=1, **more)

    def lake(self, name: str = "lake") -> DeltaLake:
        return DeltaLake(LakeLocation(str(self.folder / name)))

    def exists(self, name: str) -> bool:
        return LakeStore(LakeLocation(str(self.folder / name))).exists()

    def shell(self, name: str = "lake", interval_s: float | None = None) -> Shell:
        self.opened.append(
            Shell(self.lake(name), self.topics, self.folder / f"spill-{len(self.opened)}", interval_s=interval_s)
        )
        return self.opened[-1]

    def fill(self) -> None:
        """An article, two accounts, an invoice with its line."""
        self.topics.add("skus", event("skus", "r", 1, SKU))
        self.topics.add("accounts", event("accounts", "r", 2, ACCOUNT))
        self.topics.add("accounts", event("accounts", "r", 3, ACCOUNT | {"account_id": 8}))
        self.topics.add("invoices", event("invoices", "c", 4, INVOICE))
        self.topics.add("invoice_line_items", event("invoice_line_items", "c", 5, LINE))

    def close(self) -> None:
        """Ends the engines that still run."""
        for one in self.opened:
            one.engine.stop()

    def change(self, *numbers: int) -> None:
        """New invoices with a line each, and the account of each before moves."""
        for number in numbers:
            self.pos += 10
            invoice = INVOICE | {"invoice_id": number}
            self.topics.add("invoices", event("invoices", "c", self.pos, invoice))
            line = LINE | {"invoice_id": number, "quantity": number}
            self.topics.add("invoice_line_items", event("invoice_line_items", "c", self.pos + 1, line))
            moved = INVOICE | {"invoice_id": number - 1, "account_id": 8}
            self.topics.add("invoices", event("invoices", "u", self.pos + 2, moved))

    def current(self, name: str) -> list[tuple[str, ...]]:
        """The feature rows that hold now."""
        answer = trs("features", "as-of", "now", "--format", "csv", TRS_LAKE=str(self.folder / name))
        return sorted(tuple(line.split(",")) for line in answer.out.splitlines())

    def is_sound(self, name: str) -> None:
        verify(self.settings(name), price_at="creation", ask_kafka=False).raise_unless_sound()


def end(shell: Shell) -> None:
    """Commits and derives all that the topics hold, and stops the engine."""
    shell.settle()
    shell.engine.stop()


def fold(world: World) -> None:
    """Folds all that waits."""
    lake = world.lake()
    with duckdb.connect() as con:
        lake.prepare(con)
        fold_all(lake, con, 1, all_that_waits())


def goes_on(world: World, place: str, name: str = "again") -> None:
    """A lake restored from the place, in which no check fails, comes to the rows of the present one, and is sound."""
    restore(world.settings(name), place)
    found = verify(world.settings(name), price_at="creation", ask_kafka=False)
    assert [o for o in found.outcomes if o.holds is False] == []
    end(world.shell(name))
    assert world.current(name) == world.current("lake")
    world.is_sound(name)
