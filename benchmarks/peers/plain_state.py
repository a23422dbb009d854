"""The shop in plain dicts, one row at a time, and the invoice features of one account at a time.

What an application without columns would hold. It knows creates and updates, not deletes, takes rows in the order in
which they come, and charges the price that it knows when it derives: enough for rows that come once, as those of the
catch-up benchmark do, and less work than the real rules make.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping
from decimal import Decimal, localcontext
from itertools import accumulate
from typing import Any, NamedTuple

LATE_AFTER_DAYS = 30
WINDOW_DAYS = 120

FeatureRow = tuple[int, int, Decimal, int, int | None, int, Decimal, int]
"""The columns of invoice_features, in their order."""


class Invoice(NamedTuple):
    """Days are numbers since 1970, as change data capture sends them."""

    account_id: int
    issued: int
    paid: int | None


class PlainState:
    """Rows by key, and the accounts whose features are not up to date."""

    def __init__(self) -> None:
        self._prices: dict[str, Decimal] = {}
        self._joined: dict[int, int] = {}
        self._invoices: dict[int, Invoice] = {}
        self._invoices_of: dict[int, set[int]] = defaultdict(set)
        self._lines: dict[int, dict[str, int]] = defaultdict(dict)
        self._touched: set[int] = set()

    def take_sku(self, row: Mapping[str, Any]) -> None:
        """An article; a later price changes nothing that was charged."""
        self._prices[row["item_id"]] = Decimal(row["item_retail_price"])

    def take_account(self, row: Mapping[str, Any]) -> None:
        """An account, whose invoices may be here already."""
        self._joined[row["account_id"]] = row["joining_date"]
        self._touched.add(row["account_id"])

    def take_invoice(self, row: Mapping[str, Any]) -> None:
        """An invoice; one that moves to another account touches both."""
        number, invoice = row["invoice_id"], Invoice(row["account_id"], row["date_issued"], row.get("payment_dates"))
        before = self._invoices.get(number)
        if before is not None and before.account_id != invoice.account_id:
            self._invoices_of[before.account_id].discard(number)
            self._touched.add(before.account_id)
        self._invoices[number] = invoice
        self._invoices_of[invoice.account_id].add(number)
        self._touched.add(invoice.account_id)

    def take_line(self, row: Mapping[str, Any]) -> None:
        """A line, whose invoice may not be here yet."""
        self._lines[row["invoice_id"]][row["item_id"]] = row["quantity"]
        invoice = self._invoices.get(row["invoice_id"])
        if invoice is not None:
            self._touched.add(invoice.account_id)

    def derive_touched(self) -> list[FeatureRow]:
        """The features of all touched accounts; those that wait for a price stay touched."""
        touched, self._touched = self._touched, set()
        with localcontext(prec=60):  # the default of 28 digits would round
            return [row for account_id in touched for row in self._derive(account_id)]

    def _derive(self, account_id: int) -> Iterator[FeatureRow]:
        own = [(self._invoices[number].issued, number) for number in self._invoices_of[account_id]]
        own.sort()
        days = [day for day, _ in own]
        charged = [self._charge(account_id, number) for _, number in own]
        cumulative = list(accumulate(total for total, _ in charged))
        joined = self._joined.get(account_id)
        for (day, number), (total, items) in zip(own, charged, strict=True):
            paid = self._invoices[number].paid
            yield (
                number,
                account_id,
                total,
                items,
                None if joined is None else day - joined,
                bisect_left(days, day) - bisect_left(days, day - WINDOW_DAYS),
                cumulative[bisect_right(days, day) - 1],
                int(paid is not None and paid - day > LATE_AFTER_DAYS),
            )

    def _charge(self, account_id: int, number: int) -> tuple[Decimal, int]:
        total, items = Decimal(0), 0
        for item_id, quantity in self._lines.get(number, {}).items():
            items += quantity
            price = self._prices.get(item_id)
            if price is None:
                self._touched.add(account_id)
            else:
                total += quantity * price
        return total, items
