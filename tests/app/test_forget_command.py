"""`trs lake forget` on lakes of Delta tables: no byte of an account's personal data stays, and nothing else changes."""

import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

import app.forget
import app.maintain
from app.lake_session import LakeSession
from app.settings import Settings
from connectors import erasure
from connectors.compaction import FileRewrite
from connectors.delta_lake import DeltaLake
from connectors.lake import STATISTICS, LakeLocation
from connectors.purge import TablePurge
from connectors.table_folder import TableFolder
from processors.erasure import ERASED_TABLES
from processors.lake_tables import ACCOUNTS_PRIVATE, DEAD_LETTERS, LAKE_TABLES
from tests.app.commands import trs
from tests.small_lake import SmallLake

NOW = datetime.now(UTC)
ACCOUNTS = range(5, 11)
CHANGES = 10
PREFIX = "aurora.trs"


def secret(account: int, what: str, n: int) -> str:
    """A text that stands nowhere else, with what must be escaped in JSON and in SQL."""
    return f'ACCT{account:03}-{what}-{n} o\'Neil "é"\n{what}'


def person(account: int, n: int) -> dict[str, object]:
    known = NOW - timedelta(days=40 - n)
    return {
        "account_id": account,
        "bucket": account % 2,
        "company_address": secret(account, "address", n),
        "contact_person": secret(account, "person", n),
        "contact_phone": secret(account, "phone", n),
        "gender": None if n % 3 else "f",
        "extra": json.dumps({"mail": secret(account, "mail", n), "deep": [{"tax": secret(account, "tax", n)}]}),
        "row_order": n,
        "row_offset": n,
        "known_from": known,
    }


def letter(
    offset: int, topic: str, key: bytes | None, value: bytes | None, detail: str = "refused"
) -> dict[str, object]:
    return {
        "topic": f"{PREFIX}.{topic}",
        "partition": 0,
        "row_offset": offset,
        "record_key": key,
        "record_value": value,
        "reason": "bad_value",
        "detail": detail,
        "known_from": NOW - timedelta(days=3),
    }


