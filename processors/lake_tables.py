"""The tables of the lake, declared once: what the worker writes, what folds, what people read.

All timestamps are UTC microseconds; `known_date` is the UTC day on which a row was committed, the only partition column
of append-only tables. `bucket` is the Kafka partition number that a key lives in. Folded tables repeat the columns of
their log and add `is_mark`, `mark_bucket` and `mark_date`; they are partitioned by `home_bucket`.
"""

from dataclasses import dataclass

import pyarrow as pa

from processors.errors import SettingsError
from processors.features.declarations import (
    FEATURE_SETS,
    FOLDER_VARIABLE,
    SETS_BY_ARTICLE,
    FeatureSet,
)
from processors.keyed_table import KeyedTable
from processors.records import DEAD_SCHEMA, ORDER_ARROW_TYPE, TIMESTAMP
from processors.tables import ACCOUNTS, EXTRA

MONEY = pa.decimal128(38, 10)
PRICE = pa.decimal128(20, 10)


@dataclass(frozen=True)
class LakeTable:
    """One Delta table: its schema, partition columns and what it is for. `personal_columns`: those of personal data.

    `added`: columns that a lake may lack which an earlier version made; they are added to it, null in its rows.
    """

    name: str
    doc: str
    schema: pa.Schema
    partition_by: tuple[str, ...] = ("known_date",)
    personal_columns: tuple[str, ...] = ()
    added: tuple[str, ...] = ()

    @property
    def personal(self) -> bool:
        """Whether it holds personal data."""
        return bool(self.personal_columns)


def _field(name: str, kind: pa.DataType, doc: str) -> pa.Field:
    return pa.field(name, kind, metadata={"comment": doc})


BUCKET = _field("bucket", pa.int32(), "Kafka partition number that the key lives in.")
EPOCH = _field("epoch", pa.int64(), "The bucket's commit number; the highest of a key counts.")
KNOWN_DATE = _field("known_date", pa.date32(), "UTC day of the commit.")
DELETED = _field("deleted", pa.bool_(), "The row is gone at the source; kept as a tombstone with its order.")
ROW_ORDER = _field("row_order", ORDER_ARROW_TYPE, "Place in the source's history (processors/order.py).")
ROW_OFFSET = _field("row_offset", pa.int64(), "Kafka offset of the record, which breaks ties of row_order.")
SOURCE_TS = _field("source_ts", TIMESTAMP, "When the source committed the latest change that is in this row.")

EXTRA_FIELD = _field(
    EXTRA, pa.string(), "JSON object of the row's columns that are not declared and not null; null without any."
)

SKU_LOG = LakeTable(
    "sku_log",
    "States of SKUs with all their price versions; the worker tails it for prices.",
    pa.schema(
        [
            BUCKET,
            EPOCH,
            _field("item_id", pa.string(), "Identifies the article."),
            _field("item_name", pa.string(), "The article's name."),
            _field("item_description", pa.string(), "The article's description."),
            _field("item_cost_price", PRICE, "What TRS pays for one."),
            _field("item_retail_price", PRICE, "What a customer pays for one, latest version."),
            DELETED,
            ROW_ORDER,
            ROW_OFFSET,
            SOURCE_TS,
            _field(
                "prices",
                pa.list_(
                    pa.struct(
                        [
                            ("row_order", ORDER_ARROW_TYPE),
                            ("row_offset", pa.int64()),
                            ("item_retail_price", PRICE),
                            ("source_ts", TIMESTAMP),
                        ]
                    )
                ),
                "Every retail price ever seen, in source order; a removed SKU keeps them.",
            ),
            EXTRA_FIELD,
            KNOWN_DATE,
        ]
    ),
    added=(EXTRA,),
)

PLACE_TYPE = pa.struct([("row_order", ORDER_ARROW_TYPE), ("row_offset", pa.int64())])

