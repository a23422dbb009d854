"""Where the lake stands in Kafka's topics, by its last epochs; for commands, which own no buckets."""

from app.lake_session import LakeSession
from processors.lake_tables import EPOCHS
from processors.ports import StoredPosition
from processors.watermark import latest_epochs_sql


def positions_in_epochs(session: LakeSession, epochs: str = EPOCHS.name) -> dict[tuple[str, int], StoredPosition]:
    """What comes next of each topic-partition of which something was read, in their order.

    `epochs`: the view of `epochs` that the session shows already.
    """
    rows = session.con.sql(
        f"""
        SELECT o.entry.topic, e.bucket, max(o.entry.next_offset), arg_max(o.entry.topic_id, e.epoch)
        FROM {latest_epochs_sql(epochs)} AS e CROSS JOIN UNNEST(e.offsets) AS o (entry)
        GROUP BY ALL ORDER BY ALL
        """
    ).fetchall()
    return {(topic, bucket): StoredPosition(offset, topic_id) for topic, bucket, offset, topic_id in rows}
