"""What the decoder makes of the value of each column, however it is spelled."""

from datetime import date
from decimal import Decimal

import pytest

from processors.decode import Decoder
from processors.tables import TABLES, Table
from tests.processors.decode_records import (
    ACCOUNTS,
    GOOD_ROWS,
    INVOICES,
    LINES,
    SKUS,
    decode_both_ways,
    encode,
    envelope,
    line,
)


def _raw_line(quantity: str) -> bytes:
    """A line whose quantity is spelled as given."""
    return line(quantity="QUANTITY").replace(b'"QUANTITY"', quantity.encode())


@pytest.mark.parametrize(
    ("spelled", "expected"),
    [
        *(("7", 7), ('"7"', 7), ("7.0", 7), ('"7.0"', 7), ("7e0", 7), ("70E-1", 7), ("-0", 0), ('"-3"', -3)),
        *((str(2**31 - 1), 2**31 - 1), (str(-(2**31)), -(2**31))),
    ],
)
def test_scalar_that_is_a_whole_number_is_cast(decoder: Decoder, spelled: str, expected: int) -> None:
    (row,) = decode_both_ways(decoder, LINES, _raw_line(spelled)).events.to_pylist()
    assert row["quantity"] == expected


@pytest.mark.parametrize(
    "spelled",
    [
        *(
            "7.5",
            '"7.5"',
            "1e400",
            '"1e400"',
            str(2**31),
            str(-(2**31) - 1),
            "9" * 5000,
            "true",
            "{}",
            "[7]",
            '"seven"',
        ),
        *('""', '" 7"', '"7 "', '"1_0"', '"0x7"', '"٣"', '"NaN"', "NaN", "Infinity", "-Infinity", '"7.0000000001"'),
    ],
)
def test_scalar_that_is_no_whole_number_in_range_is_dead(decoder: Decoder, spelled: str) -> None:
    (dead,) = decode_both_ways(decoder, LINES, _raw_line(spelled)).dead.to_pylist()
    assert dead["reason"] == "bad_value"
    assert dead["detail"].startswith("quantity ")


@pytest.mark.parametrize(
    ("spelled", "expected"),
    [
        *(("7", "7"), ("-0", "0"), ('"007"', "007"), ('"7.0"', "7.0"), ('"true"', "true"), ('"{}"', "{}")),
        *(
            ('"[1"', "[1"),
            ('"1e5"', "1e5"),
            ('"nan"', "nan"),
            ('""', ""),
            ('"a\\u0000b"', "a\0b"),
            ('"\\ud83d\\ude00"', "😀"),
        ),
        *(('" x "', " x "), ("1" * 64, "1" * 64), ('"' + "é" * 64 + '"', "é" * 64)),
    ],
)
def test_text_is_taken_as_it_is_and_a_whole_number_by_its_digits(decoder: Decoder, spelled: str, expected: str) -> None:
    value = line(item_id="ITEM").replace(b'"ITEM"', spelled.encode())
    (row,) = decode_both_ways(decoder, LINES, value).events.to_pylist()
    assert row["item_id"] == expected


@pytest.mark.parametrize(
    "spelled", ["7.0", "7.5", "1e5", "true", "false", "{}", "[]", '"' + "x" * 65 + '"', "1" * 65, '"\\ud800"', "NaN"]
)
def test_value_that_is_no_text_of_the_size_is_dead(decoder: Decoder, spelled: str) -> None:
    value = line(item_id="ITEM").replace(b'"ITEM"', spelled.encode())
    (dead,) = decode_both_ways(decoder, LINES, value).dead.to_pylist()
    assert (dead["reason"], dead["detail"].split()[0]) == ("bad_value", "item_id")


@pytest.mark.parametrize(("text", "is_good"), [("x" * 65535, True), ("é" * 32767, True), ("é" * 32768, False)])
def test_long_text_is_measured_in_bytes(decoder: Decoder, text: str, is_good: bool) -> None:
    value = encode(envelope(SKUS, after=GOOD_ROWS["skus"] | {"item_description": text}))
    assert decode_both_ways(decoder, SKUS, value).events.num_rows == is_good


