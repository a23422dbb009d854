"""What a feature set is: a name, an SQL file, and the declaration of its rows and columns.

The SQL (DuckDB, portable to Trino) reads the relations of its grain and returns exactly the declared columns in their
order:

- grain `invoice` or `account`: `accounts`, live accounts without personal data, and `documents`, live invoices with
  what their lines add up to;
- grain `article`: `charged_lines`, the lines of live invoices with the price charged. `amount` is quantity x price;
  both are null while the article's price is not known.

In batch the relations hold everything; in the stream they hold the owners that an epoch touched: accounts, or articles.
So a feature may look at everything of its owner and at nothing of other owners.

Two promises make a change cost what follows from it, and not what its owner is:

- `window_days` (grain `invoice`): an invoice's features follow from the account's invoices up to its day of issue;
  those of the `window_days` before that day count as themselves, older ones only by the sums of their numbers. In the
  stream one document per account then stands for all that is older than the window of the first changed day: it has no
  id and no payment, and holds the sums.
- `month_column` (grain `article`): a row follows from the article's lines of one month of issue, and the column holds
  that month's first day. In the stream the relation then holds the months that changed.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pyarrow as pa

Grain = Literal["invoice", "account", "article"]
"""What the rows are derived by: `article` by the article, the others by the account."""

INPUTS: dict[str, str] = {
    "accounts": "account_id BIGINT, company_name VARCHAR, joining_date DATE",
    "documents": (
        "account_id BIGINT, invoice_id BIGINT, date_issued DATE, payment_dates DATE, inv_total DECIMAL(38,10),"
        " inv_items BIGINT, unpriced_lines INTEGER"
    ),
    "charged_lines": (
        "item_id VARCHAR, invoice_id BIGINT, account_id BIGINT, date_issued DATE, quantity BIGINT,"
        " price DECIMAL(20,10), amount DECIMAL(38,10)"
    ),
}
"""The relations that the SQL may read, with their columns."""

INPUTS_OF: dict[Grain, tuple[str, ...]] = {
    "invoice": ("accounts", "documents"),
    "account": ("accounts", "documents"),
    "article": ("charged_lines",),
}

COLUMN_TYPES = ("BIGINT", "INTEGER", "DOUBLE", "DATE", "DECIMAL(38,10)", "VARCHAR")


@dataclass(frozen=True)
class FeatureColumn:
    """One output column: its name, SQL type (DuckDB; one of COLUMN_TYPES) and meaning."""

    name: str
    sql_type: str
    doc: str

    @property
    def arrow_type(self) -> "pa.DataType":
        import pyarrow as pa  # commands that only need names start without it

        return {
            "BIGINT": pa.int64(),
            "INTEGER": pa.int32(),
            "DOUBLE": pa.float64(),
            "DATE": pa.date32(),
            "DECIMAL(38,10)": pa.decimal128(38, 10),
            "VARCHAR": pa.string(),
        }[self.sql_type]


@dataclass(frozen=True)
class FeatureSet:
    """One feature set.

    `entity_key`: columns that identify a row over all owners. `owner_column`: the column that names the account, or
    the article, whose rows the row was computed from. Of grain `invoice` the key is the invoice's id alone. `sql`: the
    text of its SQL file. `window_days`, `month_column`: see above; None: every row of the owner may count for every
    other. `version` rises with every change of the SQL's meaning (R10).
    """

    name: str
    doc: str
    version: int
    grain: Grain
    entity_key: tuple[str, ...]
    owner_column: str
    columns: tuple[FeatureColumn, ...]
    sql: str
    window_days: int | None = None
    month_column: str | None = None

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns)

    @property
    def per_invoice(self) -> bool:
        """Whether the entity is an invoice, which may move between owners."""
        return self.grain == "invoice"
