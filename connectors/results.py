"""Tables of what was found or done (`reconciliation`, `dead_letter_actions`, …): appended to, in any order."""

import pyarrow as pa
from deltalake import CommitProperties, write_deltalake
from deltalake.exceptions import DeltaError

from connectors.lake import COMMIT_RETRIES, WITHOUT_CLEANUP, LakeStore, wrap_error
from processors.lake_tables import LakeTable


def append_results(store: LakeStore, table: LakeTable, rows: pa.Table) -> None:
    """Commits rows of the table's schema, all or none. An error may hide that they arrived.

    Raises UnavailableError, AccessDeniedError, FullDiskError or RetryableError.
    """
    store.ensure(table)
    properties = CommitProperties(max_commit_retries=COMMIT_RETRIES)
    try:
        write_deltalake(
            store.open(table.name),
            rows.cast(table.schema),
            mode="append",
            commit_properties=properties,
            post_commithook_properties=WITHOUT_CLEANUP,
        )
    except (DeltaError, OSError) as error:
        raise wrap_error(error, f"commit to {table.name}") from error
