"""Which checks there are, and in which order they are told."""

from collections.abc import Callable
from functools import partial

from app.doctor import kafka, lake, machine, source
from app.doctor.checks import LIMIT_S, Check, Checked, Finding, failed, make_checks, not_looked_at, ok, warning
from app.local_workers import SILENT, local_workers
from app.settings import Settings, load_settings
from processors.errors import SettingsError

REACH_LIMIT_S = 12.0
"""For whether something answers at all: where nothing does, everything is told within that."""
_OF_SETTINGS: tuple[tuple[str, Callable[[Settings], list[Finding]], tuple[str, ...]], ...] = (
    ("disk", machine.look_at_disk, ()),
    ("memory", machine.look_at_memory, ()),
    ("kafka", kafka.look_at_brokers, ()),
    ("topics", kafka.look_at_topics, ("kafka",)),
    ("newest records", kafka.look_at_newest_records, ("kafka",)),
    ("group", kafka.look_at_group, ("kafka",)),
    ("lake", lake.look_at_place, ()),
    ("lake write access", lake.look_at_write_access, ("lake",)),
    ("lake format", lake.look_at_format, ("lake",)),
    ("lake buckets", lake.look_at_buckets, ("lake",)),
    ("lake clock", lake.look_at_clock, ("lake",)),
    ("lake freshness", lake.look_at_freshness, ("lake",)),
    ("lake findings", lake.look_at_findings, ("lake",)),
    ("positions", kafka.look_at_positions, ("kafka", "lake")),
    ("source", source.look_at_server, ()),
    ("source tables", source.look_at_tables, ("source",)),
    ("source binlog", source.look_at_capture, ("source",)),
    ("source clock", source.look_at_clock, ("source",)),
    ("kafka connect", source.look_at_connect, ()),
)


def examine(*, made: Callable[[Checked], None] = lambda _checked: None) -> tuple[Checked, ...]:
    """Makes every check. Settings that are wrong are a failed check, and what needs them is not looked at."""
    try:
        settings: Settings | None = load_settings()
    except SettingsError as error:
        settings, wrong = None, failed(error.message, error.hint or "`trs settings --describe`")
    if settings is None:
        checks = [Check("settings", lambda: [wrong])]
        rest = [Check(name, list, ("settings",)) for name, _, _ in _OF_SETTINGS]
    else:
        checks = [Check("settings", partial(machine.look_at_settings, settings))]
        rest = [
            Check(name, partial(look, settings), needs, LIMIT_S if needs else REACH_LIMIT_S)
            for name, look, needs in _OF_SETTINGS
        ]
        rest.append(Check("workers here", partial(look_at_workers, settings)))
    return make_checks([*checks, Check("packages", machine.look_at_packages), *rest], made=made)


def look_at_workers(settings: Settings) -> list[Finding]:
    """The pages of the workers of this TRS_HOME."""
    workers = local_workers(settings.home)
    if not workers:
        return [not_looked_at("no worker runs in this TRS_HOME")]
    findings = []
    for worker in workers:
        if worker.phase == SILENT:
            findings.append(failed(f"worker {worker.pid} does not answer", "see its log; stop it if it hangs"))
        elif worker.upkeep_failure is not None:
            findings.append(warning(str(worker), "docs/upkeep.md"))
        else:
            findings.append(ok(str(worker)))
    return findings
