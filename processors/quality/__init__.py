"""Declared checks of what the lake's tables and views hold, for people who rely on them (docs/quality.md).

`trs lake verify` proves that the program kept its promises; these checks judge the data: what TRS sent.
"""
