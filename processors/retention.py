"""How the history of features is thinned: which rows of `<feature set>_changes` answer a question that is still kept.

Tiers say how finely the past is kept by its age, `90d:all,365d:day,*:month`: every change of the last 90 days; before
that, up to 365 days ago, what was known at the ends of days; before that, at the ends of months. Times are those of
`known_from`. The *cuts* between tiers are ends of days (of months, where months are kept before them), UTC.

A row counted from the moment at which it was known until a greater one was (processors/features/versions.py). It is
kept if a kept moment lies in that interval: then an as-of (axis known) at every kept moment has the same rows after
thinning as before, and at every moment after the last cut. Kept moments are the first of a day or month, as an as-of of
`2024-06-01` asks; a row that became known at that very moment counts there.

The past grows older: what a tier leaves is thinned again by the next. So the kept moments of a tier must contain those
of every coarser one. Days, months and years nest; weeks do not, and a tier of weeks keeps the ends of months as well.
The first tier keeps all: today has not ended.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Literal

from processors.errors import SettingsError
from processors.features.as_of import Axis
from processors.features.declarations import FeatureSet
from processors.features.versions import until_sql
from processors.lake_tables import HISTORY_RETENTION, changes_name

Step = Literal["all", "day", "week", "month", "year", "none"]
"""What is kept of a stretch of time: every change, the ends of its days, …, or nothing but its own end."""

DEFAULT_TIERS = "90d:all,365d:day,*:month"
_UNITS = {"d": 1, "w": 7, "y": 365}
_TIER = re.compile(r"(?:(?P<count>[1-9]\d{0,4})(?P<unit>[dwy])|(?P<rest>\*)):(?P<step>all|day|week|month|year|none)")
_COARSENESS: tuple[Step, ...] = ("all", "day", "week", "month", "year", "none")


@dataclass(frozen=True)
class Tier:
    """`max_age`: how long ago the tier ends, None: never. `step`: what of it is kept."""

    max_age: timedelta | None
    step: Step


@dataclass(frozen=True)
class Zone:
    """A tier at a time: moments after `begin` (None: since ever) up to and including `end` (None: for ever)."""

    begin: datetime | None
    end: datetime | None
    step: Step

    def holds(self, moment: datetime) -> bool:
        """Whether the moment lies in it."""
        return (self.begin is None or moment > self.begin) and (self.end is None or moment <= self.end)

    def keeps(self, moment: datetime) -> bool:
        """Whether an as-of at this moment of the zone is answered as it ever was."""
        if self.step in ("all", "none"):
            return self.step == "all" or moment == self.end
        return moment == self.end or any(floored(moment, unit) == moment for unit in units(self.step))


def units(step: Step) -> tuple[Step, ...]:
    """The units of time whose first moments a step keeps."""
    return ("week", "month") if step == "week" else (step,)


def parse_tiers(text: str) -> tuple[Tier, ...]:
    """`90d:all,1y:day,*:month`: ascending ages in days, weeks or years of 365 days, the last `*`.

    Raises SettingsError that says what is wrong with it.
    """
    tiers: list[Tier] = []
    for part in text.replace(" ", "").split(","):
        found = _TIER.fullmatch(part)
        if found is None:
            raise SettingsError(
                f"tiers: `{part}` is none: an age as 90d, 8w, 1y or *, a colon, and one of {', '.join(_COARSENESS)}",
                hint=f"for example {DEFAULT_TIERS}",
            )
        step: Step = next(s for s in _COARSENESS if s == found["step"])
        age = None if found["rest"] else timedelta(days=int(found["count"]) * _UNITS[found["unit"]])
        if tiers:
            before = tiers[-1]
            if before.max_age is None:
                raise SettingsError(f"tiers: `{part}` comes after `*`, which is the rest")
            if age is not None and age <= before.max_age:
                raise SettingsError(f"tiers: the age of `{part}` is not greater than the one before")
            if _COARSENESS.index(step) <= _COARSENESS.index(before.step):
                raise SettingsError(f"tiers: `{part}` keeps no less than the tier before it")
        tiers.append(Tier(age, step))
    if tiers[0].step != "all":
        raise SettingsError(
            f"tiers: the first one must keep `all`, not `{tiers[0].step}`: today has not ended",
            hint=f"for example 1d:all,{text.replace(' ', '')}"
            if tiers[0].max_age is None
            else f"as in {DEFAULT_TIERS}",
        )
    if tiers[-1].max_age is not None:
        raise SettingsError("tiers: the last one must be `*`: what becomes of the rest?", hint=f"as in {DEFAULT_TIERS}")
    return tuple(tiers)


def zones(tiers: Sequence[Tier], *, now: datetime, complete_through: datetime) -> tuple[Zone, ...]:
    """The tiers at `now`, the oldest first. Cuts lie at or before `complete_through`: until then no row follows (R11).

    A cut is the end of a unit of both its neighbours, so that each zone consists of whole ones.
    """
    ends: list[datetime | None] = [None]
    for newer, older in pairwise(tiers):
        assert newer.max_age is not None
        coarse = older.step if older.step != "none" else newer.step
        cut = min(now - newer.max_age, complete_through)
        if ends[-1] is not None:
            cut = min(cut, ends[-1])
        ends.append(floored(cut, "day" if coarse in ("all", "none") else coarse))
    begins = [*ends[1:], None]
    found = (Zone(begin, end, t.step) for t, begin, end in zip(tiers, begins, ends, strict=True))
    return tuple(reversed([z for z in found if z.begin != z.end or z.begin is None]))


def floored(moment: datetime, step: Step) -> datetime:
    """The first moment of the moment's day, week (from Monday), month or year, UTC."""
    day = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if step == "week":
        return day - timedelta(days=day.weekday())
    if step == "month":
        return day.replace(day=1)
    if step == "year":
        return day.replace(month=1, day=1)
    return day


