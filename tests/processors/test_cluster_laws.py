"""Laws of the whole: whatever is killed, paused or moved between any two commits, the outcome is that of the records.

Each case plays the histories of test_rows_laws.py (60 small shops) through a cluster of workers; TRS_LAW_RUNS says how
many cases there are. Truncates are of all tables but SKUs: what a price version below a truncate of the SKUs counts
depends on whether it arrived before it.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from decimal import localcontext
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.charging import PriceAt
from processors.document_codec import DOCUMENT_BLOCKS
from processors.features.declarations import (
    ACCOUNT_FEATURES,
    FEATURE_SETS,
    INVOICE_FEATURES,
    SETS_BY_ACCOUNT,
    SETS_BY_ARTICLE,
    FeatureSet,
)
from processors.keyed_table import KeyedTable, current_sql
from processors.lake_tables import (
    ACCOUNT_LOG,
    ACCOUNTS_KEYED,
    EPOCHS,
    INVOICE_LOG,
    ITEM_LOG,
    ITEMS_KEYED,
    LAKE_TABLES,
    SKU_LOG,
    changes_name,
    feature_keyed,
    stage_of,
)
from processors.line_codec import LINE_BLOCKS
from tests.processors import row_oracle
from tests.processors.block_records import rows_sent
from tests.processors.cluster import DOCUMENTS, LINES, Cluster, Logs, TruncateEvent, fill, serial
from tests.processors.memory_lake import Disk
from tests.processors.row_oracle import Document, Line, Record
from tests.processors.test_rows_laws import LAWS, histories

Row = dict[str, Any]
ACTIONS = 200
"""Steps between two commits, and faults, of one case."""


class Played:
    """A cluster after its history, and what it was played with."""

    def __init__(self, cluster: Cluster, records: list[Record], truncates: list[TruncateEvent]) -> None:
        self.cluster = cluster
        self.truncates = truncates
        self.records = surviving(records, truncates)
        self._con = duckdb.connect()
        self._con.execute("SET TimeZone = 'UTC'")

    def rows(self, table: str) -> list[Row]:
        return self.cluster.disk.rows(self._con, table)

    def query(self, sql: str) -> list[Row]:
        found: list[Row] = self._con.sql(sql).to_arrow_table().to_pylist()
        return found

    def relation(self, table: str) -> str:
        return self.cluster.disk.relation(table)

    def current(self, keyed: KeyedTable) -> str:
        """The relation of a keyed table's current rows."""
        columns = tuple(n for n in LAKE_TABLES[keyed.log].schema.names if n != "known_date")
        log, folded = self.relation(keyed.log), self.relation(keyed.folded)
        return current_sql(keyed, columns=columns, log=log, folded=folded)


def surviving(records: list[Record], truncates: list[TruncateEvent]) -> list[Record]:
    """What truncates leave: of their table nothing below them."""
    below = {t.table: max(o.order for o in truncates if o.table == t.table) for t in truncates}
    return [r for r in records if r.order >= below.get(r.table, 0)]


@contextmanager
def played(seed: int, price_at: PriceAt) -> Iterator[Played]:
    chance = random.Random(seed)
    tables = chance.choice([(), (), ("invoices",), ("invoice_line_items",), ("accounts", "invoice_line_items")])
    truncates = [TruncateEvent(table, chance.randint(2, 6)) for table in tables]
    logs, records = fill(histories(chance), truncates, chance)
    shm = Path("/dev/shm")
    with (
        TemporaryDirectory(dir=shm if shm.is_dir() else None) as folder,
        serial(),
        localcontext(prec=60),  # Python's default of 28 digits would round
    ):
        cluster = Cluster(Disk(Path(folder)), logs, seed=chance.randrange(2**32), price_at=price_at)
        try:
            cluster.run(ACTIONS)
            yield Played(cluster, records, truncates)
        finally:
            cluster.close()


def features(rows: list[Row], feature_set: FeatureSet) -> dict[Any, tuple[Any, ...]]:
    """By key, a tuple where it has several columns, the values of the others."""
    key = feature_set.entity_key
    others = [c for c in feature_set.column_names if c not in key]
    live = [r for r in rows if not r["deleted"]]
    found = {r[key[0]] if len(key) == 1 else tuple(r[k] for k in key): tuple(r[c] for c in others) for r in live}
    assert len(found) == len(live), "a key twice"
    return found