@pytest.mark.parametrize(
    ("spelled", "expected"),
    [
        *(('"1234567890.10"', "1234567890.10"), ('"-1.50"', "-1.5"), ('"0.00"', "0"), ('"9999999999.9999999999"',) * 2),
        *(("7", "7"), ("12.5", "12.5"), ("1e2", "100"), ('"0E-10"', "0"), ('"1.10000000000"', "1.1"), ('"+2"', "2")),
    ],
)
def test_price_that_fits_is_exact(decoder: Decoder, spelled: str, expected: str) -> None:
    value = encode(envelope(SKUS, after=GOOD_ROWS["skus"] | {"item_retail_price": "P"}))
    decoded = decode_both_ways(decoder, SKUS, value.replace(b'"P"', spelled.encode()))
    (row,) = decoded.events.to_pylist()
    assert row["item_retail_price"] == Decimal(expected.strip('"'))


@pytest.mark.parametrize(
    "spelled",
    [
        *('"1.12345678901"', "1.12345678901", '"10000000000"', "1e400", '"AgEA"', '""', "true", '"NaN"', "NaN", "{}"),
        *('"1,5"', '"1_0"', '"' + "1." + "0" * 30 + '1"', "2212.94000000000000001", '"1e999999999"'),
    ],
)
def test_price_that_does_not_fit_is_dead(decoder: Decoder, spelled: str) -> None:
    value = encode(envelope(SKUS, after=GOOD_ROWS["skus"] | {"item_retail_price": "P"}))
    (dead,) = decode_both_ways(decoder, SKUS, value.replace(b'"P"', spelled.encode())).dead.to_pylist()
    assert (dead["reason"], dead["detail"].split()[0]) == ("bad_value", "item_retail_price")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        *((17728, date(2018, 7, 16)), ("17728", date(2018, 7, 16)), ("2018-07-16", date(2018, 7, 16))),
        *((-354285, date(1000, 1, 1)), (-719162, date.min), (2932896, date.max), ("9999-12-31", date.max)),
    ],
)
def test_date_as_days_or_iso_is_read(decoder: Decoder, given: object, expected: date) -> None:
    value = encode(envelope(INVOICES, after=GOOD_ROWS["invoices"] | {"date_issued": given}))
    (row,) = decode_both_ways(decoder, INVOICES, value).events.to_pylist()
    assert row["date_issued"] == expected


@pytest.mark.parametrize(
    "given",
    [
        -719163,
        2932897,
        "2018-02-30",
        "0000-00-00",
        "0000-01-01",
        "2018-7-16",
        "2018-07-16Z",
        "infinity",
        1.5,
        True,
        10**30,
    ],
)
def test_date_outside_the_calendar_is_dead(decoder: Decoder, given: object) -> None:
    value = encode(envelope(INVOICES, after=GOOD_ROWS["invoices"] | {"date_issued": given}))
    (dead,) = decode_both_ways(decoder, INVOICES, value).dead.to_pylist()
    assert (dead["reason"], dead["detail"].split()[0]) == ("bad_value", "date_issued")


@pytest.mark.parametrize("name", ["payment_dates", "payment_date"])
def test_payment_date_is_read_under_either_name(decoder: Decoder, name: str) -> None:
    row = {"invoice_id": 9, "account_id": 5, "date_issued": 17728, name: 17800}
    (event,) = decode_both_ways(decoder, INVOICES, encode(envelope(INVOICES, after=row))).events.to_pylist()
    assert event["payment_dates"] == date(2018, 9, 26)


def test_missing_nullable_columns_are_null(decoder: Decoder) -> None:
    without = {name: value for name, value in GOOD_ROWS["accounts"].items() if name != "gender"}
    (row,) = decode_both_ways(decoder, ACCOUNTS, encode(envelope(ACCOUNTS, after=without))).events.to_pylist()
    assert row["gender"] is None
    without = {name: value for name, value in GOOD_ROWS["invoices"].items() if name != "payment_dates"}
    (row,) = decode_both_ways(decoder, INVOICES, encode(envelope(INVOICES, after=without))).events.to_pylist()
    assert row["payment_dates"] is None


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_missing_or_null_required_column_is_dead(decoder: Decoder, table: Table) -> None:
    for column in table.columns:
        if column.nullable:
            continue
        row = dict(GOOD_ROWS[table.name])
        del row[column.name]
        (dead,) = decode_both_ways(decoder, table, encode(envelope(table, after=row))).dead.to_pylist()
        assert (dead["reason"], dead["detail"]) == ("missing_column", f"{column.name} is missing")
        row[column.name] = None
        (dead,) = decode_both_ways(decoder, table, encode(envelope(table, after=row))).dead.to_pylist()
        assert (dead["reason"], dead["detail"]) == ("null_value", f"{column.name} is null")