INVOICE_LOG = LakeTable(
    "invoice_log",
    "Merged states of invoices (kind 'invoice') and their lines (kind 'line').",
    pa.schema(
        [
            BUCKET,
            EPOCH,
            _field("kind", pa.string(), "'invoice' or 'line'."),
            _field("invoice_id", pa.int64(), "Identifies the invoice."),
            _field("item_id", pa.string(), "The line's article; empty for kind 'invoice'."),
            _field("account_id", pa.int64(), "The invoice's account (kind 'invoice')."),
            _field("left_account_id", pa.int64(), "The account that the invoice left in this epoch, else null."),
            _field("account_since", pa.int64(), "The epoch in which the invoice came to its account."),
            _field("date_issued", pa.date32(), "Day of issue (kind 'invoice')."),
            _field("payment_dates", pa.date32(), "Day of payment, null while unpaid (kind 'invoice')."),
            _field("quantity", pa.int32(), "How many (kind 'line')."),
            DELETED,
            ROW_ORDER,
            ROW_OFFSET,
            SOURCE_TS,
            _field("deleted_order", ORDER_ARROW_TYPE, "Order of the line's last delete, null if never."),
            _field("deleted_offset", pa.int64(), "Kafka offset of that delete."),
            _field("created_order", ORDER_ARROW_TYPE, "Smallest order of its creates after that delete."),
            _field("created_offset", pa.int64(), "Kafka offset of that create."),
            _field("later_creates", pa.list_(PLACE_TYPE), "Further creates after it, ascending; null if none."),
            EXTRA_FIELD,
            KNOWN_DATE,
        ]
    ),
    added=(EXTRA,),
)

LINES_TYPE = pa.list_(pa.struct([("item_id", pa.string()), ("quantity", pa.int64()), ("price", PRICE)]))

ACCOUNT_LOG = LakeTable(
    "account_log",
    "States of accounts (kind 'account', no personal data) and of invoice documents (kind 'document').",
    pa.schema(
        [
            BUCKET,
            EPOCH,
            _field("kind", pa.string(), "'account' or 'document'."),
            _field("account_id", pa.int64(), "The account."),
            _field("invoice_id", pa.int64(), "The document's invoice; -1 for kind 'account'."),
            _field("company_name", pa.string(), "The company's name (kind 'account')."),
            _field("joining_date", pa.date32(), "Day of joining (kind 'account')."),
            _field("document_state", pa.string(), "'live', 'left' (moved to another account) or 'deleted'."),
            _field("document_version", pa.int64(), "Epoch of the invoice's own bucket: a total order per invoice."),
            _field("account_since", pa.int64(), "Version as of which the invoice is in this account without a break."),
            _field("invoice_bucket", pa.int32(), "The invoice's own bucket."),
            _field("date_issued", pa.date32(), "Day of issue."),
            _field("payment_dates", pa.date32(), "Day of payment, null while unpaid."),
            _field("inv_total", MONEY, "Sum of quantity x price over priced lines."),
            _field("inv_items", pa.int64(), "Sum of quantity over all lines."),
            _field("unpriced_lines", pa.int32(), "Lines whose SKU is not known yet."),
            _field("lines", LINES_TYPE, "Lines with the price charged; price is null while the SKU is unknown."),
            DELETED,
            ROW_ORDER,
            ROW_OFFSET,
            SOURCE_TS,
            KNOWN_DATE,
        ]
    ),
)

ITEM_LOG = LakeTable(
    "item_log",
    "States of charged lines by article: what stage A sent of them. Only where a feature set is derived by article.",
    pa.schema(
        [
            BUCKET,
            EPOCH,
            _field("item_id", pa.string(), "The article."),
            _field("invoice_id", pa.int64(), "The invoice."),
            _field("line_version", pa.int64(), "Epoch of the invoice's own bucket: a total order per invoice."),
            _field("invoice_bucket", pa.int32(), "The invoice's own bucket."),
            _field("account_id", pa.int64(), "The invoice's account; null of a line that is gone, as what follows."),
            _field("date_issued", pa.date32(), "Day of issue of the invoice."),
            _field("quantity", pa.int64(), "How many."),
            _field("price", PRICE, "The price charged; null while the SKU is unknown."),
            _field("deleted", pa.bool_(), "The line or its invoice is gone; kept as a tombstone with its version."),
            ROW_OFFSET,
            SOURCE_TS,
            KNOWN_DATE,
        ]
    ),
)

