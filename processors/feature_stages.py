"""The stages that derive features: B, by account, of accounts and documents; C, by article, of charged lines."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from processors import account_features, account_rows, feature_rows, item_features, item_rows
from processors.activity import EpochNotes
from processors.document_codec import DOCUMENT_SCHEMA
from processors.features.declarations import SETS_BY_ACCOUNT, SETS_BY_ARTICLE
from processors.features.feature_set import FeatureSet
from processors.inbox import Chunk, rows_of
from processors.lake_tables import (
    ACCOUNT_LOG,
    ACCOUNTS_KEYED,
    ACCOUNTS_PRIVATE,
    ITEM_LOG,
    ITEMS_KEYED,
    LAKE_TABLES,
    changes_name,
    feature_keyed,
)
from processors.line_codec import LINE_SCHEMA
from processors.loading import Pass
from processors.prices import TRUNCATES
from processors.records import event_schema
from processors.row_stage import RowStage, bucket_list, epoch_table
from processors.stage import OWNED, StageContext
from processors.tables import ACCOUNTS

CURSORS = "cursors"
"""Temporary table (bucket, epoch): through when a set is derived, while buckets are loaded."""


class FeatureStage(RowStage):
    """A log of what features are made of, and every feature set of one kind of owner, derived from it (R6, R7).

    All that a set holds of gained buckets is derived anew, so a new set, a higher version and a crash are one thing.
    """

    def __init__(
        self,
        context: StageContext,
        con: duckdb.DuckDBPyConnection,
        topics: Sequence[str],
        feature_sets: tuple[FeatureSet, ...],
    ) -> None:
        super().__init__(context, con, topics)
        self.feature_sets = feature_sets
        self._known_from_ms = 0
        for feature_set in feature_sets:
            feature_rows.create_state(con, feature_set)

    @property
    def derived_topic(self) -> str:
        """The topic that stage A fills."""
        return self.topics[-1]

    @property
    def tables(self) -> tuple[str, ...]:
        return (*super().tables, *(changes_name(f) for f in self.feature_sets))

    def _ids_of(self, table: str) -> tuple[str, ...]:
        if table not in {changes_name(f) for f in self.feature_sets}:
            return super()._ids_of(table)
        buckets = sorted(self.buckets)
        return tuple(
            i for b in buckets for i in (self.epoch_id(b), f"cursor:{b}", f"version:{b}", f"known_from_ms:{b}")
        )

    def written_by_newer(self, stored: Mapping[str, Mapping[str, int]]) -> frozenset[int]:
        return frozenset(
            b
            for f in self.feature_sets
            for b in self.buckets
            if stored[changes_name(f)].get(f"version:{b}", 0) > f.version
        )

    # --- what the kinds of owners differ in ---------------------------------------------------------------------------

    @abstractmethod
    def state_passes(self, gained: frozenset[int]) -> list[Pass]:
        """What loads the states of the log's keys."""

    @abstractmethod
    def committed_query(self, feature_set: FeatureSet, current: str) -> str:
        """What loads a set's committed rows, once the states are loaded."""

    @abstractmethod
    def drop_states(self, kept: str) -> None:
        """Forgets the states of buckets that are not in the relation `kept(bucket)`."""

    @abstractmethod
    def touch_buckets(self, feature_set: FeatureSet) -> None:
        """Lists all owners of the buckets in CURSORS as touched."""

    @abstractmethod
    def derive_rows(self, feature_set: FeatureSet, *, whole: bool) -> int:
        """Derives a set of what is touched; leaves what changed for `feature_rows.rows_sql`."""

    # --- what they share ----------------------------------------------------------------------------------------------

    def load_gained(self, gained: frozenset[int], stored: Mapping[str, Mapping[str, int]]) -> None:
        passes = self.state_passes(gained)
        for feature_set in self.feature_sets:
            files, current = self.current(feature_keyed(feature_set), gained)
            passes.append((files, self.committed_query(feature_set, current)))
        self.loading.run(passes)
        self.control.apply_again()
        for feature_set in self.feature_sets:
            ids = stored[changes_name(feature_set)]
            self._known_from_ms = max([self._known_from_ms, *(ids.get(f"known_from_ms:{b}", 0) for b in gained)])
            cursors = {b: ids.get(f"cursor:{b}", 0) for b in gained}
            self.con.register("cursor_arrow", epoch_table(cursors))
            self.con.execute(f"CREATE OR REPLACE TEMP TABLE {CURSORS} AS SELECT * FROM cursor_arrow")
            self.touch_buckets(feature_set)
            self._derive(feature_set, self.next_known_from(), whole=True)

    def drop_lost(self) -> None:
        kept = f"(SELECT bucket FROM {OWNED} WHERE bucket IN ({bucket_list(self.buckets)}))"
        self.drop_states(kept)
        for feature_set in self.feature_sets:
            self.con.execute(
                f"DELETE FROM {feature_rows.state_name(feature_set)} WHERE bucket NOT IN (SELECT bucket FROM {kept})"
            )

    def next_known_from(self) -> int:
        """The `known_from` of the next commit, in milliseconds (R11)."""
        now_ms = int(self.context.now().timestamp() * 1000)
        self._known_from_ms = max(now_ms, self._known_from_ms + 1)
        return self._known_from_ms

    def known_through(self) -> datetime:
        return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=self._known_from_ms)

    def derive_sets(self, known_from_ms: int, notes: EpochNotes) -> None:
        """Derives every set of what is touched and commits it."""
        for feature_set in self.feature_sets:
            notes.derived += self._derive(feature_set, known_from_ms)

    def _derive(self, feature_set: FeatureSet, known_from_ms: int, *, whole: bool = False) -> int:
        with self.activity.step("derive", feature_set.name):
            return self._derive_and_commit(feature_set, known_from_ms, whole=whole)

    def _derive_and_commit(self, feature_set: FeatureSet, known_from_ms: int, *, whole: bool) -> int:
        count = self.derive_rows(feature_set, whole=whole)
        table = LAKE_TABLES[changes_name(feature_set)]
        known = f"epoch_ms({known_from_ms}::BIGINT)::TIMESTAMPTZ"
        rows = self.dated(f"SELECT *, {known} AS known_from FROM ({feature_rows.rows_sql(feature_set)})", table.schema)
        ids = {f"cursor:{b}": e for b, e in self.epochs.items()}
        ids |= {f"version:{b}": feature_set.version for b in self.buckets}
        ids |= {f"known_from_ms:{b}": known_from_ms for b in self.buckets}
        self.commit_derived(table.name, rows, ids)
        return count


