"""What is in the lake, for the first minutes with it: feature sets, their columns, how much, from when to when."""

from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from app.lake_session import LakeSession
from processors.features.as_of import format_time
from processors.features.declarations import FEATURE_SETS, FeatureSet
from processors.lake_tables import changes_name, reconstructed_name
from processors.records import TIMESTAMP

_SETS = pa.schema(
    [
        ("feature_set", pa.string()),
        ("entities", pa.int64()),
        ("versions", pa.int64()),
        ("reconstructed", pa.int64()),
        ("oldest_known_from", TIMESTAMP),
        ("newest_known_from", TIMESTAMP),
        ("doc", pa.string()),
    ]
)


@dataclass(frozen=True, repr=False)
class Description:
    """The lake as it was at `read_at`, complete through `watermark` (None: nothing is committed yet).

    `feature_sets`: a row per set: live entities, versions of them in the history, rows that were reconstructed, the
    oldest and the newest `known_from` (null without any), what it is. `columns`: a row per column of each set: its
    type, whether it is of the key, what it holds.
    """

    lake: str
    read_at: datetime
    watermark: datetime | None
    feature_sets: pa.Table
    columns: pa.Table

    def __repr__(self) -> str:
        complete = (
            "nothing is committed yet" if self.watermark is None else f"complete through {format_time(self.watermark)}"
        )
        lines = [f"{self.lake}: {complete}, read at {format_time(self.read_at)}"]
        columns = self.columns.to_pylist()
        for row in self.feature_sets.to_pylist():
            name, began = row["feature_set"], row["oldest_known_from"]
            between = "" if began is None else f" of {format_time(began)} to {format_time(row['newest_known_from'])}"
            past = f", {row['reconstructed']} reconstructed before" if row["reconstructed"] else ""
            lines += ["", f"{name}: {row['entities']} entities, {row['versions']} versions{between}{past}"]
            lines.append(f"  {row['doc']}")
            own = [c for c in columns if c["feature_set"] == name]
            width = max(len(c["column"]) for c in own)
            lines += [f"  {c['column']:{width}}  {'key: ' if c['is_key'] else ''}{c['doc']}" for c in own]
        return "\n".join(lines)


def describe(session: LakeSession) -> Description:
    """Looks at every feature set."""
    freshness = session.freshness()
    return Description(
        freshness.lake,
        session.read_at,
        freshness.watermark,
        pa.Table.from_pylist([_facts(session, f) for f in FEATURE_SETS], schema=_SETS),
        pa.Table.from_pylist(
            [
                {
                    "feature_set": f.name,
                    "column": c.name,
                    "type": c.sql_type,
                    "is_key": c.name in f.entity_key,
                    "doc": c.doc,
                }
                for f in FEATURE_SETS
                for c in f.columns
            ]
        ),
    )


def _facts(session: LakeSession, features: FeatureSet) -> dict[str, object]:
    changes, past = changes_name(features), reconstructed_name(features)
    session.create_views([features.name, changes, past])
    query = f"""
        SELECT (SELECT count(*) FROM {features.name}), count(*), (SELECT count(*) FROM {past}),
               min(known_from), max(known_from)
        FROM {changes}"""
    ((entities, versions, reconstructed, oldest, newest),) = session.con.sql(query).fetchall()
    values = (features.name, entities, versions, reconstructed, oldest, newest, features.doc)
    return dict(zip(_SETS.names, values, strict=True))