ACCOUNTS_PRIVATE = LakeTable(
    "accounts_private_changes",
    "Personal columns of accounts, every change; guarded, erased on request, never joined into other tables.",
    pa.schema(
        [
            BUCKET,
            _field("account_id", pa.int64(), "The account."),
            _field("company_address", pa.string(), "Postal address."),
            _field("contact_person", pa.string(), "The person to talk to."),
            _field("contact_phone", pa.string(), "Telephone number."),
            _field("gender", pa.string(), "Gender."),
            EXTRA_FIELD,
            DELETED,
            ROW_ORDER,
            ROW_OFFSET,
            SOURCE_TS,
            _field("known_from", TIMESTAMP, "When the lake knew."),
            KNOWN_DATE,
        ]
    ),
    personal_columns=(*(c.name for c in ACCOUNTS.columns if c.personal), EXTRA),
    added=(EXTRA,),
)

_DEAD_COLUMNS = {
    "topic": "Topic of the record.",
    "partition": "Its partition.",
    "row_offset": "Its Kafka offset.",
    "record_key": "Its key, as it was.",
    "record_value": "Its value, as it was: may hold personal data.",
    "reason": "Why it was refused, a word of `trs dead-letters reasons`.",
    "detail": "The same as a sentence.",
    "record_ts": "When it came to Kafka.",
}

DEAD_LETTERS = LakeTable(
    "dead_letters",
    "Every record that was refused, whole, with its place and the reason.",
    pa.schema(
        [
            *(_field(field.name, field.type, _DEAD_COLUMNS[field.name]) for field in DEAD_SCHEMA),
            _field("known_from", TIMESTAMP, "When it was refused."),
            KNOWN_DATE,
        ]
    ),
    personal_columns=("record_key", "record_value", "detail"),
)

DEAD_LETTER_ACTIONS = LakeTable(
    "dead_letter_actions",
    "What people did about dead letters; a letter is open until an action names its place.",
    pa.schema(
        [
            _field("topic", pa.string(), "The letter's topic."),
            _field("partition", pa.int32(), "The letter's partition."),
            ROW_OFFSET,
            _field("action", pa.string(), "'replayed' (sent to its topic again) or 'discarded' (put aside)."),
            _field("note", pa.string(), "Why, in the words of the person; null if none were given."),
            _field("who", pa.string(), "User and machine that gave the command."),
            _field("known_from", TIMESTAMP, "When; it concerns letters known at or before this."),
            KNOWN_DATE,
        ]
    ),
)

EPOCHS = LakeTable(
    "epochs",
    "One row per stage, bucket and commit: what had been read, and through which time the lake is complete.",
    pa.schema(
        [
            _field("stage", pa.string(), "'skus', 'invoices' (A), 'accounts' (B) or 'items' (C)."),
            BUCKET,
            EPOCH,
            _field("known_through", TIMESTAMP, "No row with known_from at or before this will follow."),
            _field(
                "offsets",
                pa.list_(pa.struct([("topic", pa.string()), ("topic_id", pa.string()), ("next_offset", pa.int64())])),
                "Next offset per input topic.",
            ),
            _field("sku_versions", pa.list_(pa.int64()), "Per SKU bucket the epoch of sku_log that was used."),
            _field("control_version", pa.int64(), "Entry of control_log that was used."),
            _field("rows", pa.int64(), "Log rows of this bucket in this epoch."),
            _field("writer", pa.string(), "The worker that committed."),
            _field("commit_id", pa.string(), "Unique id of the commit."),
            _field("committed_at", TIMESTAMP, "The writer's clock at the commit."),
            KNOWN_DATE,
        ]
    ),
)

CONTROL_LOG = LakeTable(
    "control_log",
    "What all workers must know, in one order: bootstrap runs, truncates, the lake's generation and what it agreed on.",
    pa.schema(
        [
            _field("entry", pa.int64(), "Serial number, 1 for the first."),
            _field(
                "kind",
                pa.string(),
                "'generation', 'partitions', 'feature_set', 'run_opened', 'run_closed', 'truncate', 'rewound'.",
            ),
            _field("table_name", pa.string(), "The truncated table."),
            _field("row_order", ORDER_ARROW_TYPE, "Rows of table_name below this order are gone."),
            _field("run", pa.int64(), "Bootstrap run number."),
            _field("source_name", pa.string(), "The run's source."),
            _field("detail", pa.string(), "JSON: generation id, position, rows, version of a feature set."),
            _field("at", TIMESTAMP, "When the entry was written."),
            KNOWN_DATE,
        ]
    ),
    partition_by=(),
)

