"""The table of what `trs reconcile` found: plain appends, for nothing else depends on their order."""

import pyarrow as pa
from deltalake import CommitProperties, write_deltalake
from deltalake.exceptions import DeltaError

from connectors.lake import COMMIT_RETRIES, LakeStore, wrap_error
from processors.lake_tables import RECONCILIATION


def append_check(store: LakeStore, rows: pa.Table) -> None:
    """Commits the rows of one check. Raises UnavailableError, AccessDeniedError, FullDiskError or RetryableError."""
    handle = store.open(RECONCILIATION.name)
    properties = CommitProperties(max_commit_retries=COMMIT_RETRIES)
    try:
        write_deltalake(handle, rows.cast(RECONCILIATION.schema), mode="append", commit_properties=properties)
    except (DeltaError, OSError) as error:
        raise wrap_error(error, f"commit to {RECONCILIATION.name}") from error
