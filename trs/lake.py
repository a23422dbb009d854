"""The lake for notebooks: Arrow tables out of three functions.

    from trs import lake

    lake.as_of("2024-05-31").to_pandas()
    lake.compare("2024-05-01", "2024-06-01").rows
    lake.sql("SELECT account_id, sum(inv_total) AS revenue FROM invoices GROUP BY ALL")

Where the lake is comes from the settings (`trs settings`): environment variables TRS_*, a `.env`, the running embedded
stack. Times are ISO-8601 text or datetimes, UTC if they have no zone; text may also be `now`. An answer for a time that
the lake is not complete for is given with a UserWarning. Wrong arguments raise `processors.errors.UsageError`.
"""

import warnings
from datetime import UTC, datetime

import pyarrow as pa

from app.lake_session import LakeSession, named_feature_set
from app.settings import load_settings
from processors.features.as_of import Axis, parse_time
from processors.features.compare import ColumnChange, Comparison

__all__ = ["ColumnChange", "Comparison", "as_of", "compare", "sql"]


def as_of(time: str | datetime, feature_set: str = "invoice_features", *, axis: Axis = "known") -> pa.Table:
    """The rows of a feature set as they were at `time`, by key, in the declared columns and types.

    `axis="known"`: what the lake knew then. `axis="valid"`: what held then by the source's clock, as known today.

        before_month_end = as_of("2024-05-31T18:00:00Z", "account_features")
    """
    features = named_feature_set(feature_set)
    with LakeSession(load_settings()) as session:
        (moment,) = _times(session, time)
        return session.run(session.as_of(features, moment, axis))


def compare(
    time1: str | datetime, time2: str | datetime, feature_set: str = "invoice_features", *, axis: Axis = "known"
) -> Comparison:
    """What changed from `time1` to `time2`: counts, one entry per column, and `rows`, the entities that differ.

    compare("2024-05-01", "now").rows.to_pandas()
    """
    features = named_feature_set(feature_set)
    with LakeSession(load_settings()) as session:
        before, after = _times(session, time1, time2)
        return session.compare(features, before, after, axis)


def sql(query: str, *, with_personal_data: bool = False) -> pa.Table:
    """The rows of one SELECT (DuckDB's dialect) over the lake's tables and views; `trs sql` lists them.

    `with_personal_data`: also `dead_letters` and `accounts_private_changes`, which are left out otherwise.

    sql("SELECT * FROM invoices WHERE unpriced_lines > 0")
    """
    with LakeSession(load_settings()) as session:
        return session.run(session.prepare_query(query, with_personal_data=with_personal_data))


def _times(session: LakeSession, *times: str | datetime) -> list[datetime]:
    parsed = [_time(session, time) for time in times]
    warning = session.freshness().warning(max(parsed))
    if warning is not None:
        warnings.warn(warning, stacklevel=3)
    return parsed


def _time(session: LakeSession, time: str | datetime) -> datetime:
    if isinstance(time, str):
        return parse_time(time, now=session.read_at)
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
