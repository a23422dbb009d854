"""Numbers as people and spreadsheets read them: plain, never in exponents."""

import re


def text_sql(column: str, sql_type: str) -> str:
    """A column as it goes to text, as DuckDB SQL: decimals and doubles as plain numbers, anything else as it is.

    Decimals with more than 2 decimals show at least 2 and further ones only if not zero: 12.50, 0.125, 0.00. Doubles
    are the shortest text that reads back as the same number. Null stays null.
    """
    decimal = re.fullmatch(r"DECIMAL\(\d+,\s*(\d+)\)", sql_type)
    if decimal is not None:
        text = f"CAST({column} AS VARCHAR)"
        return rf"regexp_replace({text}, '(\.\d\d\d*?)0+$', '\1')" if int(decimal[1]) > 2 else text
    if sql_type in ("DOUBLE", "FLOAT"):
        text = f"CAST({column} AS VARCHAR)"
        plain = rf"regexp_replace(CAST(try_cast({text} AS DECIMAL(38,20)) AS VARCHAR), '\.?0+$', '')"
        return f"CASE WHEN contains({text}, 'e') THEN coalesce({plain}, {text}) ELSE {text} END"
    return column


def safe_text_sql(column: str, sql_type: str) -> str:
    """The same, and text that begins as a formula of a spreadsheet does, with = + - @ tab or carriage return, gets an
    apostrophe before it: no name of a company shall be run. Source: OWASP, CSV injection."""
    if sql_type != "VARCHAR":
        return text_sql(column, sql_type)
    return rf"CASE WHEN regexp_matches({column}, '^[=+\-@\t\r]') THEN concat(chr(39), {column}) ELSE {column} END"


def quoted(name: str) -> str:
    """A name as an SQL identifier, whatever it contains."""
    return '"' + name.replace('"', '""') + '"'
