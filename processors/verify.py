"""What must hold in a lake at rest, as SQL: each check counts the rows that break one promise of DESIGN's.

The checks read the lake's tables and views by name (processors/views/catalog.py), `documents` and `charged_lines` as
`features.batch.inputs_from_lake` makes them, and what the tables' application ids say (processors/stands.py).
"""

from dataclasses import dataclass

from processors.features.declarations import FEATURE_SETS, SETS_BY_ARTICLE, FeatureSet
from processors.features.derive import derive_sql
from processors.keyed_table import KeyedTable
from processors.lake_tables import (
    ACCOUNT_LOG,
    ACCOUNTS_KEYED,
    ACCOUNTS_PRIVATE,
    CONTROL_LOG,
    DEAD_LETTERS,
    EPOCHS,
    INVOICES_KEYED,
    ITEM_LOG,
    ITEMS_KEYED,
    KEYED_TABLES,
    SKUS_KEYED,
    changes_name,
    feature_keyed,
    reconstructed_name,
    stage_of,
)
from processors.stands import LOGS
from processors.views.catalog import states_name
from processors.watermark import latest_epochs_sql

_STATES = {SKUS_KEYED: "sku_states", INVOICES_KEYED: "invoice_states", ACCOUNTS_KEYED: "account_states"}
if SETS_BY_ARTICLE:
    _STATES[ITEMS_KEYED] = "item_states"
_STATES |= {feature_keyed(f): states_name(f) for f in FEATURE_SETS}

NAMES: tuple[str, ...] = (
    *_STATES.values(),
    *(f.name for f in FEATURE_SETS),
    "accounts",
    ACCOUNTS_PRIVATE.name,
    DEAD_LETTERS.name,
    EPOCHS.name,
    CONTROL_LOG.name,
    *(reconstructed_name(f) for f in FEATURE_SETS),
)
"""Tables and views that the checks name; their logs and folded tables come along."""


@dataclass(frozen=True)
class Check:
    """One promise about one table. `rows`: relation of what is looked at; `failing`: query of what breaks the promise.

    `settled`: holds only once everything committed is derived, and reads `documents`.
    """

    name: str
    table: str
    promise: str
    rows: str
    failing: str
    settled: bool = False


def checks() -> tuple[Check, ...]:
    """Every check, the cheap ones first."""
    return (
        *(check for keyed in KEYED_TABLES for check in _keys(keyed)),
        *(_folded(keyed) for keyed in KEYED_TABLES),
        _unique(ACCOUNTS_PRIVATE.name, ("account_id", "row_order", "row_offset"), "no change twice"),
        _unique(DEAD_LETTERS.name, ("topic", "partition", "row_offset"), "no record twice"),
        *_epochs(),
        *(_within_ids(stage, log) for stage, log in LOGS.items()),
        *(check for feature_set in FEATURE_SETS for check in _history(feature_set)),
        *(check for feature_set in FEATURE_SETS for check in _reconstructed(feature_set)),
        _documents(),
        *((_lines(),) if SETS_BY_ARTICLE else ()),
        *(_features(feature_set) for feature_set in FEATURE_SETS),
    )


def _unique(table: str, key: tuple[str, ...], promise: str, *, of: str | None = None) -> Check:
    names = ", ".join(key)
    rows = table if of is None else of
    return Check("keys", table, promise, rows, f"SELECT {names} FROM {rows} GROUP BY {names} HAVING count(*) > 1")


def _keys(keyed: KeyedTable) -> tuple[Check, ...]:
    folded = f"(SELECT * FROM {keyed.folded} WHERE NOT is_mark)"
    marks = f"(SELECT * FROM {keyed.folded} WHERE is_mark)"
    in_log = tuple(dict.fromkeys((*keyed.key, keyed.log_bucket, *keyed.rank)))
    return (
        _unique(keyed.log, in_log, f"no key twice per {' and '.join(keyed.rank)}"),
        _unique(keyed.folded, keyed.key, "no key twice", of=folded),
        _unique(keyed.folded, (keyed.home_bucket, "mark_bucket"), "one mark per bucket", of=marks),
        _unique(_STATES[keyed], keyed.key, "no key twice"),
    )


