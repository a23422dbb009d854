"""`trs dead-letters` on a lake written by hand: what is shown, what is hidden, what is recorded."""

import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from deltalake import DeltaTable

from app.dead_letters import DeadLetters
from app.lake_session import LakeSession
from app.letter_printing import print_letters
from app.settings import Settings
from processors.open_letters import Selection
from processors.reasons import Reason
from tests.app.commands import Answer, trs
from tests.small_lake import SmallLake, at

SKUS, INVOICES, REJECTED = "aurora.trs.skus", "aurora.trs.invoices", "aurora.trs.dead_letters"
SECRET = b'{"contact_person":"Ann Other","\x1b[31m":"\xc3\xa9\n"}'


@pytest.fixture
def lake(tmp_path: Path) -> SmallLake:
    """Four letters, one of them with bytes that are no text."""
    lake = SmallLake(tmp_path / "lake")
    letter = {"detail": "because", "record_key": b'{"k":1}', "record_value": SECRET, "record_ts": at("2024-04-30")}
    lake.append(
        "dead_letters",
        {
            **letter,
            "topic": SKUS,
            "partition": 0,
            "row_offset": 5,
            "reason": "bad_value",
            "known_from": at("2024-05-01"),
        },
        {
            **letter,
            "topic": SKUS,
            "partition": 1,
            "row_offset": 5,
            "reason": "not_utf8",
            "known_from": at("2024-05-02"),
            "record_key": None,
            "record_value": b"\xff\x00",
        },
        {
            **letter,
            "topic": INVOICES,
            "partition": 0,
            "row_offset": 7,
            "reason": "bad_value",
            "known_from": at("2024-05-03"),
        },
        {
            **letter,
            "topic": REJECTED,
            "partition": 2,
            "row_offset": 0,
            "reason": "malformed",
            "known_from": at("2024-05-04"),
        },
    )
    return lake


def dead_letters(lake: SmallLake, *arguments: str, **environment: str) -> Answer:
    return trs("dead-letters", *arguments, TRS_LAKE=lake.uri, **environment)


def listed(lake: SmallLake, *arguments: str) -> Any:
    answer = dead_letters(lake, "list", "--json", *arguments)
    assert answer.code == 0, answer.err
    return json.loads(answer.out)


def offsets(found: Any) -> list[tuple[str, int]]:
    return [(letter["topic"].rsplit(".", 1)[-1], letter["offset"]) for letter in found["letters"]]


def test_list_counts_by_reason_and_topic_then_shows_the_newest(lake: SmallLake) -> None:
    found = listed(lake, "--limit", "2")
    assert sorted((c["reason"], c["topic"], c["letters"]) for c in found["counts"]) == [
        *(("bad_value", INVOICES, 1), ("bad_value", SKUS, 1), ("malformed", REJECTED, 1), ("not_utf8", SKUS, 1)),
    ]
    assert offsets(found) == [("dead_letters", 0), ("invoices", 7)]
    assert found["letters"][1]["time"] == "2024-05-03T00:00:00Z"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--reason", "bad_value"), [("invoices", 7), ("skus", 5)]),
        (("--reason", "bad_value", "--reason", "malformed", "--topic", REJECTED), [("dead_letters", 0)]),
        (("--topic", "skus", "--since", "2024-05-02"), [("skus", 5)]),
        (("--since", "2024-05-03T00:00:00+00:00"), [("dead_letters", 0), ("invoices", 7)]),
        (("--topic", "elsewhere"), []),
    ],
)
def test_list_shows_letters_for_which_all_options_hold(
    lake: SmallLake, options: tuple[str, ...], expected: list[tuple[str, int]]
) -> None:
    assert offsets(listed(lake, *options)) == expected


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_list_shows_nothing_of_what_the_letters_hold(lake: SmallLake, options: tuple[str, ...]) -> None:
    answer = dead_letters(lake, "list", *options)
    assert "Ann" not in answer.out + answer.err
    assert '"k"' not in answer.out + answer.err
    assert "because" in answer.out


