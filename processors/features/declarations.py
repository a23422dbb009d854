"""The declared feature sets. Adding one = one SQL file in this folder and one entry here.

The SQL (DuckDB, portable to Trino) reads two relations and returns exactly the declared columns in their order:

- `accounts(account_id, company_name, joining_date)`: live accounts, no personal data;
- `documents(account_id, invoice_id, date_issued, payment_dates, inv_total, inv_items, unpriced_lines)`: live invoices
  with what their lines add up to.

In batch the relations hold everything; in the stream they hold the accounts that an epoch touched. So a feature of an
account or of its invoices may look at all of that account's invoices, and at nothing of other accounts.

A set with `window_days` promises more, so that a change costs what follows it and not what the account is: an invoice's
features follow from the account's invoices up to its day of issue; those of the `window_days` before that day count as
themselves, older ones only by the sums of their numbers. In the stream one document per account then stands for all
that is older than the window of the first changed day: it has no id and no payment, and holds the sums.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import pyarrow as pa


@dataclass(frozen=True)
class FeatureColumn:
    """One output column: its name, SQL type (DuckDB) and meaning."""

    name: str
    sql_type: str
    doc: str

    @property
    def arrow_type(self) -> pa.DataType:
        return {
            "BIGINT": pa.int64(),
            "INTEGER": pa.int32(),
            "DOUBLE": pa.float64(),
            "DATE": pa.date32(),
            "DECIMAL(38,10)": pa.decimal128(38, 10),
        }[self.sql_type]


@dataclass(frozen=True)
class FeatureSet:
    """One feature set.

    `entity_key`: columns that identify a row over all accounts. `account_column`: the column that names the account
    whose rows the row was computed from. `per_invoice`: whether the entity is an invoice (`entity_key[0]` is its id),
    else it is the account itself. `window_days`: see above; None: features may look at every invoice of the account, so
    every invoice counts for every other. `version` rises with every change of the SQL's meaning (R10).
    """

    name: str
    doc: str
    version: int
    entity_key: tuple[str, ...]
    account_column: str
    per_invoice: bool
    columns: tuple[FeatureColumn, ...]
    window_days: int | None = None

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns)

    @property
    def sql(self) -> str:
        """The text of the set's SQL file."""
        return _read_sql(self.name)


@cache
def _read_sql(name: str) -> str:
    return files("processors.features").joinpath(f"{name}.sql").read_text(encoding="utf-8")


INVOICE_FEATURES = FeatureSet(
    name="invoice_features",
    doc="One row per invoice: what it is worth and how its account behaved up to its issue.",
    version=1,
    entity_key=("inv_id",),
    account_column="acct_id",
    per_invoice=True,
    columns=(
        FeatureColumn("inv_id", "BIGINT", "The invoice."),
        FeatureColumn("acct_id", "BIGINT", "Its account."),
        FeatureColumn("inv_total", "DECIMAL(38,10)", "Sum of quantity x price charged."),
        FeatureColumn("inv_items", "BIGINT", "Sum of quantity."),
        FeatureColumn("acct_age", "INTEGER", "Days from the account's joining to the issue; null: unknown account."),
        FeatureColumn("num_inv_120d", "BIGINT", "The account's invoices of the 120 days before the issue."),
        FeatureColumn(
            "cum_tot_inv_acct", "DECIMAL(38,10)", "Total of the account's invoices up to that day, inclusive."
        ),
        FeatureColumn("is_late", "INTEGER", "1 when paid more than 30 days after the issue, else 0; unpaid is 0."),
    ),
    window_days=120,
)

ACCOUNT_FEATURES = FeatureSet(
    name="account_features",
    doc="One row per account that has invoices: how much, how often, how late.",
    version=1,
    entity_key=("acct_id",),
    account_column="acct_id",
    per_invoice=False,
    columns=(
        FeatureColumn("acct_id", "BIGINT", "The account."),
        FeatureColumn("num_inv", "BIGINT", "Number of invoices."),
        FeatureColumn("revenue", "DECIMAL(38,10)", "Total of all invoices."),
        FeatureColumn("avg_basket", "DECIMAL(38,10)", "Revenue per invoice, rounded half up to 10 decimals."),
        FeatureColumn("share_late", "DOUBLE", "Share of invoices that were paid late."),
        FeatureColumn(
            "avg_days_to_pay", "DOUBLE", "Mean days from issue to payment of paid invoices; null: none paid."
        ),
        FeatureColumn("first_invoice", "DATE", "Day of the first invoice."),
        FeatureColumn("last_invoice", "DATE", "Day of the last invoice."),
        FeatureColumn("days_between_inv", "DOUBLE", "Mean days between invoices; null for fewer than two."),
    ),
)

FEATURE_SETS: tuple[FeatureSet, ...] = (INVOICE_FEATURES, ACCOUNT_FEATURES)


def feature_set(name: str) -> FeatureSet | None:
    """The declared set of that name, or None."""
    return next((f for f in FEATURE_SETS if f.name == name), None)