QUALITY_RESULTS = LakeTable(
    "quality_results",
    "Outcomes of declared checks, one row per check and run (docs/quality.md).",
    pa.schema(
        [
            _field("check_name", pa.string(), "The check."),
            _field("table_name", pa.string(), "The table or view that was checked."),
            _field("passed", pa.bool_(), "Whether it held."),
            _field("failures", pa.int64(), "Rows that failed; null where the check could not be made."),
            _field("detail", pa.string(), "What should hold, and the first row that fails."),
            _field("at", TIMESTAMP, "When the run began."),
            _field("run_id", pa.string(), "The run; the same in all of its rows."),
            _field("reason", pa.string(), "'fold': a fold was due; 'demand': a person or scheduler asked."),
            _field("rows", pa.int64(), "Rows of the table; null where the check could not be made."),
            _field("holds_fold", pa.bool_(), "So much failed that folds of what the table shows wait."),
            KNOWN_DATE,
        ]
    ),
    added=("run_id", "reason", "rows", "holds_fold"),
)

RECONCILIATION = LakeTable(
    "reconciliation",
    "What `trs reconcile` found, one row per table and check; no worker reads it.",
    pa.schema(
        [
            _field("check_id", pa.string(), "The check; its rows share it."),
            _field("checked_at", TIMESTAMP, "When it began."),
            _field("source", pa.string(), "What the lake was compared with."),
            _field("table_name", pa.string(), "The table."),
            _field("compared", pa.int64(), "Rows compared, on the side that has more."),
            _field("chunks", pa.int64(), "Ranges of rows compared."),
            _field("chunks_differing", pa.int64(), "Those whose checksums differed at first."),
            _field("missing", pa.int64(), "Rows of the source that the lake lacks."),
            _field("changed", pa.int64(), "Rows with other values in the lake."),
            _field("surplus", pa.int64(), "Rows of the lake that the source lacks."),
            _field("in_flight", pa.int64(), "Rows that went on changing and could not be judged."),
            _field("rejects", pa.int64(), "Rows of the source that are not as declared."),
            _field("repaired", pa.int64(), "Corrections that were sent."),
            _field("position_file", pa.string(), "Binlog file of the last read, null without a binlog."),
            _field("position_pos", pa.int64(), "Place in that file."),
            _field("seconds", pa.float64(), "How long the table took."),
            KNOWN_DATE,
        ]
    ),
)


HISTORY_RETENTION = LakeTable(
    "history_retention",
    "How finely the history of features is kept, one row per stretch of time, table and run of `trs lake retain`.",
    pa.schema(
        [
            _field("run_id", pa.string(), "The run."),
            _field("at", TIMESTAMP, "When it began."),
            _field("table_name", pa.string(), "The table of changes."),
            _field("zone_begin", TIMESTAMP, "The stretch begins after this moment; null: it has no beginning."),
            _field("zone_end", TIMESTAMP, "It ends with this moment."),
            _field(
                "step", pa.string(), "What is kept of it: the ends of each 'day', 'week', 'month', 'year', or 'none'."
            ),
            _field("rows_before", pa.int64(), "Rows of the stretch as the run found them."),
            _field("rows_kept", pa.int64(), "Rows that it keeps."),
            KNOWN_DATE,
        ]
    ),
)


ERASURES = LakeTable(
    "erasures",
    "Accounts whose personal data was erased, one row per table and run of `trs lake forget`; to erase again after a"
    " restore.",
    pa.schema(
        [
            _field("run_id", pa.string(), "The run."),
            _field("at", TIMESTAMP, "When it began."),
            _field("account_id", pa.int64(), "The account."),
            _field("table_name", pa.string(), "The table."),
            _field("rows", pa.int64(), "Rows with personal data as the run found them; it empties them."),
            _field("who", pa.string(), "User and machine that gave the command."),
            KNOWN_DATE,
        ]
    ),
)


