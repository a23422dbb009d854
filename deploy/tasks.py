"""What runs in production, declared once: command, timetable, and exactly what of the lake and of AWS it may touch.

Roles, task definitions and schedules are made of these facts, and tests hold the facts against the code. Tables are
those of processors/lake_tables.py.
"""

from dataclasses import dataclass, field

from processors.lake_tables import CONTROL_LOG, LAKE_TABLES, QUALITY_RESULTS, RECONCILIATION

ALL_TABLES = tuple(LAKE_TABLES)
GLUE_ACTIONS = ("glue:CreateTable", "glue:DeleteTable", "glue:GetTables", "glue:UpdateTable")
"""What `trs lake register` calls. The database is the foundation's: CreateDatabase is not among them."""
WEB_PORT = 6066
HEALTH_CHECK = (
    "python",
    "-c",
    f"import urllib.request as u; u.urlopen('http://127.0.0.1:{WEB_PORT}/health', timeout=5)",
)
"""Fails on 503 and on silence. The image has neither a shell's tools nor curl."""
DMS_GROUP = "trs-dms"
"""TRS_DMS_GROUP, left at its default."""
HOME = "/var/lib/trs"
WITH_DMS, WITH_BACKUPS = "WithDms", "WithBackups"
"""Conditions of the template under which a task exists."""
STOP_TIMEOUT_S = 120
"""The most that Fargate gives; a worker finishes the commit in flight and leaves the group, mostly within seconds."""


@dataclass(frozen=True)
class Task:
    """One program in its own role.

    `every`: EventBridge Scheduler's expression, None for a service that always runs. `lake`: whether it reads the
    lake; `writes`: tables in which it puts objects; `deletes`: whether it may take objects of these away; `personal`:
    whether it reads rows of tables with personal data. `kafka`, `database`: what it connects to; `dms`: whether it
    reads DMS's topics; `transactions`: how its transactional ids begin, with the wildcard. `backs_up`:
    whether it reads and writes the place of backups. `condition`: under which it exists, None: always. `minutes`: what
    one run is taken to last in the estimate of costs. Parameters of the template may stand in `command`: `${Name}`.
    """

    name: str
    doc: str
    command: tuple[str, ...]
    every: str | None
    lake: bool = True
    writes: tuple[str, ...] = ()
    deletes: bool = False
    personal: bool = False
    kafka: bool = False
    database: bool = False
    dms: bool = False
    transactions: str | None = None
    glue: tuple[str, ...] = ()
    backs_up: bool = False
    condition: str | None = None
    cpu: int = 1024
    memory_mb: int = 4096
    minutes: float = 2.0
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def memory_for_state_mb(self) -> int:
        """TRS_MEMORY_MB: half; the other half is for what is fetched, decoded and written meanwhile."""
        return self.memory_mb // 2


WORKER = Task(
    "worker",
    "Keeps the lake up to date. It deletes nothing: upkeep is another task's, with another role.",
    ("worker", "--wait"),
    None,
    writes=ALL_TABLES,  # it makes those that are missing
    personal=True,
    kafka=True,
    environment={"TRS_UPKEEP_BUDGET_PERCENT": "0", "TRS_CLOUDWATCH_METRICS": "true"},
)

TRANSLATOR = Task(
    "translator",
    "Makes row events of what AWS DMS sends; runs where UseDms is true.",
    ("dms", "translate"),
    None,
    lake=False,
    kafka=True,
    dms=True,
    transactions=f"${{TopicPrefix}}.{DMS_GROUP}.*",
    condition=WITH_DMS,
)

SCHEDULED = (
    Task(
        "diff",
        "Sends what differs between the source and the lake; switched off once change data capture is on.",
        ("bootstrap", "diff", "--source", "mysql"),
        "rate(15 minutes)",
        writes=(CONTROL_LOG.name,),
        personal=True,
        kafka=True,
        database=True,
        transactions="trs-bootstrap-*",
    ),
    Task(
        "reconcile",
        "Checks that the lake holds what the source holds.",
        ("reconcile", "--source", "mysql"),
        "cron(30 2 * * ? *)",
        writes=(RECONCILIATION.name,),
        personal=True,
        kafka=True,
        database=True,
        transactions="trs-bootstrap-*",
        minutes=10.0,
    ),
    Task(
        "maintain",
        "Folds, compacts, writes checkpoints, vacuums. The only task that may delete objects of the lake.",
        ("lake", "maintain"),
        "rate(30 minutes)",
        writes=ALL_TABLES,
        deletes=True,
        personal=True,
    ),
    Task(
        "check",
        "Makes the declared checks of the data.",
        ("lake", "check"),
        "cron(15 3 * * ? *)",
        writes=(QUALITY_RESULTS.name,),
    ),
    Task(
        "register",
        "Keeps the entries in Glue as the lake is, for Athena and Trino.",
        ("lake", "register"),
        "cron(45 3 * * ? *)",
        glue=GLUE_ACTIONS,
        minutes=1.0,
    ),
    Task(
        "backup",
        "Copies what is new in the lake to the place of this month; runs where BackupBucket is given.",
        ("lake", "backup", "--monthly", "s3://${BackupBucket}/${BackupPrefix}"),
        "cron(15 1 * * ? *)",
        personal=True,
        backs_up=True,
        condition=WITH_BACKUPS,
    ),
)

SERVICES = (WORKER, TRANSLATOR)
TASKS = (*SERVICES, *SCHEDULED)
