"""Checks of the lake: is it there, may it be written, is it of this program's format, is it fresh and sound."""

from datetime import UTC, datetime

from app.dead_letters import DeadLetters
from app.doctor.checks import Finding, failed, not_looked_at, ok, warning
from app.findings import failed_checks, last_reconciled
from app.lake_session import LakeSession
from app.settings import Settings
from app.wiring import lake_location
from connectors.control_log import ControlLog
from connectors.delta_lake import DeltaLake
from connectors.lake import LakeStore, wrapped_errors
from connectors.store_check import check_store
from connectors.store_facts import check_writable, store_time
from processors.errors import UnavailableError
from processors.features.declarations import FEATURE_SETS
from processors.lake_tables import EPOCHS, LAKE_TABLES, QUALITY_RESULTS, RECONCILIATION, UPKEEP, changes_name
from processors.open_letters import Selection
from processors.watermark import latest_epochs_sql

_READER, _WRITER = 1, 2
"""Delta's protocol of our tables: what every reader knows, Athena included."""
_SKEW_S = 5.0
_MUCH_SKEW_S = 60.0
_STALE_FACTOR = 4


def look_at_place(settings: Settings) -> list[Finding]:
    """Does the store answer, and is there a lake."""
    location = lake_location(settings)
    check_store(location)
    if not LakeStore(location).exists():
        raise UnavailableError(f"there is no lake at {settings.lake_uri}", hint="`trs worker` creates it")
    return [ok(f"{settings.lake_uri} answers")]


def look_at_write_access(settings: Settings) -> list[Finding]:
    """May it be written; on S3: are Delta's commits safe there."""
    return [ok(check_writable(lake_location(settings)))]


def look_at_format(settings: Settings) -> list[Finding]:
    """Tables, columns and protocol against the declarations of this version of the program."""
    store = LakeStore(lake_location(settings))
    schemas = store.schemas()
    findings = []
    missing = [name for name in LAKE_TABLES if name not in schemas]
    if missing:
        findings.append(warning(f"tables missing: {', '.join(missing)}", "the next start of a worker makes them"))
    for name, found in schemas.items():
        declared, added = LAKE_TABLES[name].schema, LAKE_TABLES[name].added
        lacks = [c for c in added if c not in found.names]
        never_added = [c for c in declared.names if c not in found.names and c not in added]
        more = [c for c in found.names if c not in declared.names]
        if lacks:
            findings.append(warning(f"{name} lacks columns {', '.join(lacks)}", "the next start of a worker adds them"))
        if never_added:
            findings.append(
                failed(
                    f"{name} lacks columns {', '.join(never_added)}, and no version of the program adds them",
                    "a feature set with other columns needs another name: docs/feature_sets.md",
                )
            )
        if more:
            findings.append(
                failed(
                    f"{name} has columns {', '.join(more)} that this version does not know: a newer one made them",
                    "run the newer version here: an older one must not write",
                )
            )
        with wrapped_errors(f"table {name}"):
            protocol = store.open(name).protocol()
        if protocol.min_reader_version > _READER or protocol.min_writer_version > _WRITER:
            findings.append(
                warning(
                    f"{name} has Delta protocol {protocol.min_reader_version}/{protocol.min_writer_version}, not"
                    f" {_READER}/{_WRITER}: another writer has raised it",
                    "Athena may not read it any more; docs/runbooks/rebuild-lake.md makes it anew",
                )
            )
    return findings or [ok(f"{len(schemas)} tables, columns as declared, Delta protocol {_READER}/{_WRITER}")]


def look_at_buckets(settings: Settings) -> list[Finding]:
    """Was the lake filled with this number of partitions, and by feature sets of these versions."""
    with LakeSession(settings) as session:
        session.create_views([EPOCHS.name])
        ((most,),) = session.con.sql(f"SELECT max(bucket) + 1 FROM {EPOCHS.name}").fetchall()
    if most is None:
        return [not_looked_at("nothing is committed yet")]
    findings = []
    if most > settings.partitions:
        findings.append(
            failed(
                f"the lake has {most} buckets, TRS_PARTITIONS is {settings.partitions}",
                "set TRS_PARTITIONS to the installation's number",
            )
        )
    lake = DeltaLake(lake_location(settings), create=False)
    there = lake.store.present()
    for feature_set in FEATURE_SETS:
        if changes_name(feature_set) not in there:
            continue
        ids = tuple(f"version:{b}" for b in range(most))
        versions = set(lake.fenced(changes_name(feature_set)).stored(ids).values())
        if versions and max(versions) > feature_set.version:
            findings.append(
                failed(
                    f"{feature_set.name} is declared here as version {feature_set.version},"
                    f" the lake has version {max(versions)}: workers from here leave its buckets alone",
                    "deploy the newer declaration; to go back, put the old SQL under a still higher version",
                )
            )
        elif versions and min(versions) < feature_set.version:
            findings.append(
                warning(
                    f"{feature_set.name} is declared here as version {feature_set.version},"
                    f" the lake has version {min(versions)}",
                    "start workers anew: they compute it again (docs/runbooks/recompute-features.md)",
                )
            )
    return findings or [ok(f"{most} of {settings.partitions} buckets have commits; feature sets as declared")]


