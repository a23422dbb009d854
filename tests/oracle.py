"""The features of CSV extracts by plain Python: csv, Decimal and loops; shares nothing with the code that it judges."""

import csv
from bisect import bisect_left, bisect_right
from collections import defaultdict
from datetime import date, timedelta
from decimal import Decimal, localcontext
from pathlib import Path

HEADER = ["inv_id", "acct_id", "inv_total", "inv_items", "acct_age", "num_inv_120d", "cum_tot_inv_acct", "is_late"]


def read(folder: Path, table: str) -> list[dict[str, str]]:
    with (folder / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def money(value: Decimal) -> str:
    """At least 2 decimals, further ones only if not zero."""
    whole, _, decimals = f"{value:f}".partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')}"


def invoice_features(folder: Path) -> list[list[str]]:
    """Header and rows as text, by invoice. A price that is not in `skus` adds nothing."""
    with localcontext(prec=60):  # Python's default of 28 digits would round
        return [HEADER, *_rows(folder)]


def _rows(folder: Path) -> list[list[str]]:
    prices = {sku["item_id"]: Decimal(sku["item_retail_price"]) for sku in read(folder, "skus")}
    joined = {a["account_id"]: date.fromisoformat(a["joining_date"]) for a in read(folder, "accounts")}
    totals: dict[str, Decimal] = defaultdict(Decimal)
    items: dict[str, int] = defaultdict(int)
    for line in read(folder, "invoice_line_items"):
        items[line["invoice_id"]] += int(line["quantity"])
        totals[line["invoice_id"]] += int(line["quantity"]) * prices.get(line["item_id"], Decimal(0))
    invoices = read(folder, "invoices")
    of_account: dict[str, list[tuple[date, Decimal]]] = defaultdict(list)
    for invoice in invoices:
        issued = date.fromisoformat(invoice["date_issued"])
        of_account[invoice["account_id"]].append((issued, totals[invoice["invoice_id"]]))
    days = {account: sorted(day for day, _ in own) for account, own in of_account.items()}
    rows = []
    for invoice in sorted(invoices, key=lambda i: int(i["invoice_id"])):
        number, account = invoice["invoice_id"], invoice["account_id"]
        issued = date.fromisoformat(invoice["date_issued"])
        paid = invoice.get("payment_dates") or ""
        late = paid != "" and (date.fromisoformat(paid) - issued).days > 30
        first = bisect_left(days[account], issued - timedelta(120))
        last = bisect_right(days[account], issued - timedelta(1))
        cumulative = sum((total for day, total in of_account[account] if day <= issued), Decimal(0))
        age = str((issued - joined[account]).days) if account in joined else ""
        row = [number, account, money(totals[number]), str(items[number]), age, str(last - first), money(cumulative)]
        rows.append([*row, str(int(late))])
    return rows