def test_list_of_an_empty_lake_says_so(tmp_path: Path) -> None:
    answer = dead_letters(SmallLake(tmp_path / "none"), "list")
    assert (answer.code, answer.out.strip()) == (0, "no open dead letters")


def test_detail_with_control_characters_reaches_no_terminal(
    lake: SmallLake, capsys: pytest.CaptureFixture[str]
) -> None:
    from app.dead_letters import Letter

    letter = Letter("t", 0, 1, "r\x1b[2J", "d\x1b]0;x\x07", None, "discarded", "n\x9b", "w", at("2024-05-01"))
    print_letters([letter], total=1)
    shown = capsys.readouterr().out
    assert "d\\x1b]0;x\\x07" in shown
    assert not {"\x1b", "\x07", "\x9b"} & set(shown)


def test_show_gives_key_and_value_as_text_with_control_characters_escaped(lake: SmallLake) -> None:
    answer = dead_letters(lake, "show", "skus", "0", "5")
    assert f"place:   {SKUS}-0 offset 5\nreason:  bad_value\ndetail:  because\n" in answer.out
    assert 'state:   open\nkey:     {"k":1}\n' in answer.out
    assert answer.out.endswith(f'value: {len(SECRET)} bytes\n{{"contact_person":"Ann Other","\\x1b[31m":"é\n"}}\n')


def test_show_gives_what_is_no_text_as_hexadecimal_digits(lake: SmallLake) -> None:
    answer = dead_letters(lake, "show", SKUS, "1", "5")
    assert "key:     (null)" in answer.out
    assert "(hex) ff00" in answer.out
    shown = json.loads(dead_letters(lake, "show", SKUS, "1", "5", "--json").out)
    assert (shown["key"], shown["value"], shown["reason"]) == (None, {"hex": "ff00"}, "not_utf8")


def test_show_out_writes_the_value_to_the_byte_and_prints_none_of_it(lake: SmallLake, tmp_path: Path) -> None:
    out = tmp_path / "value"
    answer = dead_letters(lake, "show", SKUS, "0", "5", "--out", str(out))
    assert (answer.code, out.read_bytes()) == (0, SECRET)
    assert "Ann" not in answer.out + answer.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("show", "skus", "0", "6"), "no dead letter at aurora.trs.skus-0 offset 6"),
        (("discard", "skus", "0", "6", "--note", "n"), "no dead letter at"),
        (("discard", "--note", "n"), "nothing is named"),
        (("replay",), "nothing is named"),
        (("replay", "skus", "0"), "one letter is named by"),
        (("replay", "skus", "0", "5", "--reason", "bad_value"), "one letter is named by"),
        (("replay", "--topic", REJECTED), "trs bootstrap snapshot"),
        (("list", "--since", "yesterday"), "is not a time"),
    ],
)
def test_wrong_use_is_one_line_that_says_what_to_do(lake: SmallLake, arguments: tuple[str, ...], told: str) -> None:
    answer = dead_letters(lake, *arguments)
    assert (answer.code, len(answer.err.splitlines())) == (2, 1)
    assert told in answer.err


def test_replay_of_a_topic_outside_the_prefix_is_refused(lake: SmallLake) -> None:
    answer = dead_letters(lake, "replay", SKUS, "0", "5", TRS_TOPIC_PREFIX="other")
    assert answer.code == 2
    assert "no worker reads this topic with TRS_TOPIC_PREFIX=other" in answer.err