class AccountStage(FeatureStage):
    """Stage B: accounts and documents to account_log; derives every feature set by account."""

    name = "accounts"
    log_name = ACCOUNT_LOG.name
    side_tables = (ACCOUNTS_PRIVATE.name,)

    def __init__(
        self,
        context: StageContext,
        con: duckdb.DuckDBPyConnection,
        topics: Sequence[str],
        *,
        feature_sets: tuple[FeatureSet, ...] = SETS_BY_ACCOUNT,
    ) -> None:
        super().__init__(context, con, topics, feature_sets)
        self._truncated: dict[int, int] = {}
        account_rows.create_state(con)

    def extra_ids(self, table: str) -> tuple[str, ...]:
        return tuple(f"truncate:{b}" for b in sorted(self.buckets)) if table == ACCOUNTS_PRIVATE.name else ()

    def load_gained(self, gained: frozenset[int], stored: Mapping[str, Mapping[str, int]]) -> None:
        self._truncated |= {b: stored[ACCOUNTS_PRIVATE.name].get(f"truncate:{b}", 0) for b in gained}
        super().load_gained(gained, stored)

    def state_passes(self, gained: frozenset[int]) -> list[Pass]:
        files, current = self.current(ACCOUNTS_KEYED, gained)
        return [(files, query) for query in account_rows.load_queries(current=current)]

    def committed_query(self, feature_set: FeatureSet, current: str) -> str:
        return account_features.load_committed(feature_set, current=current)

    def drop_states(self, kept: str) -> None:
        account_rows.drop_buckets(self.con, keep=kept)

    def touch_buckets(self, feature_set: FeatureSet) -> None:
        account_features.touch_buckets(self.con, cursors=CURSORS)

    def derive_rows(self, feature_set: FeatureSet, *, whole: bool) -> int:
        return account_features.derive(self.con, feature_set, owned=OWNED, whole=whole)

    def apply_and_commit(self, chunks: Sequence[Chunk], notes: EpochNotes) -> None:
        accounts_topic, documents_topic = self.topics
        known_from_ms = self.next_known_from()
        pending = self.control.pending(("accounts",))
        truncated = account_rows.truncate_events(TRUNCATES) if pending else None
        accounts = self.events(chunks, ACCOUNTS, accounts_topic, notes, truncated)
        self.con.register("no_accounts", event_schema(ACCOUNTS).empty_table())
        if accounts is not None:
            self._commit_private(accounts, accounts_topic, known_from_ms)
        account_rows.merge_accounts(self.con, events=accounts or "no_accounts", owned=OWNED)
        documents = rows_of(chunks, documents_topic)
        self.con.register("document_rows", DOCUMENT_SCHEMA.empty_table() if documents is None else documents)
        account_rows.merge_documents(self.con, documents="document_rows", owned=OWNED)
        rows = self.dated(account_rows.log_rows_sql(), ACCOUNT_LOG.schema)
        self.commit_log(rows, {}, notes)
        account_features.touch_changed(self.con)
        self.derive_sets(known_from_ms, notes)

    def _commit_private(self, events: str, topic: str, known_from_ms: int) -> None:
        """Personal columns leave the stream here, before the log (R5)."""
        known = f"epoch_ms({known_from_ms}::BIGINT)"
        columns = ", ".join(
            n for n in ACCOUNTS_PRIVATE.schema.names if n not in ("deleted", "known_from", "known_date")
        )
        query = f"SELECT {columns}, is_delete AS deleted, {known}::TIMESTAMPTZ AS known_from FROM {events}"
        rows = self.dated(query, ACCOUNTS_PRIVATE.schema)
        rows = self.beyond_side(ACCOUNTS_PRIVATE.name, rows, topic, partition="bucket")
        # Deletes of a truncate were not read: they are complete through its entry of the control log.
        truncate = self.control.last_truncate(ACCOUNTS.name)
        done = pa.array([b for b, entry in self._truncated.items() if entry >= truncate], pa.int32())
        rows = rows.filter(pc.invert(pc.and_(pc.less(rows["row_offset"], 0), pc.is_in(rows["bucket"], done))))
        if rows.num_rows:
            self._truncated = dict.fromkeys(self.buckets, truncate)
            self.commit_side(ACCOUNTS_PRIVATE.name, rows, {f"truncate:{b}": truncate for b in self.buckets})