def verdicts_sql(feature_set: FeatureSet, changes: str, cut: Sequence[Zone]) -> str:
    """A query (DuckDB) of every row of the history: `bucket`, key, document_version, epoch, known_date, zone, keep.

    `zone` is its place in `cut`. A row after the last cut is kept.
    """
    key = ", ".join(feature_set.entity_key)
    last = next(z.begin for z in cut if z.end is None)
    if last is None:
        return f"SELECT bucket, {key}, document_version, epoch, known_date, 0 AS zone, TRUE AS keep FROM {changes}"
    place = " ".join(
        f"WHEN known_from <= {_literal(z.end)} THEN {number}" for number, z in enumerate(cut) if z.end is not None
    )
    first_kept = " ".join(
        f"WHEN known_from <= {_literal(z.end)} THEN {_first_kept(z)}" for z in cut if z.end is not None
    )
    return f"""
        SELECT bucket, {key}, document_version, epoch, known_date, CASE {place} ELSE {len(cut) - 1} END AS zone,
          CASE WHEN known_from > {_literal(last)} THEN TRUE
            ELSE known_until IS NULL OR CASE {first_kept} END < known_until END AS keep
        FROM (
          SELECT *, {until_sql(feature_set, "known")} AS known_until FROM {changes}
        )
    """


def thinned_sql(feature_set: FeatureSet) -> str:
    """A query of the stretches of a set's history that were ever thinned: begin, end, step."""
    return f"""
        SELECT DISTINCT zone_begin, zone_end, step FROM {HISTORY_RETENTION.name}
        WHERE table_name = '{changes_name(feature_set)}'
    """


def thinned_warning(feature_set: FeatureSet, thinned: Iterable[Zone], moment: datetime, axis: Axis) -> str | None:
    """What to tell a person who asks for a moment that is not kept; None where the answer is as it ever was.

    Rows are kept for the axis `known`: on the other, any moment of a stretch that was thinned may lack versions.
    """
    for zone in thinned:
        if zone.holds(moment) and (axis == "valid" or not zone.keeps(moment)):
            kept = "its end" if zone.step == "none" else kept_words(zone.step)
            return (
                f"the history of {feature_set.name} through {zone.end:%Y-%m-%dT%H:%M:%SZ} is kept for {kept}:"
                f" the answer for {moment:%Y-%m-%dT%H:%M:%SZ} may lack versions that were replaced soon after"
            )
    return None


def kept_words(step: Step) -> str:
    """`the ends of weeks and months`, for people."""
    if step in ("all", "none"):
        return "every change" if step == "all" else "the latest at its end"
    return "the ends of " + " and ".join(f"{unit}s" for unit in units(step))


def _first_kept(zone: Zone) -> str:
    """The first kept moment at or after a row's `known_from` in this zone."""
    end = _literal(zone.end)
    if zone.step == "none":
        return end
    if zone.step == "all":
        return "known_from"
    floors = {unit: f"date_trunc('{unit}', known_from)" for unit in units(zone.step)}
    firsts = [f"CASE WHEN {f} = known_from THEN known_from ELSE {f} + INTERVAL 1 {u} END" for u, f in floors.items()]
    return f"least({', '.join([end, *firsts])})"


def _literal(moment: datetime | None) -> str:
    assert moment is not None
    return f"TIMESTAMPTZ '{moment.astimezone(UTC).isoformat(sep=' ')}'"