UPKEEP = LakeTable(
    "upkeep",
    "What upkeep did to the tables, and what failed; no worker's rows depend on it.",
    pa.schema(
        [
            _field("action", pa.string(), "'fold', 'compact', 'checkpoint', 'retention', 'vacuum' or 'purge'."),
            _field("table_name", pa.string(), "The table."),
            _field("began_at", TIMESTAMP, "When it began."),
            _field("seconds", pa.float64(), "How long it took."),
            _field("files_before", pa.int64(), "Files rewritten or deleted; null where none are."),
            _field("files_after", pa.int64(), "Files that took their place."),
            _field("bytes_before", pa.int64(), "Size of the former; of vacuum null."),
            _field("bytes_after", pa.int64(), "Size of the latter."),
            _field("failure", pa.string(), "Why it failed; null if it did not."),
            _field("writer", pa.string(), "The process that did it."),
            KNOWN_DATE,
        ]
    ),
)


def changes_name(feature_set: FeatureSet) -> str:
    """`invoice_features` is kept in `invoice_features_changes`."""
    return f"{feature_set.name}_changes"


def feature_changes(feature_set: FeatureSet) -> LakeTable:
    """The append-only history of one feature set: its columns, then when and from what."""
    return LakeTable(
        changes_name(feature_set),
        f"Every change of {feature_set.name}: {feature_set.doc}",
        pa.schema(
            [
                *(_field(c.name, c.arrow_type, c.doc) for c in feature_set.columns),
                BUCKET,
                EPOCH,
                _field("entity_bucket", pa.int32(), "Bucket of the entity's own key."),
                _field("document_version", pa.int64(), "Version of the invoice document that was used; 0 if none."),
                DELETED,
                _field("feature_version", pa.int32(), "Version of the feature set's SQL."),
                _field("valid_from", TIMESTAMP, "Latest source commit among the inputs that changed the row."),
                _field("known_from", TIMESTAMP, "When the lake knew; never decreases within a bucket."),
                _field(
                    "dated_on",
                    pa.date32(),
                    "The later of the invoice's issue and payment dates then; null for deletions and other grains.",
                ),
                KNOWN_DATE,
            ]
        ),
        added=("dated_on",),
    )


def reconstructed_name(feature_set: FeatureSet) -> str:
    """`invoice_features` before the lake was there is in `invoice_features_reconstructed`."""
    return f"{feature_set.name}_reconstructed"


def reconstructed_features(feature_set: FeatureSet) -> LakeTable:
    """One feature set at month ends before the lake's first observation; every run replaces the whole table.

    It has no `known_from`: the lake did not know these rows then.
    """
    return LakeTable(
        reconstructed_name(feature_set),
        f"{feature_set.name} at past month ends, from the dates in the rows; a row holds until the entity's next.",
        pa.schema(
            [
                *(_field(c.name, c.arrow_type, c.doc) for c in feature_set.columns),
                _field("valid_from", TIMESTAMP, "End of the month: the first moment of the next one, UTC."),
                _field("origin", pa.string(), "'reconstructed'."),
                _field("unknowns", pa.list_(pa.string()), "What the row cannot know (docs/history.md)."),
                _field("feature_version", pa.int32(), "Version of the feature set's SQL."),
                _field("backfilled_at", TIMESTAMP, "When the run began."),
                _field("watermark", TIMESTAMP, "Through when the lake was complete as the run read it; null: unknown."),
                _field("run_id", pa.string(), "The run; the same in the tables of all feature sets."),
            ]
        ),
        partition_by=(),
    )


SKUS_KEYED = KeyedTable("sku_log", "sku_log_folded", key=("item_id",))
INVOICES_KEYED = KeyedTable("invoice_log", "invoice_log_folded", key=("kind", "invoice_id", "item_id"))
ACCOUNTS_KEYED = KeyedTable("account_log", "account_log_folded", key=("kind", "account_id", "invoice_id"))
ITEMS_KEYED = KeyedTable("item_log", "item_log_folded", key=("invoice_id", "item_id"))
"""By invoice first: a fold cuts its work by that, for one article may hold most lines of a bucket."""