class ItemStage(FeatureStage):
    """Stage C: charged lines to item_log; derives every feature set by article."""

    name = "items"
    log_name = ITEM_LOG.name

    def __init__(
        self,
        context: StageContext,
        con: duckdb.DuckDBPyConnection,
        topics: Sequence[str],
        *,
        feature_sets: tuple[FeatureSet, ...] = SETS_BY_ARTICLE,
    ) -> None:
        super().__init__(context, con, topics, feature_sets)
        item_rows.create_state(con)

    def state_passes(self, gained: frozenset[int]) -> list[Pass]:
        files, current = self.current(ITEMS_KEYED, gained)
        return [(files, item_rows.load_query(current=current))]

    def committed_query(self, feature_set: FeatureSet, current: str) -> str:
        return feature_rows.load_query(feature_set, current=current)

    def drop_states(self, kept: str) -> None:
        item_rows.drop_buckets(self.con, keep=kept)

    def touch_buckets(self, feature_set: FeatureSet) -> None:
        item_features.touch_buckets(self.con, feature_set, cursors=CURSORS)

    def derive_rows(self, feature_set: FeatureSet, *, whole: bool) -> int:
        return item_features.derive(self.con, feature_set, owned=OWNED, whole=whole)

    def apply_and_commit(self, chunks: Sequence[Chunk], notes: EpochNotes) -> None:
        known_from_ms = self.next_known_from()
        lines = rows_of(chunks, self.derived_topic)
        self.con.register("line_rows", LINE_SCHEMA.empty_table() if lines is None else lines)
        item_rows.merge_lines(self.con, lines="line_rows", owned=OWNED)
        self.commit_log(self.dated(item_rows.log_rows_sql(), ITEM_LOG.schema), {}, notes)
        item_features.touch_changed(self.con)
        self.derive_sets(known_from_ms, notes)