def _folded(keyed: KeyedTable) -> Check:
    key = ", ".join(keyed.key)
    same = " AND ".join(f"f.{k} IS NOT DISTINCT FROM l.{k}" for k in keyed.key)
    rank = ", ".join(keyed.rank)
    below = f"""(
          SELECT {", ".join(f"l.{k}" for k in keyed.key)}, max(row({", ".join(f"l.{r}" for r in keyed.rank)})) AS latest
          FROM {keyed.log} AS l
          JOIN {keyed.folded} AS m
            ON m.is_mark AND m.mark_bucket = l.{keyed.log_bucket} AND m.{keyed.home_bucket} = l.{keyed.home_bucket}
            AND l.epoch <= m.epoch
          GROUP BY ALL
        )"""
    failing = f"""
        SELECT {", ".join(f"l.{k}" for k in keyed.key)}
        FROM {below} AS l
        LEFT JOIN (SELECT {key}, row({rank}) AS latest FROM {keyed.folded} WHERE NOT is_mark) AS f ON {same}
        WHERE f.latest IS NULL OR f.latest < l.latest"""
    return Check("folds", keyed.folded, "no row up to the marks is missing", below, failing)


def _rewound(when: str) -> str:
    """Whether `trs lake rewind` set back the partition of the row `e`, at an epoch `r.epoch` as told."""
    return f"""EXISTS (
          SELECT 1
          FROM (
            SELECT detail ->> '$.stage' AS stage, detail ->> '$.topic' AS topic,
                   unnest(from_json(detail -> '$.epochs', '[{{"bucket":"INTEGER","epoch":"BIGINT"}}]'),
                          recursive := true)
            FROM {CONTROL_LOG.name} WHERE kind = 'rewound'
          ) AS r
          WHERE r.stage = e.stage AND r.topic = e.topic AND r.bucket = e.bucket AND {when}
        )"""


def _epochs() -> tuple[Check, ...]:
    name = EPOCHS.name
    in_order = f"""
        SELECT stage, bucket, epoch
        FROM (
          SELECT *, lag(known_through) OVER (PARTITION BY stage, bucket ORDER BY epoch) AS previous FROM {name}
        )
        WHERE known_through < previous"""
    offsets = f"(SELECT stage, bucket, epoch, unnest(offsets, recursive := true) FROM {name})"
    stepping_back = f"""
        SELECT stage, topic, bucket, epoch, previous, next_offset
        FROM (
          SELECT *, lag(next_offset) OVER before AS previous, lag(epoch) OVER before AS previous_epoch
          FROM {offsets}
          WINDOW before AS (PARTITION BY stage, topic, topic_id, bucket ORDER BY epoch)
        ) AS e
        WHERE next_offset < previous AND NOT {_rewound("r.epoch > e.previous_epoch AND r.epoch <= e.epoch")}"""
    last = latest_epochs_sql(name)
    # An opening moves the log's id without a row here, and so does a crash between the two commits: the row may lag.
    ahead = f"""
        SELECT e.stage, e.bucket, e.epoch, s.epoch AS committed
        FROM {last} AS e
        LEFT JOIN stand_epochs AS s ON e.stage = s.stage AND e.bucket = s.bucket
        WHERE s.epoch IS NULL OR e.epoch > s.epoch"""
    disagreeing = f"""
        SELECT e.stage, e.topic, e.bucket, e.epoch, e.next_offset, o.next_offset AS committed
        FROM (SELECT stage, bucket, epoch, unnest(offsets, recursive := true) FROM {last}) AS e
        JOIN stand_epochs AS s ON e.stage = s.stage AND e.bucket = s.bucket
        LEFT JOIN stand_offsets AS o ON e.stage = o.stage AND e.topic = o.topic AND e.bucket = o.bucket
        WHERE o.next_offset IS NULL OR (e.next_offset > o.next_offset AND NOT {_rewound("r.epoch > e.epoch")})
          OR (e.epoch = s.epoch AND e.next_offset <> o.next_offset)"""
    return (
        Check(
            "epochs",
            name,
            "numbers rise strictly per stage and bucket",
            name,
            f"SELECT stage, bucket, epoch FROM {name} GROUP BY ALL HAVING count(*) > 1",
        ),
        Check("epochs", name, "known_through never steps back", name, in_order),
        Check("epochs", name, "offsets never step back", offsets, stepping_back),
        Check("epochs", name, "the last row is not ahead of its log", last, ahead),
        Check("epochs", name, "the last row has the offsets of its log", last, disagreeing),
    )


