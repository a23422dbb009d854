"""What final rows, documents and features must be, by loops over the set of records; shares nothing with the core."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, TypeVar

K = TypeVar("K", bound=Hashable)
Place = tuple[int, int]
"""(row_order, row_offset)."""


@dataclass(frozen=True)
class Record:
    """One row event. `values` holds the columns beyond the key, none for a delete without its before image."""

    table: str
    key: tuple[Any, ...]
    order: int
    offset: int
    is_delete: bool
    is_create: bool
    values: tuple[tuple[str, Any], ...]

    @property
    def place(self) -> Place:
        return self.order, self.offset

    def value(self, name: str) -> Any:
        return dict(self.values)[name]


def latest(records: Iterable[Record], table: str) -> dict[tuple[Any, ...], Record]:
    """Of each key the record at the greatest place."""
    found: dict[tuple[Any, ...], Record] = {}
    for record in records:
        if record.table == table and (record.key not in found or record.place > found[record.key].place):
            found[record.key] = record
    return found


def creation(records: Iterable[Record], key: tuple[Any, ...]) -> tuple[Place | None, list[Place]]:
    """Of a line the place of its last delete, and of its creates after that, ascending."""
    own = [r for r in records if r.table == "invoice_line_items" and r.key == key]
    deleted = max((r.place for r in own if r.is_delete), default=None)
    creates = {r.place for r in own if r.is_create and not r.is_delete}
    return deleted, sorted(p for p in creates if deleted is None or p > deleted)


def versions(records: Iterable[Record], item: str) -> list[tuple[int, Decimal]]:
    """All prices of an article by order; of equal orders the one with the greatest offset."""
    prices: dict[int, tuple[int, Decimal]] = {}
    for r in records:
        if r.table == "skus" and r.key == (item,) and not r.is_delete:
            prices[r.order] = max(prices.get(r.order, (-1, Decimal(0))), (r.offset, r.value("item_retail_price")))
    return [(order, price) for order, (_, price) in sorted(prices.items())]


def charged(records: list[Record], item: str, created: int, price_at: str) -> Decimal | None:
    """The price of a line: the latest version not above its creation, else the earliest; or simply the latest."""
    known = versions(records, item)
    if not known:
        return None
    if price_at == "current":
        return known[-1][1]
    return ([known[0][1]] + [price for order, price in known if order <= created])[-1]


@dataclass(frozen=True)
class Document:
    """A live invoice with what its lines add up to."""

    account_id: int
    date_issued: date
    payment_dates: date | None
    inv_total: Decimal
    inv_items: int
    unpriced_lines: int


@dataclass(frozen=True)
class Line:
    """A line of a live invoice."""

    item_id: str
    invoice_id: int
    account_id: int
    date_issued: date
    quantity: int
    price: Decimal | None


def charged_lines(records: list[Record], price_at: str) -> list[Line]:
    """Every line of a live invoice."""
    headers = {k: r for k, r in latest(records, "invoices").items() if not r.is_delete}
    found = []
    for (invoice, item), line in latest(records, "invoice_line_items").items():
        if line.is_delete or (invoice,) not in headers:
            continue
        header = headers[invoice,]
        creates = creation(records, (invoice, item))[1]
        price = charged(records, item, creates[0][0] if creates else 0, price_at)
        account, issued = header.value("account_id"), header.value("date_issued")
        found.append(Line(item, invoice, account, issued, line.value("quantity"), price))
    return found


def documents(records: list[Record], price_at: str) -> dict[int, Document]:
    """Every live invoice by id."""
    lines = defaultdict(list)
    for line in charged_lines(records, price_at):
        lines[line.invoice_id].append(line)
    found = {}
    for (invoice,), header in latest(records, "invoices").items():
        if header.is_delete:
            continue
        account, issued = header.value("account_id"), header.value("date_issued")
        own = lines[invoice]
        total = sum((line.quantity * line.price for line in own if line.price is not None), Decimal(0))
        items, unpriced = sum(line.quantity for line in own), sum(line.price is None for line in own)
        found[invoice] = Document(account, issued, header.value("payment_dates"), total, items, unpriced)
    return found


def sku_demand_features_of(lines: Iterable[Line]) -> dict[tuple[str, date], tuple[Any, ...]]:
    """The columns of the example sku_demand_features after its key, by article and month."""
    months = defaultdict(list)
    for line in lines:
        months[line.item_id, line.date_issued.replace(day=1)].append(line)
    found = {}
    for key, own in months.items():
        units = sum(line.quantity for line in own)
        priced = [line.quantity * line.price for line in own if line.price is not None]
        returned = sum(-line.quantity for line in own if line.quantity < 0)
        accounts = len({line.account_id for line in own})
        revenue = sum(priced, Decimal(0))
        found[key] = (len(own), accounts, units, returned, revenue, len(own) - len(priced), units / len(own))
    return found


def _late(document: Document) -> bool:
    paid = document.payment_dates
    return paid is not None and (paid - document.date_issued).days > 30


def invoice_features(records: list[Record], price_at: str) -> dict[int, tuple[Any, ...]]:
    """The columns of invoice_features after inv_id, by invoice."""
    return invoice_features_of(documents(records, price_at), latest(records, "accounts"))


def invoice_features_of(
    all_documents: Mapping[K, Document], accounts: dict[tuple[Any, ...], Record]
) -> dict[K, tuple[Any, ...]]:
    """The same, of live documents and the latest account records; keyed as the documents are."""
    rows = {}
    for key, d in all_documents.items():
        own = [o for o in all_documents.values() if o.account_id == d.account_id]
        account = accounts.get((d.account_id,))
        known = account is not None and not account.is_delete
        age = (d.date_issued - account.value("joining_date")).days if account is not None and known else None
        first, last = d.date_issued - timedelta(120), d.date_issued - timedelta(1)
        before = sum(1 for o in own if first <= o.date_issued <= last)
        total = sum((o.inv_total for o in own if o.date_issued <= d.date_issued), Decimal(0))
        rows[key] = (d.account_id, d.inv_total, d.inv_items, age, before, total, int(_late(d)))
    return rows


def account_features(records: list[Record], price_at: str) -> dict[int, tuple[Any, ...]]:
    """The columns of account_features after acct_id, by account."""
    return account_features_of(documents(records, price_at).values())


def account_features_of(all_documents: Iterable[Document]) -> dict[int, tuple[Any, ...]]:
    """The same, of live documents."""
    of_account: dict[int, list[Document]] = defaultdict(list)
    for d in all_documents:
        of_account[d.account_id].append(d)
    rows = {}
    for account, own in of_account.items():
        revenue = sum((d.inv_total for d in own), Decimal(0))
        basket = (revenue / len(own)).quantize(Decimal("1e-10"), ROUND_HALF_UP)
        days = [(d.payment_dates - d.date_issued).days for d in own if d.payment_dates is not None]
        first, last = min(d.date_issued for d in own), max(d.date_issued for d in own)
        rows[account] = (
            len(own),
            revenue,
            basket,
            sum(map(_late, own)) / len(own),
            sum(days) / len(days) if days else None,
            first,
            last,
            (last - first).days / (len(own) - 1) if len(own) > 1 else None,
        )
    return rows
