"""Where a lake stands by the application ids of its tables, and what of it is still to be derived.

stand_epochs(stage, bucket, epoch)                  the stage's log: last epoch committed
stand_offsets(stage, topic, bucket, next_offset)    the stage's log: what it reads next
stand_cursors(output, bucket, epoch)                an output of A, or a feature set: derived through this epoch
"""

from processors.features.declarations import FEATURE_SETS
from processors.lake_tables import CONTROL_LOG, EPOCHS, SKU_LOG, STAGE_LOGS, outputs_of_invoices, stage_of
from processors.watermark import latest_epochs_sql

STANDS = {
    "stand_epochs": "stage VARCHAR, bucket INTEGER, epoch BIGINT",
    "stand_offsets": "stage VARCHAR, topic VARCHAR, bucket INTEGER, next_offset BIGINT",
    "stand_cursors": "output VARCHAR, bucket INTEGER, epoch BIGINT",
}
"""Tables of application ids that the checks read, with their columns."""

LOGS = {stage: keyed.log for stage, keyed in STAGE_LOGS.items()}
"""The log of each stage."""


def pending_sql() -> str:
    """A query of sentences that say what is committed and not derived yet; no row when everything is."""
    outputs = [*((name, "invoices") for name in outputs_of_invoices()), *((f.name, stage_of(f)) for f in FEATURE_SETS)]
    behind = " UNION ALL ".join(
        f"""
        SELECT format('{output} are derived through less than the last epoch in {{}} buckets', count(*)) AS reason
        FROM stand_epochs AS e
        LEFT JOIN stand_cursors AS c ON c.output = '{output}' AND c.bucket = e.bucket
        WHERE e.stage = '{stage}' AND coalesce(c.epoch, 0) < e.epoch
        HAVING count(*) > 0"""
        for output, stage in outputs
    )
    return f"""
        {behind}
        UNION ALL
        SELECT format('prices of {{}} SKU buckets are newer than those that invoices use', count(DISTINCT s.bucket))
        FROM (SELECT bucket, max(epoch) AS epoch FROM {SKU_LOG.name} GROUP BY bucket) AS s
        JOIN {latest_epochs_sql(EPOCHS.name)} AS e
          ON e.stage = 'invoices' AND s.epoch > coalesce(e.sku_versions[s.bucket + 1], -1)
        HAVING count(*) > 0
        UNION ALL
        SELECT format('a truncate is not applied in {{}} buckets yet', count(*))
        FROM {latest_epochs_sql(EPOCHS.name)} AS e
        WHERE e.control_version < (SELECT max(entry) FROM {CONTROL_LOG.name} WHERE kind = 'truncate')
        HAVING count(*) > 0
    """
