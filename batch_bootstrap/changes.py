"""Changes to a source database as TRS makes them: each is one transaction and tells which rows it touched."""

import random
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from batch_bootstrap.emit import Touched
from connectors.mysql import Connection, execute, query
from connectors.mysql_source import MySqlSource
from processors.tables import ACCOUNTS, INVOICE_LINE_ITEMS, INVOICES, SKUS, Table

Change = Callable[[], list[Touched]]


def pay_invoices(
    connection: Connection, ids: Sequence[int], day: date, *, column: str = "payment_dates"
) -> list[Touched]:
    """Marks invoices as paid on a day; `column` is the database's name of the date."""
    for number in ids:
        execute(connection, f"UPDATE invoices SET `{column}` = %s WHERE invoice_id = %s", (day, number))
    connection.commit()
    return [Touched(INVOICES, (number,)) for number in ids]


def change_price(connection: Connection, item_id: str, price: Decimal) -> list[Touched]:
    """Gives a SKU another retail price."""
    execute(connection, "UPDATE skus SET item_retail_price = %s WHERE item_id = %s", (price, item_id))
    connection.commit()
    return [Touched(SKUS, (item_id,))]


class TrsChanges:
    """Random changes, the same for the same seed and database."""

    def __init__(self, connection: Connection, source: MySqlSource, seed: int) -> None:
        self._connection = connection
        self._payment_column = source.columns(INVOICES).names.get("payment_dates")
        self._random = random.Random(seed)  # noqa: S311 - a simulation, not a secret
        self._skus = [str(item) for (item,) in query(connection, "SELECT item_id FROM skus ORDER BY item_id")]
        self._text_items = not source.numeric_keys(SKUS)
        self._last = {
            table: int(query(connection, f"SELECT coalesce(max({table.key[0]}), 0) FROM {table.name}")[0][0])
            for table in (ACCOUNTS, INVOICES)
        }
        self._next_sku = 1 + len(self._skus)
        connection.commit()
        self._kinds: dict[Change, int] = {
            self.issue_invoice: 40,
            self.pay_invoice: 25,
            self.correct_line: 10,
            self.add_line: 6,
            self.remove_line: 4,
            self.change_price: 6,
            self.add_account: 2,
            self.rename_account: 2,
            self.add_sku: 2,
            self.remove_sku: 1,
            self.move_invoice: 2,
        }

    def next_change(self) -> list[Touched]:
        """Makes one change and commits it; returns the rows touched, none if there was nothing to change."""
        (change,) = self._random.choices(list(self._kinds), list(self._kinds.values()))
        touched = change()
        self._connection.commit()
        return touched

    def issue_invoice(self) -> list[Touched]:
        """A new invoice of today with one to eight lines."""
        account = self._any_key(ACCOUNTS)
        if account is None:
            return []
        self._last[INVOICES] += 1
        number = self._last[INVOICES]
        today = datetime.now(UTC).date()
        self._insert(INVOICES, invoice_id=number, account_id=account[0], date_issued=today)
        items = self._random.sample(self._skus, min(len(self._skus), self._random.randint(1, 8)))
        for item in items:
            self._insert(INVOICE_LINE_ITEMS, invoice_id=number, item_id=item, quantity=self._random.randint(1, 4))
        return [
            Touched(INVOICES, (number,), created=True),
            *(Touched(INVOICE_LINE_ITEMS, (number, item), created=True) for item in items),
        ]

    def pay_invoice(self) -> list[Touched]:
        """An invoice is paid some days after its issue, or its payment is corrected."""
        key = self._any_key(INVOICES)
        if key is None or self._payment_column is None:
            return []
        issued = self._cell(INVOICES, key, "date_issued")
        day = issued + timedelta(days=self._random.randint(5, 60))
        return pay_invoices(self._connection, [key[0]], day, column=self._payment_column)

    def correct_line(self) -> list[Touched]:
        """Another quantity; sometimes a return."""
        key = self._any_key(INVOICE_LINE_ITEMS)
        if key is None:
            return []
        quantity = -1 if self._random.random() < 0.02 else self._random.randint(1, 9)
        self._update(INVOICE_LINE_ITEMS, key, "quantity", quantity)
        return [Touched(INVOICE_LINE_ITEMS, key)]

    def add_line(self) -> list[Touched]:
        """A further article on an invoice."""
        invoice = self._any_key(INVOICES)
        if invoice is None or not self._skus:
            return []
        key = (invoice[0], self._random.choice(self._skus))
        if self._exists(INVOICE_LINE_ITEMS, key):
            return []
        self._insert(INVOICE_LINE_ITEMS, invoice_id=key[0], item_id=key[1], quantity=self._random.randint(1, 4))
        return [Touched(INVOICE_LINE_ITEMS, key, created=True)]

    def remove_line(self) -> list[Touched]:
        """A line is deleted."""
        key = self._any_key(INVOICE_LINE_ITEMS)
        if key is None:
            return []
        self._delete(INVOICE_LINE_ITEMS, key)
        return [Touched(INVOICE_LINE_ITEMS, key)]

    def change_price(self) -> list[Touched]:
        """A retail price goes up or down by up to a fifth."""
        if not self._skus:
            return []
        item = self._random.choice(self._skus)
        price = Decimal(self._cell(SKUS, (item,), "item_retail_price"))
        factor = Decimal(self._random.randint(80, 120)) / 100
        return change_price(self._connection, item, (price * factor).quantize(Decimal("0.01")))

    def add_account(self) -> list[Touched]:
        """A customer joins today."""
        self._last[ACCOUNTS] += 1
        number = self._last[ACCOUNTS]
        self._insert(
            ACCOUNTS,
            account_id=number,
            company_name=f"Newcomer {number} Ltd",
            company_address=f"{number} New Road\nNewtown",
            contact_person=f"Person {number}",
            contact_phone=f"+44 {number:010d}",
            gender=self._random.choice(("F", "M", None)),
            joining_date=datetime.now(UTC).date(),
        )
        return [Touched(ACCOUNTS, (number,), created=True)]

    def rename_account(self) -> list[Touched]:
        """A company changes its name."""
        key = self._any_key(ACCOUNTS)
        if key is None:
            return []
        self._update(ACCOUNTS, key, "company_name", f"Renamed {self._random.randint(1, 9999)} PLC")
        return [Touched(ACCOUNTS, key)]

    def add_sku(self) -> list[Touched]:
        """A new article."""
        while self._exists(SKUS, (item := self._sku_name(),)):
            self._next_sku += 1
        cost = Decimal(self._random.randint(100, 500_000)) / 100
        self._insert(
            SKUS,
            item_id=item,
            item_name=f"novelty {self._next_sku}",
            item_description="an article that was added lately",
            item_cost_price=cost,
            item_retail_price=(cost * Decimal("1.5")).quantize(Decimal("0.01")),
        )
        self._skus.append(item)
        return [Touched(SKUS, (item,), created=True)]

    def remove_sku(self) -> list[Touched]:
        """An article leaves the range; its lines stay."""
        if len(self._skus) <= 10:
            return []
        item = self._skus.pop(self._random.randrange(len(self._skus)))
        self._delete(SKUS, (item,))
        return [Touched(SKUS, (item,))]

    def move_invoice(self) -> list[Touched]:
        """An invoice turns out to be another account's."""
        invoice, account = self._any_key(INVOICES), self._any_key(ACCOUNTS)
        if invoice is None or account is None:
            return []
        self._update(INVOICES, invoice, "account_id", account[0])
        return [Touched(INVOICES, invoice)]

    def _sku_name(self) -> str:
        return f"sim-{self._next_sku:06d}" if self._text_items else str(10_000_000 + self._next_sku)

    def _any_key(self, table: Table) -> tuple[Any, ...] | None:
        """The key of some row: the first at or after a random number."""
        name = table.key[0]
        columns = ", ".join(table.key)
        highest = self._last[ACCOUNTS if table is ACCOUNTS else INVOICES]
        place = self._random.randint(0, highest)
        for condition, args in ((f"WHERE {name} >= %s", (place,)), ("", None)):
            rows = query(
                self._connection, f"SELECT {columns} FROM {table.name} {condition} ORDER BY {columns} LIMIT 1", args
            )
            if rows:
                first, *rest = rows[0]
                return (int(first), *(str(value) for value in rest))
        return None

    def _exists(self, table: Table, key: tuple[Any, ...]) -> bool:
        return bool(query(self._connection, f"SELECT 1 FROM {table.name} WHERE {_by_key(table)}", key))

    def _cell(self, table: Table, key: tuple[Any, ...], column: str) -> Any:
        return query(self._connection, f"SELECT {column} FROM {table.name} WHERE {_by_key(table)}", key)[0][0]

    def _insert(self, table: Table, **values: Any) -> None:
        places = ", ".join(["%s"] * len(values))
        execute(
            self._connection,
            f"INSERT INTO {table.name} ({', '.join(values)}) VALUES ({places})",
            list(values.values()),
        )

    def _update(self, table: Table, key: tuple[Any, ...], column: str, value: Any) -> None:
        execute(self._connection, f"UPDATE {table.name} SET {column} = %s WHERE {_by_key(table)}", (value, *key))

    def _delete(self, table: Table, key: tuple[Any, ...]) -> None:
        execute(self._connection, f"DELETE FROM {table.name} WHERE {_by_key(table)}", key)


def _by_key(table: Table) -> str:
    return " AND ".join(f"{name} = %s" for name in table.key)
