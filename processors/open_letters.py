"""Which dead letters are open, and which of them can be sent again.

| the letter's topic           | sent again                                                                         |
| ---                          | ---                                                                                |
| a table's, the documents'    | yes: key and value unchanged, to the same topic                                    |
| PREFIX.dead_letters          | no: it holds a row of a source, not a row event; the row is corrected at the source |
| any other                    | no: no worker of this TRS_TOPIC_PREFIX reads it                                    |

A worker stops at open letters only, where the policy says to stop: one that was dealt with lets it pass.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from processors.tables import DEAD_LETTERS_TOPIC, DERIVED_TOPICS, TABLES, TOPICS, topic_of

Action = Literal["replayed", "discarded"]


@dataclass(frozen=True)
class Selection:
    """Which letters are meant: those for which all that is given holds. `since`: refused at or after this time.

    Letters that were dealt with are among them only with `dealt_with`.
    """

    reasons: tuple[str, ...] = ()
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    since: datetime | None = None
    dealt_with: bool = False

    @property
    def is_everything(self) -> bool:
        """Whether nothing narrows it."""
        return not self.reasons and self.topic is None and self.since is None

    def condition(self) -> tuple[str, Mapping[str, Any]]:
        """The condition over `letters_sql` as DuckDB SQL, and its named parameters."""
        given = {
            "reasons": ("list_contains($reasons, reason)", list(self.reasons) or None),
            "topic": ("topic = $topic", self.topic),
            "partition": ("partition = $partition", self.partition),
            "offset": ("row_offset = $offset", self.offset),
            "since": ("known_from >= $since", self.since),
        }
        parts = [sql for sql, value in given.values() if value is not None]
        parts += [] if self.dealt_with else ["action IS NULL"]
        return " AND ".join(parts) or "true", {name: value for name, (_, value) in given.items() if value is not None}


def letters_sql(letters: str, actions: str) -> str:
    """Relation of all dead letters with `action`, `note`, `who`, `done_at` of the latest action on each, null if open.

    An action concerns letters known at or before it: where a topic was made anew, a place can be refused a second time.
    """
    return f"""(
  SELECT letters.*, done.action, done.note, done.who, done.known_from AS done_at
  FROM {letters} AS letters
  LEFT JOIN (
    SELECT topic, partition, row_offset, unnest(max_by(struct_pack(action, note, who, known_from), known_from))
    FROM {actions}
    GROUP BY topic, partition, row_offset
  ) AS done
    ON done.topic = letters.topic
    AND done.partition = letters.partition
    AND done.row_offset = letters.row_offset
    AND NOT coalesce(done.known_from < letters.known_from, false)
)"""


def dealt_with_sql(letters: str, actions: str, *, places: str) -> str:
    """Query of those places in the relation `places(topic, partition, row_offset)` whose latest letter is not open."""
    return f"""
        SELECT topic, partition, row_offset
        FROM {letters_sql(letters, actions)} SEMI JOIN {places} USING (topic, partition, row_offset)
        GROUP BY topic, partition, row_offset
        HAVING max_by(action IS NOT NULL, known_from)
    """


def why_not_replayed(topic: str, topic_prefix: str) -> str | None:
    """Why letters of this topic cannot be sent again and what to do instead, as one sentence; None when they can."""
    if topic == topic_of(topic_prefix, DEAD_LETTERS_TOPIC):
        return (
            "these are rows that a source's reader rejected, not row events: correct them at the source, send them"
            " with `trs bootstrap snapshot`, then discard these letters"
        )
    if topic in {topic_of(topic_prefix, name) for name in (*(t.name for t in TABLES), *DERIVED_TOPICS)}:
        return None
    return f"no worker reads this topic with TRS_TOPIC_PREFIX={topic_prefix}: set the prefix, or discard these letters"


def full_topic(name: str, topic_prefix: str) -> str:
    """The topic that a person means: a table's name stands for its topic."""
    return topic_of(topic_prefix, name) if name in TOPICS else name