STAGE_LOGS: dict[str, KeyedTable] = {"skus": SKUS_KEYED, "invoices": INVOICES_KEYED, "accounts": ACCOUNTS_KEYED}
"""The stages of this installation and the log of each."""
if SETS_BY_ARTICLE:
    STAGE_LOGS["items"] = ITEMS_KEYED


def outputs_of_invoices() -> tuple[str, ...]:
    """What stage A derives; `NAME:BUCKET` in its log is the output's cursor."""
    return ("documents", "lines") if SETS_BY_ARTICLE else ("documents",)


def stage_of(feature_set: FeatureSet) -> str:
    """The stage that derives a feature set."""
    return "items" if feature_set.grain == "article" else "accounts"


def changes_of_stage(stage: str) -> tuple[str, ...]:
    """Names of the tables of feature changes that a stage derives: each is an output of its log."""
    return tuple(changes_name(f) for f in FEATURE_SETS if stage_of(f) == stage)


def stage_of_log(log: str) -> str:
    """The stage whose epochs a log, or a table of feature changes, counts."""
    derived = {changes_name(f): stage_of(f) for f in FEATURE_SETS}
    return derived.get(log) or next(stage for stage, keyed in STAGE_LOGS.items() if keyed.log == log)


def feature_keyed(feature_set: FeatureSet) -> KeyedTable:
    """How a feature set's history folds: the greatest (document version, B epoch) per entity over all buckets (R7)."""
    return KeyedTable(
        changes_name(feature_set),
        f"{feature_set.name}_folded",
        key=feature_set.entity_key,
        rank=("document_version", "epoch"),
        home_bucket="entity_bucket",
    )


KEYED_TABLES: tuple[KeyedTable, ...] = (
    *STAGE_LOGS.values(),
    *(feature_keyed(f) for f in FEATURE_SETS),
)

APPEND_ONLY: tuple[LakeTable, ...] = (
    SKU_LOG,
    INVOICE_LOG,
    ACCOUNT_LOG,
    *((ITEM_LOG,) if SETS_BY_ARTICLE else ()),
    ACCOUNTS_PRIVATE,
    DEAD_LETTERS,
    DEAD_LETTER_ACTIONS,
    EPOCHS,
    CONTROL_LOG,
    QUALITY_RESULTS,
    RECONCILIATION,
    HISTORY_RETENTION,
    ERASURES,
    UPKEEP,
    *(feature_changes(f) for f in FEATURE_SETS),
)

_REPLACED = tuple(reconstructed_features(f) for f in FEATURE_SETS)


def folded_table(keyed: KeyedTable, log: LakeTable) -> LakeTable:
    """The folded table of a log: its columns without known_date's partitioning, plus the marks."""
    return LakeTable(
        keyed.folded,
        f"Current rows and tombstones of {log.name}; in each partition one mark row per log bucket of its keys.",
        pa.schema(
            [
                *log.schema,
                _field("is_mark", pa.bool_(), "This row is a mark, not a state."),
                _field("mark_bucket", pa.int32(), "The log bucket that the mark speaks of."),
                _field("mark_date", pa.date32(), "Rows of that bucket beyond the mark have at least this known_date."),
            ]
        ),
        partition_by=(keyed.home_bucket,),
        added=log.added,
    )


LAKE_TABLES: dict[str, LakeTable] = {t.name: t for t in (*APPEND_ONLY, *_REPLACED)}
LAKE_TABLES |= {k.folded: folded_table(k, LAKE_TABLES[k.log]) for k in KEYED_TABLES}
if len(LAKE_TABLES) < len(APPEND_ONLY) + len(_REPLACED) + len(KEYED_TABLES):
    raise SettingsError(f"{FOLDER_VARIABLE}: a feature set has a name of which tables of the lake are made already")

PERSONAL_TABLES: frozenset[str] = frozenset(t.name for t in LAKE_TABLES.values() if t.personal)
"""Names of the tables that hold personal data; no view reads them."""