def test_discarded_letter_is_not_open_any_more_and_stays_in_the_lake(lake: SmallLake) -> None:
    before = DeltaTable(f"{lake.uri}/dead_letters").version()
    answer = dead_letters(lake, "discard", "--topic", "skus", "--note", "a test", "--json")
    assert json.loads(answer.out)["discarded"] == 2

    assert offsets(listed(lake)) == [("dead_letters", 0), ("invoices", 7)]
    everything = listed(lake, "--all")
    assert len(everything["letters"]) == 4
    (dealt_with,) = [x for x in everything["letters"] if (x["topic"], x["partition"]) == (SKUS, 0)]
    assert (dealt_with["action"], dealt_with["note"]) == ("discarded", "a test")
    assert "@" in dealt_with["who"]
    assert DeltaTable(f"{lake.uri}/dead_letters").version() == before
    assert "Ann" in dead_letters(lake, "show", SKUS, "0", "5").out
    assert json.loads(trs("status", "--json", TRS_LAKE=lake.uri, TRS_KAFKA="127.0.0.1:1").out)["dead_letters"] == {
        "bad_value": 1,
        "malformed": 1,
    }

    again = dead_letters(lake, "discard", SKUS, "0", "5", "--note", "twice")
    assert (again.code, "is not open: discarded by" in again.err) == (2, True)
    assert json.loads(dead_letters(lake, "discard", "--topic", "skus", "--note", "x", "--json").out)["discarded"] == 0


def test_record_refused_later_at_the_same_place_is_open_though_the_first_was_dealt_with(lake: SmallLake) -> None:
    dead_letters(lake, "discard", SKUS, "0", "5", "--note", "n")
    later = {"topic": SKUS, "partition": 0, "row_offset": 5, "reason": "not_json", "known_from": at("2999-01-01")}
    lake.append("dead_letters", {**later, "detail": "d"})
    assert [c["reason"] for c in listed(lake, "--topic", "skus")["counts"]] == ["not_json", "not_utf8"]
    assert "not_json" in dead_letters(lake, "show", SKUS, "0", "5").out
    # The clock of the person is behind that of the worker: the action still concerns the letter.
    dead_letters(lake, "discard", SKUS, "0", "5", "--note", "n")
    assert [c["reason"] for c in listed(lake, "--topic", "skus")["counts"]] == ["not_utf8"]


def test_records_come_with_key_and_value_a_round_at_a_time(lake: SmallLake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.dead_letters._ROUND_LETTERS", 1)
    monkeypatch.setattr("app.dead_letters._BATCH_ROWS", 1)
    with LakeSession(Settings(lake=lake.uri)) as session:
        rounds = [r.to_pylist() for r in DeadLetters(session).records(Selection(reasons=("bad_value", "not_utf8")))]
    assert [len(letters) for letters in rounds] == [1, 1, 1]
    found = {(r["topic"], r["partition"]): (r["record_key"], r["record_value"]) for (r,) in rounds}
    assert found == {
        (SKUS, 0): (b'{"k":1}', SECRET),
        (SKUS, 1): (None, b"\xff\x00"),
        (INVOICES, 0): (b'{"k":1}', SECRET),
    }


def test_dry_run_changes_nothing(lake: SmallLake) -> None:
    answer = dead_letters(lake, "discard", "--reason", "bad_value", "--note", "n", "--dry-run")
    assert "2 dead letters to put aside" in answer.out
    assert "nothing was done: --dry-run" in answer.err
    assert len(listed(lake)["letters"]) == 4


@pytest.mark.parametrize(("answered", "left"), [("n\n", 4), ("y\n", 2)])
def test_on_a_terminal_it_asks_first(lake: SmallLake, answered: str, left: int) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return answered

    with patch.object(sys, "stdin", Terminal()), patch("typer.confirm", side_effect=lambda *_, **__: answered == "y\n"):
        dead_letters(lake, "discard", "--reason", "bad_value", "--note", "n")
        assert len(listed(lake)["letters"]) == left
        dead_letters(lake, "discard", "--reason", "bad_value", "--note", "n", "--yes")
    assert len(listed(lake)["letters"]) == 2


def test_reasons_lists_every_reason_and_which_stop_the_worker(lake: SmallLake) -> None:
    found = json.loads(dead_letters(lake, "reasons", "--json", TRS_DEAD_LETTER_STOP="null_key").out)
    assert [r["reason"] for r in found] == list(Reason)
    assert [r["reason"] for r in found if r["stops_the_worker"]] == ["null_key"]
    assert all(r["meaning"].endswith(".") for r in found)