def letters(account: int) -> list[dict[str, object]]:
    """Letters that are about the account, from 100 x account on."""
    own = secret(account, "person", 4)
    after = json.dumps({"after": {"account_id": account, "x": secret(account, "bad", 1)}}, ensure_ascii=False)
    nested = json.dumps({"raw": json.dumps({"account_id": account, "y": secret(account, "bad", 2)})})
    return [
        letter(100 * account, "accounts", b'{"account_id":%d}' % account, secret(account, "bad", 3).encode() + b"\xff"),
        letter(100 * account + 1, "accounts", None, after.encode()),
        letter(100 * account + 2, "dead_letters", None, nested.encode()),
        letter(100 * account + 3, "dead_letters", None, f'{account},"{secret(account, "bad", 4)}",x'.encode()),
        letter(100 * account + 4, "invoices", b"k", json.dumps({"note": own}).encode(), f"no date: {own}"),
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six accounts with ten changes each over ten days, in commits of several accounts; letters of each.

    Delta's log holds values of personal columns, as it does in a lake that an earlier version made.
    """
    small = SmallLake(tmp_path_factory.mktemp("made") / "lake")
    delta = DeltaLake(LakeLocation(small.uri))
    for table in ERASED_TABLES:
        everything = ",".join(n for n in table.schema.names if n != "known_date")
        delta.store.open(table.name).alter.set_table_properties({STATISTICS: everything})
    for n in range(1, CHANGES + 1):
        small.append(ACCOUNTS_PRIVATE.name, *(person(a, n) for a in ACCOUNTS))
    for account in ACCOUNTS:
        small.append(DEAD_LETTERS.name, *letters(account))
    accounts = ({"account_id": a, "company_name": f"Company {a}", "bucket": a % 2, "row_offset": 20} for a in ACCOUNTS)
    small.append(
        "account_log", *({"kind": "account", "invoice_id": -1, "row_order": 20, "epoch": 1} | a for a in accounts)
    )
    small.feature(7, "2024-05-01T10:00", acct_id=7, epoch=1)
    # An invoice of account 7 that was refused is no personal data: it can be sent again.
    small.append(DEAD_LETTERS.name, letter(9999, "invoices", b"k", b'{"after":{"invoice_id":1,"account_id":7}}'))
    small.epoch("accounts", 0, 1, NOW.strftime("%Y-%m-%dT%H:%M:%S"))
    return Path(small.uri)


@pytest.fixture
def lake(made: Path, tmp_path: Path) -> SmallLake:
    """A copy of that lake."""
    shutil.copytree(made, tmp_path / "lake")
    return SmallLake(tmp_path / "lake")


def forget(lake: SmallLake, account: int, *options: str, code: int = 0) -> dict[str, Any]:
    answer = trs("lake", "forget", str(account), "--json", *options, TRS_LAKE=lake.uri)
    assert answer.code == code, answer.err
    told: dict[str, Any] = json.loads(answer.out)
    return told


def rows(lake: SmallLake, table: str) -> list[dict[str, Any]]:
    with LakeSession(Settings(lake=lake.uri)) as session:
        relation = session.reader.relation(table)
        return session.con.sql(f"SELECT * FROM {relation} ORDER BY ALL").to_arrow_table().to_pylist()


def as_text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def holds(file: Path, text: str) -> bool:
    """Whether a file holds the text: as bytes, or in any value of a Parquet file or of its statistics."""
    content = file.read_bytes()
    if text.encode() in content:
        return True
    if file.suffix != ".parquet":
        return False
    table = pq.read_table(file, partitioning=None)
    return any(text in as_text(value) for column in table.columns for value in column.to_pylist() if value is not None)


def files_with(lake: SmallLake, text: str) -> set[str]:
    """Files below the lake's folder that hold the text."""
    root = Path(lake.uri)
    return {str(f.relative_to(root)) for f in sorted(root.rglob("*")) if f.is_file() and holds(f, text)}


def others(found: list[dict[str, Any]], account: int) -> list[dict[str, Any]]:
    """Rows of the other accounts, letters that are about none of them included."""
    mark = f"ACCT{account:03}"
    return [r for r in found if r.get("account_id") != account and r.get("row_offset") not in of_account(account)] + [
        {"marked": r} for r in found if any(mark in as_text(v) for v in r.values())
    ]


def of_account(account: int) -> range:
    return range(100 * account, 100 * account + 5)


UNTOUCHED = sorted(LAKE_TABLES.keys() - {t.name for t in ERASED_TABLES} - {"erasures", "dead_letter_actions"})


def test_no_byte_of_the_account_stays_and_everything_else_is_as_before(lake: SmallLake) -> None:
    assert {Path(f).suffix for f in files_with(lake, "ACCT007")} == {".json", ".parquet"}, "the log has values too"
    before = {name: rows(lake, name) for name in LAKE_TABLES}
    files = files_with(lake, "")
    planned = forget(lake, 7, "--plan")
    assert files_with(lake, "") == files, "a plan changes nothing"
    private, dead = planned["tables"][ACCOUNTS_PRIVATE.name], planned["tables"][DEAD_LETTERS.name]
    assert (private["rows"], private["files"], dead["rows"]) == (CHANGES, CHANGES, 5)
    done = forget(lake, 7, "--apply", "--at-rest")
    assert done["done"]
    assert {name: table["erased"] for name, table in done["tables"].items()} == {
        ACCOUNTS_PRIVATE.name: CHANGES,
        DEAD_LETTERS.name: 5,
    }
    assert files_with(lake, "ACCT007") == set()
    assert len(files_with(lake, "ACCT008")) > CHANGES
    for name in UNTOUCHED:
        assert rows(lake, name) == before[name], name
    for table in ERASED_TABLES:
        now = rows(lake, table.name)
        assert others(now, 7) == [r for r in others(before[table.name], 7) if "marked" not in r]
        assert len(now) == len(before[table.name])
        kept = [n for n in table.schema.names if n not in table.personal_columns]
        places = [sorted(str([r[n] for n in kept]) for r in found) for found in (now, before[table.name])]
        assert places[0] == places[1], "order, offsets and times of the emptied rows stay"


def test_second_run_finds_nothing_and_what_was_done_is_on_record(lake: SmallLake) -> None:
    forget(lake, 7, "--apply", "--at-rest")
    again = forget(lake, 7, "--apply", "--at-rest")
    assert [t["rows"] for t in again["tables"].values()] == [0, 0]
    record = sorted((r["at"], r["table_name"], r["rows"]) for r in rows(lake, "erasures") if r["account_id"] == 7)
    assert [(name, count) for _, name, count in record] == [
        (ACCOUNTS_PRIVATE.name, CHANGES),
        (DEAD_LETTERS.name, 5),
        (ACCOUNTS_PRIVATE.name, 0),
        (DEAD_LETTERS.name, 0),
    ]
    # Letters that were open are put aside: they cannot be sent again.
    actions = [(a["row_offset"], a["action"]) for a in rows(lake, "dead_letter_actions")]
    assert sorted(actions) == [(offset, "discarded") for offset in of_account(7)]


def test_unknown_account_is_said_and_nothing_is_written(lake: SmallLake) -> None:
    answer = trs("lake", "forget", "4711", "--apply", TRS_LAKE=lake.uri)
    assert (answer.code, "no account 4711" in answer.err) == (2, True)
    assert rows(lake, "erasures") == []


class KilledError(BaseException):
    """The process dies here."""


def dying(patch: pytest.MonkeyPatch, owner: Any, name: str, calls: int) -> None:
    """The call of that number dies before it does anything."""
    whole, made = getattr(owner, name), [0]

    def call(*arguments: Any, **named: Any) -> Any:
        made[0] += 1
        if made[0] == calls:
            raise KilledError
        return whole(*arguments, **named)

    patch.setattr(owner, name, call)


def test_run_that_dies_at_any_step_is_ended_by_the_next(lake: SmallLake, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {t.name: others(rows(lake, t.name), 7) for t in ERASED_TABLES}
    single = TableFolder.delete
    # One by one, so that it can die between two files.
    monkeypatch.setattr(TableFolder, "delete", lambda folder, paths: [single(folder, [path]) for path in paths])
    steps: list[tuple[Any, str, int]] = [
        (app.forget, "append_results", 2),  # on record, its letters not put aside
        (erasure, "_rewrite", 1),
        (erasure, "_rewrite", 3),
        (FileRewrite, "_commit", 2),  # files written, not committed
        (TablePurge, "run", 1),
        (obstore, "delete", 1),
        (obstore, "delete", 2),
        (DeltaTable, "create_checkpoint", 1),
        (obstore, "delete", 8),
    ]
    for owner, name, calls in steps:
        with monkeypatch.context() as patch:
            dying(patch, owner, name, calls)
            with pytest.raises(KilledError):
                trs("lake", "forget", "7", "--apply", "--at-rest", TRS_LAKE=lake.uri)
        for table in ERASED_TABLES:
            assert len(rows(lake, table.name)) > CHANGES, (owner, name, calls)
    assert forget(lake, 7, "--apply", "--at-rest")["done"]
    assert files_with(lake, "ACCT007") == set()
    for name, kept in before.items():
        assert others(rows(lake, name), 7) == [r for r in kept if "marked" not in r]


def test_worker_goes_on_with_its_handle_and_upkeep_ends_what_waits(
    lake: SmallLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = DeltaLake(LakeLocation(lake.uri)).fenced(ACCOUNTS_PRIVATE.name)
    worker.open({"epoch:accounts:0": 1}, {}, seen={})

    def append(n: int) -> None:
        blank = dict.fromkeys(ACCOUNTS_PRIVATE.schema.names) | {"deleted": False, "known_date": NOW.date()}
        table = pa.Table.from_pylist([blank | person(a, n) for a in (7, 8)], schema=ACCOUNTS_PRIVATE.schema)
        worker.append(table, {"epoch:accounts:0": n})

    append(20)
    waits = forget(lake, 7, "--apply", code=6)
    assert waits["tables"][ACCOUNTS_PRIVATE.name]["waiting"] > CHANGES
    append(21)  # through the handle of before; the account comes again, so it is erased again
    again = forget(lake, 7, "--apply", code=6)
    assert again["tables"][ACCOUNTS_PRIVATE.name]["erased"] == 1
    assert trs("lake", "maintain", "--only", "purge", TRS_LAKE=lake.uri).code == 0
    assert files_with(lake, "ACCT007"), "too young to be deleted beside readers"
    monkeypatch.setattr(app.maintain, "GRACE", timedelta(0))
    assert trs("lake", "maintain", "--only", "purge", TRS_LAKE=lake.uri).code == 0
    # The erasure changed the table's properties, so the writer began its commit anew: its first file is no version's.
    (unnamed,) = files_with(lake, "ACCT007")
    yesterday = NOW.timestamp() - 86_401
    os.utime(Path(lake.uri) / unnamed, (yesterday, yesterday))
    assert trs("lake", "maintain", "--only", "purge", TRS_LAKE=lake.uri).code == 0
    assert files_with(lake, "ACCT007") == set()
    monkeypatch.setattr("connectors.lake.REOPEN_AFTER_S", 0.0)  # a handle as old as the grace is opened anew
    append(22)
    mine = [r["row_order"] for r in rows(lake, ACCOUNTS_PRIVATE.name) if r["account_id"] == 8]
    assert sorted(int(n) for n in mine) == [*range(1, CHANGES + 1), 20, 21, 22]


def test_file_that_is_being_written_is_left_alone_for_a_day(lake: SmallLake) -> None:
    folder = Path(lake.uri) / ACCOUNTS_PRIVATE.name
    some = next(f for f in folder.rglob("*.parquet") if "_delta_log" not in f.parts)
    written = some.with_name("part-of-a-commit-to-come.parquet")
    shutil.copy(some, written)
    os.utime(written)
    assert forget(lake, 7, "--apply", "--at-rest", code=6)["tables"][ACCOUNTS_PRIVATE.name]["waiting"] == 1
    assert files_with(lake, "ACCT007") == {str(written.relative_to(lake.uri))}
    yesterday = datetime.now(UTC).timestamp() - 86_401
    os.utime(written, (yesterday, yesterday))
    assert forget(lake, 7, "--apply", "--at-rest")["done"]
    assert files_with(lake, "ACCT007") == set()
