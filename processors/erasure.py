"""Erasure of one account's personal data: what is personal, in which rows, and what these rows are afterwards.

What is erased is what is declared personal, in the two tables that hold it; the rows stay, emptied, so that order,
offsets and counts are as before. Invoices and features stay whole: they hold no personal column and the books need
them. A row of `accounts_private_changes` names its account. A dead letter is about the account if

| its topic                    | it is when                                                                            |
| ---                          | ---                                                                                   |
| accounts                     | its key or its value names the account                                                |
| dead_letters (rows, records) | its value names the account as JSON does, or as the first field of a line of CSV does |
| any                          | one of the account's own personal texts stands in its key, value or detail            |

Letters of invoices and lines that name the account are left alone unless they hold such a text: they are rows of the
books that can be sent again. Texts shorter than `SHORTEST_TEXT` bytes are not searched for ("f", "n/a").
"""

import json
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from processors.lake_tables import ACCOUNTS_PRIVATE, DEAD_LETTERS, LakeTable
from processors.tables import ACCOUNTS, DEAD_LETTERS_TOPIC, EXTRA, topic_of

PLACES = "forget_letters"
"""Relation of the letters to be emptied, by place: topic, partition, row_offset."""
ERASED_TABLES: tuple[LakeTable, ...] = (DEAD_LETTERS, ACCOUNTS_PRIVATE)
"""In this order: letters are found by texts that stand in the other."""
SHORTEST_TEXT = 5
ERASED = "erased on request"
_PLACE = ("topic", "partition", "row_offset")
_PLACES = ", ".join(_PLACE)
_LETTER_FILLED = f"(record_key IS NOT NULL OR record_value IS NOT NULL OR detail IS DISTINCT FROM '{ERASED}')"


def texts_sql(private: str, account_id: int) -> str:
    """Query of the account's personal texts, one column; `private`: relation of accounts_private_changes."""
    own = [c.name for c in ACCOUNTS.columns if c.personal]
    columns = " UNION ".join(f"SELECT {name} AS text FROM own WHERE {name} IS NOT NULL" for name in own)
    # Of undeclared columns the values count, those of nested objects too.
    extra = f"""
        SELECT leaf.atom AS text
        FROM (SELECT {EXTRA} FROM own WHERE json_valid({EXTRA})) AS e, json_tree(e.{EXTRA}) AS leaf
        WHERE leaf.type = 'VARCHAR'
    """
    return f"""
        WITH own AS (SELECT * FROM {private} WHERE account_id = {int(account_id)})
        SELECT DISTINCT text FROM ({columns} UNION SELECT json_extract_string(text, '$') FROM ({extra}))
        WHERE octet_length(encode(text)) >= {SHORTEST_TEXT}
        ORDER BY text
    """


def letters_about(letters: pa.Table, account_id: int, texts: Sequence[str], *, topic_prefix: str) -> pa.Table:
    """Places (topic, partition, row_offset) of the letters that are about the account and not emptied yet.

    `letters`: those three columns and the personal ones of `dead_letters`.
    """
    named = _names_account(account_id)
    accounts = pc.equal(letters["topic"], topic_of(topic_prefix, ACCOUNTS.name))
    told = pc.equal(letters["topic"], topic_of(topic_prefix, DEAD_LETTERS_TOPIC))
    parts = [
        pc.and_(accounts, _matches(letters["record_key"], named)),
        pc.and_(pc.or_(accounts, told), _matches(letters["record_value"], named)),
        pc.and_(told, _matches(letters["record_value"], rb'^"?%d"?[,;\t]' % account_id)),
        *(_holds(letters[column], text) for column in DEAD_LETTERS.personal_columns for text in spellings(texts)),
    ]
    about = parts[0]
    for part in parts[1:]:
        about = pc.or_(about, part)
    return letters.filter(pc.and_(about, _filled(letters))).select(list(_PLACE))


def _filled(letters: pa.Table) -> pa.ChunkedArray:
    return pc.or_(
        pc.or_(pc.is_valid(letters["record_key"]), pc.is_valid(letters["record_value"])),
        pc.fill_null(pc.not_equal(letters["detail"], ERASED), False),
    )


def _names_account(account_id: int) -> bytes:
    """JSON that gives this account_id as a number or a text, also as JSON within a text."""
    quote = rb'\\*"'
    return quote + rb"account_id" + quote + rb"\s*:\s*(?:" + quote + rb")?%d(?:[^0-9]|$)" % account_id


def spellings(texts: Iterable[str]) -> list[bytes]:
    """The texts as bytes: as they are, as JSON writes them, and as JSON within JSON does."""
    found: dict[bytes, None] = {}
    for text in texts:
        for plain in (text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]):
            for spelled in (plain, json.dumps(plain)[1:-1], json.dumps(plain, ensure_ascii=False)[1:-1]):
                found[spelled.encode()] = None
    return list(found)


def _matches(column: pa.ChunkedArray, pattern: bytes) -> pa.ChunkedArray:
    return pc.fill_null(pc.match_substring_regex(column.cast(pa.binary()), pattern), False)


def _holds(column: pa.ChunkedArray, text: bytes) -> pa.ChunkedArray:
    return pc.fill_null(pc.match_substring(column.cast(pa.binary()), text), False)


def hits_sql(table: LakeTable, relation: str, account_id: int) -> str:
    """The condition's rows: those of `relation` that hold personal data of the account. Reads `PLACES` for letters."""
    if table is DEAD_LETTERS:
        return f"(SELECT r.* FROM {relation} AS r SEMI JOIN {PLACES} AS p USING ({_PLACES}) WHERE {_LETTER_FILLED})"
    return f"(SELECT r.* FROM {relation} AS r WHERE {_account_filled(account_id)})"


def erased_sql(table: LakeTable, relation: str, account_id: int) -> str:
    """All rows of `relation`, those that hold personal data of the account without it."""
    values: Mapping[str, str]
    if table is DEAD_LETTERS:
        values = {"record_key": "NULL", "record_value": "NULL", "detail": f"'{ERASED}'"}
        marked = f"""
            SELECT r.*, p.row_offset IS NOT NULL AS erased
            FROM {relation} AS r
            LEFT JOIN (SELECT DISTINCT {_PLACES} FROM {PLACES}) AS p
              ON r.topic = p.topic AND r.partition = p.partition AND r.row_offset = p.row_offset
        """
    else:
        values = dict.fromkeys(table.personal_columns, "NULL")
        marked = f"SELECT r.*, r.account_id = {int(account_id)} AS erased FROM {relation} AS r"
    replaced = ", ".join(f"CASE WHEN erased THEN {value} ELSE {name} END AS {name}" for name, value in values.items())
    return f"(SELECT * EXCLUDE (erased) REPLACE ({replaced}) FROM ({marked}))"


def _account_filled(account_id: int) -> str:
    filled = " OR ".join(f"{name} IS NOT NULL" for name in ACCOUNTS_PRIVATE.personal_columns)
    return f"account_id = {int(account_id)} AND ({filled})"
