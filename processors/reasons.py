"""Why a record is refused: every reason that a dead letter may have, declared once with its meaning."""

from enum import StrEnum


class Reason(StrEnum):
    """The short code of a dead letter. `meaning` is one line; what speaks of sources is found by producers of ours."""

    meaning: str

    def __new__(cls, code: str, meaning: str) -> "Reason":
        reason = str.__new__(cls, code)
        reason._value_ = code
        reason.meaning = meaning
        return reason

    NOT_UTF8 = "not_utf8", "The value is not UTF-8."
    NOT_JSON = "not_json", "The value is not one JSON object."
    UNKNOWN_OP = "unknown_op", "The envelope's op is none of c, r, u, d, t."
    UNKNOWN_TABLE = "unknown_table", "source.table is not the table of the topic."
    UNKNOWN_SOURCE = "unknown_source", "source.name is not in TRS_SOURCE_NAMES."
    BAD_POSITION = "bad_position", "The place in the source's history is missing or out of range."
    NULL_KEY = "null_key", "The record has no key, so its partition is arbitrary."
    MISSING_ROW = "missing_row", "The image that the op calls for is missing."
    MISSING_COLUMN = "missing_column", "The row lacks a column."
    NULL_VALUE = "null_value", "A column that must hold something is null."
    BAD_VALUE = "bad_value", "A value is of the wrong type, out of range, too long, or does not cast exactly."
    BAD_DOCUMENT = "bad_document", "An invoice document, or a charged line, is not as this program writes it."
    MALFORMED = "malformed", "A line of a source's extract is no row of its table."
    ENCODING = "encoding", "A line of a source's extract is not UTF-8."
    NULL = "null", "A column of a source's row that must hold something is empty."
    TOO_LONG = "too_long", "A text of a source's row is longer than its column."
    DUPLICATE_KEY = "duplicate_key", "An earlier row of a source's extract has the same key."
    UNREADABLE = "unreadable_dead_letter", "A record of the dead-letter topic is not as our producers write it."


def parse_reasons(text: str) -> tuple[Reason, ...]:
    """Declared reasons from comma-separated codes. Raises ValueError that names what is none, and all that are."""
    declared = {str(reason): reason for reason in Reason}
    given = dict.fromkeys(part.strip() for part in text.split(",") if part.strip())
    wrong = [code for code in given if code not in declared]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: no reason of a dead letter; there are {', '.join(declared)}")
    return tuple(declared[code] for code in given)