def _within_ids(stage: str, log: str) -> Check:
    failing = f"""
        SELECT l.bucket, l.epoch, s.epoch AS committed
        FROM (SELECT bucket, max(epoch) AS epoch FROM {log} GROUP BY bucket) AS l
        LEFT JOIN stand_epochs AS s ON s.stage = '{stage}' AND l.bucket = s.bucket
        WHERE s.epoch IS NULL OR l.epoch > s.epoch"""
    return Check("epochs", log, "no row beyond the bucket's last epoch", log, failing)


def _history(feature_set: FeatureSet) -> tuple[Check, ...]:
    changes = changes_name(feature_set)
    key = ", ".join(feature_set.entity_key)
    decreasing = f"""
        SELECT {key}, bucket, epoch
        FROM (
          SELECT {key}, bucket, epoch, known_from,
                 lag(known_from) OVER (PARTITION BY {key}, bucket ORDER BY epoch, known_from) AS previous
          FROM {changes}
        )
        WHERE known_from < previous"""
    beyond = f"""
        SELECT c.bucket, c.epoch, s.epoch AS committed
        FROM (SELECT bucket, max(epoch) AS epoch FROM {changes} GROUP BY bucket) AS c
        LEFT JOIN stand_epochs AS s ON s.stage = '{stage_of(feature_set)}' AND c.bucket = s.bucket
        WHERE s.epoch IS NULL OR c.epoch > s.epoch"""
    return (
        Check("history", changes, "known_from never steps back", changes, decreasing),
        Check(
            "history", changes, f"no row beyond the bucket's epoch in {LOGS[stage_of(feature_set)]}", changes, beyond
        ),
    )


def _reconstructed(feature_set: FeatureSet) -> tuple[Check, ...]:
    table = reconstructed_name(feature_set)
    key = ", ".join(feature_set.entity_key)
    claiming = f"""
        SELECT {key}, valid_from
        FROM {table}
        WHERE origin IS DISTINCT FROM 'reconstructed'
          OR valid_from > (SELECT min(known_from) FROM {changes_name(feature_set)})"""
    runs = f"SELECT min(run_id) AS one, max(run_id) AS another FROM {table} HAVING count(DISTINCT run_id) > 1"
    return (
        _unique(table, (*feature_set.entity_key, "valid_from"), "no entity twice per month end"),
        Check("history", table, "no month end after the first observation", table, claiming),
        Check("history", table, "the rows of one run alone", table, runs),
    )


def _documents() -> Check:
    columns = "account_id, invoice_id, date_issued, payment_dates, inv_total, inv_items, unpriced_lines"
    live = f"(SELECT {columns} FROM account_states WHERE kind = 'document' AND document_state = 'live')"
    expected = f"(SELECT {columns} FROM documents)"
    return Check(
        "documents",
        ACCOUNT_LOG.name,
        "live documents equal those of invoice_log and sku_log",
        live,
        _differences(("account_id", "invoice_id"), expected, live),
        settled=True,
    )


def _lines() -> Check:
    columns = "item_id, invoice_id, account_id, date_issued, quantity, price"
    live = f"(SELECT {columns} FROM item_states WHERE NOT deleted)"
    return Check(
        "charged lines",
        ITEM_LOG.name,
        "live lines equal those of invoice_log and sku_log",
        live,
        _differences(("item_id", "invoice_id"), f"(SELECT {columns} FROM charged_lines)", live),
        settled=True,
    )


def _features(feature_set: FeatureSet) -> Check:
    columns = ", ".join(feature_set.column_names)
    return Check(
        "features",
        feature_set.name,
        "rows equal those of the batch job over the logs",
        feature_set.name,
        _differences(feature_set.entity_key, derive_sql(feature_set), f"(SELECT {columns} FROM {feature_set.name})"),
        settled=True,
    )


def _differences(key: tuple[str, ...], expected: str, found: str) -> str:
    """Keys of which the two relations hold other rows, duplicates counted; `lake` says lacks, has or has another."""
    keys = ", ".join(key)
    return f"""
        SELECT {keys}, CASE WHEN count(DISTINCT side) > 1 THEN 'has another' ELSE min(side) END AS lake
        FROM (
          SELECT {keys}, 'lacks' AS side FROM (FROM {expected} EXCEPT ALL FROM {found})
          UNION ALL
          SELECT {keys}, 'has' AS side FROM (FROM {found} EXCEPT ALL FROM {expected})
        )
        GROUP BY {keys}"""
