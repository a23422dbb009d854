"""The table of what people did about dead letters: plain appends, for nothing else depends on their order."""

import pyarrow as pa
from deltalake import CommitProperties, write_deltalake
from deltalake.exceptions import DeltaError

from connectors.lake import COMMIT_RETRIES, LakeStore, wrap_error
from processors.lake_tables import DEAD_LETTER_ACTIONS


def append_actions(store: LakeStore, actions: pa.Table) -> None:
    """Commits the actions, all or none. An error may hide that they arrived; a repetition changes nothing.

    Raises UnavailableError, AccessDeniedError, FullDiskError or RetryableError.
    """
    handle = store.open(DEAD_LETTER_ACTIONS.name)
    properties = CommitProperties(max_commit_retries=COMMIT_RETRIES)
    try:
        write_deltalake(handle, actions.cast(DEAD_LETTER_ACTIONS.schema), mode="append", commit_properties=properties)
    except (DeltaError, OSError) as error:
        raise wrap_error(error, f"commit to {DEAD_LETTER_ACTIONS.name}") from error
