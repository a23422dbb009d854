"""What a lake was filled with and may not change unseen: the number of partitions, and the SQL of a feature set.

Both are written into the control log by the first worker that starts, and every later one must agree with them:

    partitions       a key's bucket is its partition; with another number a key would be in two buckets
    a set's SQL      a version has one text; workers with two texts would rewrite each other's rows for ever
    a set's columns  a table has its columns; other columns need a set of another name

A worker of an older version of a set may start: it leaves the buckets alone that the newer one wrote (R10).
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from processors.errors import SettingsError
from processors.features.feature_set import FeatureSet
from processors.ports import ControlEntry, FencedLog

PARTITIONS_KIND = "partitions"
FEATURE_SET_KIND = "feature_set"

_PIECE = re.compile(r"('(?:[^']|'')*')|(--[^\n]*)|(\s+)|([^\s'-]+|-)")
"""A literal, a comment, blanks, anything else: whichever begins first."""


class SettlesEntries(Protocol):
    """The control log, as far as it is needed here."""

    def settle(self, kind: str, decide: Callable[[Sequence[ControlEntry]], Mapping[str, Any] | None]) -> None:
        """Appends an entry with the detail that `decide` makes of all entries so far; None: nothing is to be added."""


def agree(control: SettlesEntries, sku_log: FencedLog, *, partitions: int, feature_sets: Sequence[FeatureSet]) -> None:
    """Makes sure that this worker's partitions and feature sets are the lake's.

    Raises SettingsError, and has noted nothing then: rows of a version that was refused were never computed.
    """

    new: list[FeatureSet] = []

    def all_agree(entries: Sequence[ControlEntry]) -> Mapping[str, Any] | None:
        new[:] = [feature_set for feature_set in feature_sets if _feature_set(feature_set, entries) is not None]
        return _partitions(entries, sku_log, partitions)

    control.settle(PARTITIONS_KIND, all_agree)
    for feature_set in new:
        control.settle(FEATURE_SET_KIND, partial(_feature_set, feature_set))


def _partitions(entries: Sequence[ControlEntry], sku_log: FencedLog, partitions: int) -> Mapping[str, Any] | None:
    known = [int(e.detail["partitions"]) for e in entries if e.kind == PARTITIONS_KIND]
    if known:
        if known[-1] != partitions:
            raise _other_number(f"{known[-1]}", partitions)
        return None
    # A lake that an earlier version filled: each bucket has an epoch since its first opening.
    first, last, beyond = (f"epoch:skus:{bucket}" for bucket in (0, partitions - 1, partitions))
    stored = sku_log.stored((first, last, beyond))
    if beyond in stored or (first in stored and last not in stored):
        raise _other_number("more" if beyond in stored else "fewer", partitions)
    return {"partitions": partitions}


def _other_number(found: str, partitions: int) -> SettingsError:
    return SettingsError(
        f"TRS_PARTITIONS={partitions}, but the lake was filled from topics of {found} partitions",
        hint="a key's bucket is its partition, so the number stays; docs/runbooks/grow-partitions.md says how to get"
        " a lake of another one",
    )


def _feature_set(feature_set: FeatureSet, entries: Sequence[ControlEntry]) -> Mapping[str, Any] | None:
    name, version = feature_set.name, feature_set.version
    known = [e.detail for e in entries if e.kind == FEATURE_SET_KIND and e.detail["name"] == name]
    ours = {"name": name, "version": version, "sql": sql_print(feature_set), "rows": rows_print(feature_set)}
    if known and known[-1]["rows"] != ours["rows"]:
        raise SettingsError(
            f"feature set {name}: its columns or its key are not those of its table in the lake",
            hint="give the set another name: columns cannot be added, removed or retyped (docs/feature_sets.md)",
        )
    same = [k for k in known if k["version"] == version]
    if same and same[-1]["sql"] != ours["sql"]:
        raise SettingsError(
            f"feature set {name}: its SQL is another one than the lake's rows of version {version} were computed by",
            hint=f"raise `version` in {name}.toml to {max(k['version'] for k in known) + 1}: workers then compute the"
            " set again, and those with the old text leave its buckets alone",
        )
    older = any(k["version"] > version for k in known)
    return None if same or older else ours


def sql_print(feature_set: FeatureSet) -> str:
    """A digest of what the set computes; comments, blanks and the case of names do not count, promises do."""
    promises = [feature_set.grain, feature_set.window_days, feature_set.month_column]
    return _digest([_bare(feature_set.sql), *promises])


def rows_print(feature_set: FeatureSet) -> str:
    """A digest of what a row is: its columns, their types, its key."""
    columns = [(c.name, c.sql_type) for c in feature_set.columns]
    return _digest([columns, feature_set.entity_key, feature_set.owner_column])


def _bare(sql: str) -> str:
    """The text without comments, with single blanks, in lower case but for its literals."""
    words: list[str] = []
    for literal, comment, blanks, rest in _PIECE.findall(sql):
        if not (comment or blanks):
            words.append(literal or rest.lower())
        elif words and words[-1] != " ":
            words.append(" ")
    return "".join(words).strip()


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
