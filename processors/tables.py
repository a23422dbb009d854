"""The four source tables, declared once: decoder, DDL, extracts, lake tables and documents all read this.

Types are the source's own (MySQL); `duckdb_type` and `mysql_type` are derived, so that a column is described in one
place only. `event_key` is what the Kafka message key holds (Debezium's `message.key.columns`): lines are keyed by
their invoice, so that an invoice and its lines share a partition.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from processors.features.declarations import SETS_BY_ARTICLE


class Kind(StrEnum):
    """The scalar kinds that the source uses."""

    BIGINT = "bigint"
    INT = "int"
    TEXT = "text"
    DECIMAL = "decimal"
    DATE = "date"


@dataclass(frozen=True)
class Column:
    """One source column. `size` is the length of a VARCHAR in characters; `None` is TEXT (64 KiB)."""

    name: str
    kind: Kind
    doc: str
    nullable: bool = False
    optional: bool = False  # a source may lack the column altogether: every value is null
    size: int | None = None
    aliases: tuple[str, ...] = ()
    personal: bool = False

    @property
    def duckdb_type(self) -> str:
        return {
            Kind.BIGINT: "BIGINT",
            Kind.INT: "INTEGER",
            Kind.TEXT: "VARCHAR",
            Kind.DECIMAL: "DECIMAL(20,10)",
            Kind.DATE: "DATE",
        }[self.kind]

    @property
    def mysql_type(self) -> str:
        if self.kind is Kind.TEXT:
            return "TEXT" if self.size is None else f"VARCHAR({self.size})"
        return {Kind.BIGINT: "BIGINT", Kind.INT: "INT", Kind.DECIMAL: "DECIMAL(20,10)", Kind.DATE: "DATE"}[self.kind]


@dataclass(frozen=True)
class Table:
    """One source table. `key` is its primary key, `event_key` the columns of the Kafka message key."""

    name: str
    doc: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    event_key: tuple[str, ...]
    _by_name: dict[str, Column] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        for column in self.columns:
            for name in (column.name, *column.aliases):
                self._by_name[name] = column

    def column(self, name: str) -> Column | None:
        """The column of that name or alias, or None."""
        return self._by_name.get(name)

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns)


ACCOUNTS = Table(
    name="accounts",
    doc="Trade customers.",
    key=("account_id",),
    event_key=("account_id",),
    columns=(
        Column("account_id", Kind.BIGINT, "Identifies the account."),
        Column("company_name", Kind.TEXT, "The company's name.", size=255),
        Column("company_address", Kind.TEXT, "Postal address; spans lines.", personal=True),
        Column("contact_person", Kind.TEXT, "The person to talk to.", size=255, personal=True),
        Column("contact_phone", Kind.TEXT, "That person's telephone number.", size=64, personal=True),
        Column("gender", Kind.TEXT, "That person's gender.", nullable=True, size=16, personal=True),
        Column("joining_date", Kind.DATE, "The day on which the account was opened."),
    ),
)
SKUS = Table(
    name="skus",
    doc="Articles and their prices.",
    key=("item_id",),
    event_key=("item_id",),
    columns=(
        Column("item_id", Kind.TEXT, "Identifies the article.", size=64),
        Column("item_name", Kind.TEXT, "The article's name.", size=255),
        Column("item_description", Kind.TEXT, "The article's description."),
        Column("item_cost_price", Kind.DECIMAL, "What TRS pays for one."),
        Column("item_retail_price", Kind.DECIMAL, "What a customer pays for one."),
    ),
)
INVOICES = Table(
    name="invoices",
    doc="Invoices on 30-day terms.",
    key=("invoice_id",),
    event_key=("invoice_id",),
    columns=(
        Column("invoice_id", Kind.BIGINT, "Identifies the invoice."),
        Column("account_id", Kind.BIGINT, "The account that was invoiced."),
        Column("date_issued", Kind.DATE, "The day of issue."),
        Column(
            "payment_dates",
            Kind.DATE,
            "The day of payment (one date, in spite of the name); null while unpaid.",
            nullable=True,
            optional=True,
            aliases=("payment_date",),
        ),
    ),
)
INVOICE_LINE_ITEMS = Table(
    name="invoice_line_items",
    doc="What an invoice charges, one row per article.",
    key=("invoice_id", "item_id"),
    event_key=("invoice_id",),
    columns=(
        Column("invoice_id", Kind.BIGINT, "The invoice of this line."),
        Column("item_id", Kind.TEXT, "The article.", size=64),
        Column("quantity", Kind.INT, "How many; below 1 for a return."),
    ),
)

TABLES: tuple[Table, ...] = (SKUS, ACCOUNTS, INVOICES, INVOICE_LINE_ITEMS)
"""In the order in which a bootstrap reads them: SKU chunks before line chunks (R3)."""

TABLES_BY_NAME: dict[str, Table] = {t.name: t for t in TABLES}

EXTRA = "extra"
"""The column of events and logs that keeps what a row holds beyond the declared columns: one JSON object, or null."""

DOCUMENTS_TOPIC = "invoice_documents"
CHARGED_LINES_TOPIC = "charged_lines"
DEAD_LETTERS_TOPIC = "dead_letters"

DERIVED_TOPICS: tuple[str, ...] = (DOCUMENTS_TOPIC, *((CHARGED_LINES_TOPIC,) if SETS_BY_ARTICLE else ()))
"""What stage A sends to the stages of features; charged lines only where a feature set is derived by article."""

STAGE_TOPICS: dict[str, tuple[str, ...]] = {
    "skus": (SKUS.name, DEAD_LETTERS_TOPIC),
    "invoices": (INVOICES.name, INVOICE_LINE_ITEMS.name),
    "accounts": (ACCOUNTS.name, DOCUMENTS_TOPIC),
    "items": (CHARGED_LINES_TOPIC,),
}
"""What each stage reads. `items` is there only where a feature set is derived by article."""

TOPICS: tuple[str, ...] = (*TABLES_BY_NAME, *DERIVED_TOPICS, DEAD_LETTERS_TOPIC)
"""Every topic of an installation, without its prefix; all have the same number of partitions."""


def topic_of(prefix: str, name: str) -> str:
    """The Kafka topic of a table (or of another of TOPICS): `aurora.trs` + `skus`."""
    return f"{prefix}.{name}"


def all_topics(prefix: str) -> tuple[str, ...]:
    """The full names of all topics."""
    return tuple(topic_of(prefix, name) for name in TOPICS)