@pytest.mark.parametrize("price_at", ["creation", "current"])
@LAWS
@given(seed=st.integers(0, 2**32))
def test_features_after_any_faults_are_those_of_the_records(price_at: PriceAt, seed: int) -> None:
    with played(seed, price_at) as world:
        lines = row_oracle.charged_lines(world.records, price_at)
        wanted: dict[FeatureSet, dict[Any, Any]] = {
            INVOICE_FEATURES: row_oracle.invoice_features(world.records, price_at),
            ACCOUNT_FEATURES: row_oracle.account_features(world.records, price_at),
            **{f: row_oracle.sku_demand_features_of(lines) for f in SETS_BY_ARTICLE},
        }
        for feature_set in FEATURE_SETS:
            current = world.query(f"FROM {world.current(feature_keyed(feature_set))}")
            assert features(current, feature_set) == wanted[feature_set]
        check_documents(world, price_at)
        if SETS_BY_ARTICLE:
            check_lines(world, lines)
        check_logs(world)
        check_times(world)
        for bucket, epoch in chosen_epochs(world, "accounts", seed):
            check_history(world, bucket, epoch)
        for bucket, epoch in chosen_epochs(world, "items", seed):
            check_history_by_article(world, bucket, epoch)


def check_documents(world: Played, price_at: PriceAt) -> None:
    """B's documents: each live invoice once, in its account, as the records say."""
    live = world.query(f"FROM {world.current(ACCOUNTS_KEYED)} WHERE kind = 'document' AND document_state = 'live'")
    expected = row_oracle.documents(world.records, price_at)
    assert {d["invoice_id"]: {k: d[k] for k in vars(expected[d["invoice_id"]])} for d in live} == {
        invoice: vars(document) for invoice, document in expected.items()
    }
    assert len(live) == len(expected), "an invoice lives in two accounts"


def check_lines(world: Played, expected: list[Line]) -> None:
    """C's lines: each line of a live invoice once, as the records say."""
    names = [f.name for f in fields(Line)]
    live = world.query(f"FROM {world.current(ITEMS_KEYED)} WHERE NOT deleted")
    found = [Line(**{n: r[n] for n in names}) for r in live]
    assert len(found) == len(expected)
    assert set(found) == set(expected)


def check_logs(world: Played) -> None:
    """A log has one row per key and epoch, and of a key one with the greatest rank; positions and epochs rise.

    Of an invoice that moves between accounts of a bucket, one epoch may write both: the features of the account that it
    enters, and those of the other, which has not heard that it left. Their documents' versions differ (R7).
    """
    unique = [
        (SKU_LOG.name, "item_id, epoch"),
        (INVOICE_LOG.name, "kind, invoice_id, item_id, epoch"),
        (ACCOUNT_LOG.name, "kind, account_id, invoice_id, epoch"),
        *([(ITEM_LOG.name, "item_id, invoice_id, epoch")] if SETS_BY_ARTICLE else []),
    ]
    for feature_set in FEATURE_SETS:
        keyed, key = feature_keyed(feature_set), feature_set.entity_key
        unique.append((keyed.log, ", ".join(dict.fromkeys((*key, feature_set.owner_column, "bucket", "epoch")))))
        unique.append((keyed.log, ", ".join((*key, *keyed.rank))))
    for name, columns in unique:
        assert world.query(f"SELECT {columns} FROM {world.relation(name)} GROUP BY ALL HAVING count(*) > 1") == []
    last: dict[tuple[str, int], Row] = {}
    for row in sorted(world.rows(EPOCHS.name), key=lambda r: int(r["epoch"])):
        before = last.get((row["stage"], row["bucket"]))
        if before is not None:
            assert row["epoch"] > before["epoch"]
            was, now = ({o["topic"]: o["next_offset"] for o in r["offsets"]} for r in (before, row))
            assert all(now[topic] >= offset for topic, offset in was.items())
        last[row["stage"], row["bucket"]] = row
    logs = world.cluster.logs
    for (_, bucket), row in last.items():
        for place in row["offsets"]:
            assert place["next_offset"] == len(logs[place["topic"], bucket]), "records were left"


def check_times(world: Played) -> None:
    """`known_from` rises within a bucket, and nothing becomes known at or before a watermark that was told (R11)."""
    epochs_table = world.relation(EPOCHS.name)
    for feature_set in FEATURE_SETS:
        through = world.query(
            f"SELECT bucket, epoch, known_through FROM {epochs_table} WHERE stage = '{stage_of(feature_set)}'"
        )
        rows = world.query(f"SELECT bucket, epoch, known_from FROM {world.relation(changes_name(feature_set))}")
        for told in through:
            later = [r["known_from"] for r in rows if r["bucket"] == told["bucket"] and r["epoch"] > told["epoch"]]
            assert not later or min(later) > told["known_through"]
        times: dict[int, dict[int, set[Any]]] = {}
        for r in rows:
            times.setdefault(r["bucket"], {}).setdefault(r["epoch"], set()).add(r["known_from"])
        for epochs in times.values():
            ordered = [epochs[e] for e in sorted(epochs)]
            assert all(len(one) == 1 for one in ordered)
            assert all(max(a) < min(b) for a, b in pairwise(ordered))


def chosen_epochs(world: Played, stage: str, seed: int) -> list[tuple[int, int]]:
    """A few epochs of a stage, of all that were told complete."""
    told = [(r["bucket"], r["epoch"]) for r in world.rows(EPOCHS.name) if r["stage"] == stage]
    return random.Random(seed).sample(sorted(told), min(4, len(told)))