def look_at_clock(settings: Settings) -> list[Finding]:
    """The clock here against the one of S3, to a second."""
    location = lake_location(settings)
    if not location.uri.startswith("s3://"):
        return [not_looked_at("the lake is a folder of this machine")]
    return [judge_skew("S3", (store_time(location) - datetime.now(UTC)).total_seconds(), resolution_s=1.0)]


def judge_skew(name: str, ahead_s: float, *, resolution_s: float) -> Finding:
    """A clock that is ahead of ours by so many seconds, as far as it can be told."""
    said = f"the clock of {name} is {abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} the one here"
    advice = "set the clocks by NTP: known_from, freshness and signatures of requests follow them"
    if abs(ahead_s) > _MUCH_SKEW_S:
        return failed(said, advice)
    if abs(ahead_s) > _SKEW_S:
        return warning(said, advice)
    return ok(f"{name} and this machine agree to within {max(abs(ahead_s), resolution_s):.1f} s")


def look_at_freshness(settings: Settings) -> list[Finding]:
    """When stages last committed. An idle one commits every TRS_IDLE_EPOCH_S."""
    with LakeSession(settings) as session:
        session.create_views([EPOCHS.name])
        rows = session.con.sql(
            f"SELECT stage, max(committed_at), min(known_through) FROM {latest_epochs_sql(EPOCHS.name)} GROUP BY stage"
        ).fetchall()
        read_at = session.read_at
    if not rows:
        return [warning("nothing is committed yet", "start a worker: `trs worker`")]
    findings = []
    patience_s = _STALE_FACTOR * max(settings.idle_epoch_s, settings.epoch_interval_s)
    for stage, committed_at, through in rows:
        age_s, behind_s = ((read_at - t).total_seconds() for t in (committed_at, through))
        if age_s < -_SKEW_S:
            findings.append(
                warning(f"stage {stage} committed {-age_s:.0f} s in the future", "set the worker's clock (NTP)")
            )
        elif age_s > patience_s:
            findings.append(
                warning(f"stage {stage} last committed {age_s:,.0f} s ago", "see the group and the workers' logs")
            )
        elif behind_s > patience_s:
            findings.append(
                warning(
                    f"stage {stage} is complete through {behind_s:,.0f} s ago only: a bucket stands still",
                    "`trs status --partitions` shows which; a parked bucket needs a worker of the newer version",
                )
            )
    oldest_s = max((read_at - through).total_seconds() for _, _, through in rows)
    return findings or [ok(f"{len(rows)} stages, complete through {oldest_s:.1f} s ago")]


def look_at_findings(settings: Settings) -> list[Finding]:
    """What is open: dead letters, failed checks of the data, differences with the source, runs, upkeep that failed."""
    findings = []
    with LakeSession(settings) as session:
        letters = DeadLetters(session)
        findings += [failed(f"{alarm.subject}: {alarm.message}", alarm.hint) for alarm in letters.alarms()]
        open_letters = sum(count.letters for count in letters.counts(Selection()))
        if open_letters:
            findings.append(warning(f"{open_letters} open dead letters", "`trs dead-letters list`"))
        session.create_views([QUALITY_RESULTS.name, RECONCILIATION.name, UPKEEP.name])
        for check in failed_checks(session):
            judge = failed if check.holds_fold else warning
            findings.append(judge(f"check {check.name} failed: {check.detail}", "`trs lake check`, docs/quality.md"))
        for table in last_reconciled(session):
            if table.differing > table.repaired:
                findings.append(
                    warning(f"{table.table}: {table.differing} rows differed from {table.source}", "`trs reconcile`")
                )
        findings += [
            warning(f"upkeep of {name} failed: {failure}", "`trs lake maintain` tries it again; docs/upkeep.md")
            for name, failure in session.con.sql(
                f"SELECT table_name, arg_max(coalesce(failure, ''), began_at) AS last FROM {UPKEEP.name}"
                " GROUP BY ALL HAVING last <> '' ORDER BY ALL"
            ).fetchall()
        ]
    for run in ControlLog(LakeStore(lake_location(settings))).open_runs():
        findings.append(
            warning(
                f"bootstrap run {run.run} of {run.source_name} was begun and has not ended",
                "if it does not run any more, the same command goes on with it",
            )
        )
    return findings or [ok("no open dead letters, failed checks, differences, unfinished runs or failed upkeep")]