def check_history(world: Played, bucket: int, epoch: int) -> None:
    """The features of a bucket's accounts as of an epoch are the batch over exactly the inputs that the epoch names."""
    (row,) = [
        r for r in world.rows(EPOCHS.name) if (r["stage"], r["bucket"], r["epoch"]) == ("accounts", bucket, epoch)
    ]
    offsets = {o["topic"]: o["next_offset"] for o in row["offsets"]}
    truncates = [
        TruncateEvent(e.table_name, e.row_order)
        for e in world.cluster.disk.control
        if e.entry <= row["control_version"] and e.table_name is not None and e.row_order is not None
    ]
    read = [e for e in world.cluster.logs["accounts", bucket][: offsets.get("accounts", 0)] if isinstance(e, Record)]
    accounts = row_oracle.latest(surviving(read, truncates), "accounts")
    documents = live_documents(world.cluster.logs, bucket, offsets.get(DOCUMENTS, 0))
    # An invoice that moves within the bucket lives in both accounts until the document that tells that it left.
    by_place = {place: document for place, (_, document) in documents.items()}
    wanted: dict[FeatureSet, dict[Any, Any]] = {
        INVOICE_FEATURES: row_oracle.invoice_features_of(by_place, accounts),
        ACCOUNT_FEATURES: row_oracle.account_features_of(by_place.values()),
    }
    for feature_set in SETS_BY_ACCOUNT:
        key = tuple(dict.fromkeys((*feature_set.entity_key, feature_set.owner_column)))
        rows = world.query(f"""
            FROM {world.relation(changes_name(feature_set))} WHERE bucket = {bucket} AND epoch <= {epoch}
            QUALIFY row_number() OVER (PARTITION BY {", ".join(key)} ORDER BY epoch DESC) = 1
        """)
        if not feature_set.per_invoice:
            assert features(rows, feature_set) == wanted[feature_set]
            continue
        there = {(r["acct_id"], r["inv_id"]): r for r in rows if not r["deleted"]}
        others = [c for c in feature_set.column_names if c not in feature_set.entity_key]
        # An invoice that left the account leaves its row behind, by R7.
        found = {place: tuple(r[c] for c in others) for place, r in there.items() if place in documents}
        assert found == wanted[feature_set]
        for invoice in {invoice for _, invoice in documents}:
            newest = max((version, account) for (account, i), (version, _) in documents.items() if i == invoice)
            counts = max((r["document_version"], account) for (account, i), r in there.items() if i == invoice)
            assert counts[1] == newest[1], "the row that counts is not of the account that the invoice is in"


def check_history_by_article(world: Played, bucket: int, epoch: int) -> None:
    """The same of a bucket's articles."""
    (row,) = [r for r in world.rows(EPOCHS.name) if (r["stage"], r["bucket"], r["epoch"]) == ("items", bucket, epoch)]
    end = {o["topic"]: o["next_offset"] for o in row["offsets"]}.get(LINES, 0)
    lines = live_lines(world.cluster.logs, bucket, end)
    for feature_set in SETS_BY_ARTICLE:
        rows = world.query(f"""
            FROM {world.relation(changes_name(feature_set))} WHERE bucket = {bucket} AND epoch <= {epoch}
            QUALIFY row_number() OVER (PARTITION BY {", ".join(feature_set.entity_key)} ORDER BY epoch DESC) = 1
        """)
        assert features(rows, feature_set) == row_oracle.sku_demand_features_of(lines)


def live_lines(logs: Logs, bucket: int, end: int) -> list[Line]:
    """The live lines of a bucket's articles below an offset: of each the greatest version."""
    sent: list[tuple[bytes, bytes]] = logs[LINES, bucket][:end]  # type: ignore[assignment]
    latest: dict[tuple[str, int], Row] = {}
    for row in rows_sent(LINE_BLOCKS, [value for _, value in sent], generation="memory"):
        place = row["item_id"], row["invoice_id"]
        if place not in latest or row["line_version"] > latest[place]["line_version"]:
            latest[place] = row
    return [Line(**{f.name: r[f.name] for f in fields(Line)}) for r in latest.values() if not r["deleted"]]


def live_documents(logs: Logs, bucket: int, end: int) -> dict[tuple[int, int], tuple[int, Document]]:
    """The live documents of a bucket's accounts below an offset, with their versions, by account and invoice."""
    sent: list[tuple[bytes, bytes]] = logs[DOCUMENTS, bucket][:end]  # type: ignore[assignment]
    latest: dict[tuple[int, int], Row] = {}
    for row in rows_sent(DOCUMENT_BLOCKS, [value for _, value in sent], generation="memory"):
        place = row["account_id"], row["invoice_id"]
        if place not in latest or row["document_version"] > latest[place]["document_version"]:
            latest[place] = row
    names = [f.name for f in fields(Document)]
    live = {place: row for place, row in latest.items() if row["document_state"] == "live"}
    return {place: (r["document_version"], Document(**{n: r[n] for n in names})) for place, r in live.items()}
