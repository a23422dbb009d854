"""Every setting, declared once: environment variable, type, default, unit and meaning.

Precedence: environment variable, `.env` in the working directory, the running embedded stack (its own file below
`TRS_HOME`), default. `trs settings` shows each with its origin.
"""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from app.durations import PATTERN
from connectors.secret_references import is_reference, resolve
from processors.errors import SettingsError, TrsError
from processors.reasons import Reason, parse_reasons

ENV_PREFIX = "TRS_"
STACK_FILE = "devstack/env.json"
"""Below TRS_HOME: written by `trs devstack up`, removed by `down`; environment variables as a JSON object, and the
stack's process ids under `pids`."""
FOR_DEVELOPMENT = frozenset({"TRS_TEST_HOME", "TRS_EXTRACTS"})
"""Variables of the tests and benchmarks: no settings, but not mistaken ones either."""


def default_home() -> Path:
    """Where state lives unless TRS_HOME says otherwise: `.trs` in the working directory."""
    return Path.cwd() / ".trs"


class StackSource(PydanticBaseSettingsSource):
    """Values of the running embedded stack, so that commands find it by themselves.

    A file whose processes are all gone (the machine was restarted) counts as none.
    """

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self().get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        home = Path(self.current_state.get("home") or default_home())  # as the sources that win over this one say
        try:
            values = json.loads((home / STACK_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        if not any(lives(pid) for pid in values.pop("pids", ())):
            return {}
        fields = self.settings_cls.model_fields
        names = {k.removeprefix(ENV_PREFIX).lower(): v for k, v in values.items()}
        return {k: v for k, v in names.items() if k in fields}


class Settings(BaseSettings):
    """All settings of every command. Field names are the variables' names without `TRS_`, in lower case."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_file=".env", extra="ignore", frozen=True, env_ignore_empty=True
    )

    home: Path = Field(default_factory=default_home, description="Folder of all local state.")

    kafka: str = Field("localhost:9092", description="Bootstrap servers of the Kafka cluster, comma-separated.")
    kafka_security: Literal["plaintext", "ssl", "sasl_ssl", "sasl_plaintext", "sasl_iam"] = Field(
        "plaintext", description="Security protocol of the brokers; sasl_iam: MSK's logins of IAM roles."
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="SASL mechanism, with a sasl_* security protocol."
    )
    kafka_user: str | None = Field(None, description="SASL user.")
    kafka_password: SecretStr | None = Field(None, description="SASL password.")
    kafka_ca_file: Path | None = Field(None, description="CA certificates that the brokers' certificates chain to.")
    topic_prefix: str = Field("aurora.trs", description="Topics are named PREFIX.table.", pattern=r"^[A-Za-z0-9._-]+$")
    partitions: int = Field(8, ge=1, le=1024, description="Partitions of every keyed topic; fixed at installation.")
    replication: int = Field(1, ge=1, le=5, description="Replication factor of topics that we create.")
    group: str = Field("trs-worker", description="Kafka consumer group of the workers.")

    database: SecretStr | None = Field(
        None,
        description="The source database: mysql://USER:PASSWORD@HOST:PORT/DATABASE, by TLS; ?tls=off: in the clear.",
    )
    database_ca_file: Path | None = Field(
        None, description="CA certificates that the database's one chains to. Default: those that the system trusts."
    )
    source_names: Annotated[tuple[str, ...], NoDecode] = Field(
        ("aurora",), description="Names of sources with a binlog, oldest first, comma-separated (R2)."
    )

    connect: SecretStr = Field(
        SecretStr("http://localhost:8083"),
        description="Kafka Connect's REST API: http://HOST:PORT, or https://USER:PASSWORD@HOST:PORT.",
    )
    connector: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9._-]+$",
        description="Name of the connector. Default: trs-NAME with the newest of TRS_SOURCE_NAMES.",
    )
    connector_options: SecretStr | None = Field(
        None,
        description="Further options of Debezium's connector, which win over ours, as a JSON object; null takes one "
        "out, kafka.NAME goes to its own Kafka clients.",
    )

    dms_topic_prefix: str = Field(
        "dms.trs",
        pattern=r"^[A-Za-z0-9._-]+$",
        description="AWS DMS writes to topics PREFIX.table, and what is of no table to PREFIX.control.",
    )
    dms_schema: str | None = Field(
        None, description="The source database whose rows AWS DMS sends. Default: the database of TRS_DATABASE."
    )
    dms_load_position: str | None = Field(
        None,
        description="Binlog position noted before AWS DMS began to load whole tables, as mysql-bin.000024:373; "
        "without it their rows are refused.",
    )
    dms_group: str = Field("trs-dms", description="Kafka consumer group of the translators of AWS DMS's records.")

    lake: str = Field("", description="Root of the lake: s3://BUCKET/PREFIX or a folder. Default: TRS_HOME/lake.")
    aws_region: str = Field("us-east-1", description="AWS region.")
    aws_endpoint: str | None = Field(None, description="Endpoint of an S3 and Glue server other than AWS.")
    aws_access_key: SecretStr | None = Field(
        None, description="Access key for that server; on AWS leave it to the task role."
    )
    aws_secret_key: SecretStr | None = Field(None, description="Secret key for that server.")

    glue_database: str = Field(
        "trs", pattern=r"^[a-z0-9_]+$", description="Database of Glue in which `trs lake register` registers the lake."
    )
    glue_endpoint: str | None = Field(
        None, description="Endpoint of a Glue server other than AWS. Default: TRS_AWS_ENDPOINT."
    )

    price_at: Literal["creation", "current"] = Field(
        "creation", description="Which price a line is charged: of its creation, or today's."
    )
    feature_sets: Path | None = Field(
        None,
        description="Folder of further feature sets; in the environment of every process, not in `.env`.",
    )
    epoch_interval_s: float = Field(10.0, gt=0, le=3600, description="Seconds between commits of a stage.")
    epoch_max_events: int = Field(400_000, ge=1, description="Events after which a commit starts early.")
    idle_epoch_s: float = Field(30.0, gt=0, description="Seconds after which an idle bucket commits an empty epoch.")
    dead_letter_stop: Annotated[tuple[Reason, ...], NoDecode] = Field(
        (), description="Reasons of refusal at which the worker stops, comma-separated; see `trs dead-letters reasons`."
    )
    memory_mb: int = Field(
        2000, ge=64, description="Memory for the worker's state in MB; beyond it, it spills to disk."
    )
    memory_budget_mb: int | None = Field(
        None,
        ge=1,
        description="Memory of the whole worker in MB, in place of TRS_MEMORY_MB: divided among state, what waits, "
        "is fetched and is sent. Default: the container's limit where TRS_MEMORY_MB is not set.",
    )
    threads: int = Field(default_factory=lambda: os.cpu_count() or 2, ge=1, description="Threads for computation.")
    fold_min_rows: int = Field(100_000, ge=1, description="New rows in a log before the worker folds it.")
    fold_share_percent: float = Field(
        25.0, ge=0, le=100, description="New rows before the worker folds a log, in percent of those folded already."
    )
    fold_max_age_s: float = Field(
        86_400.0, gt=0, description="Seconds after which the worker folds a log that has any new row."
    )
    time_travel_days: int = Field(
        7, ge=1, le=3650, description="Days for which a version of a table can be read that is not the newest any more."
    )
    upkeep_every: str = Field(
        "5m",
        pattern=PATTERN,
        description="How often a worker looks what upkeep is due (fold, compact, …), as 5m or 1h.",
    )
    upkeep_budget_percent: float = Field(
        10.0, ge=0, le=100, description="Share of the time that a worker's upkeep may take; 0: workers do none."
    )
    upkeep_budget_mb: int = Field(
        2000, ge=1, description="MB of files that one round of upkeep rewrites at most, folds left out."
    )
    reconcile_every: str | None = Field(
        None,
        pattern=PATTERN,
        description="How often a worker compares TRS_DATABASE with the lake, as 90s, 15m or 1h. Default: never.",
    )
    history_tiers: str = Field(
        "90d:all,365d:day,*:month",
        description="What `trs lake retain` keeps of the history of features, by age (docs/retention.md).",
    )
    quality_checks: Path | None = Field(
        None, description="TOML file of further checks of the lake's data (docs/quality.md)."
    )
    quality_gate: bool = Field(True, description="Whether failed checks may hold back folds.")
    stuck_epoch_s: float = Field(
        120.0, gt=0, description="Seconds without an end of an epoch, beyond those at rest, that make /ready fail."
    )
    stuck_loop_s: float = Field(
        15.0, gt=0, description="Seconds without a turn of the event loop that make /health fail."
    )
    broker_lost_s: float = Field(30.0, gt=0, description="Seconds without an answer of Kafka that make /ready fail.")
    lag_grows_s: float = Field(
        600.0, gt=0, description="Seconds of a lag that grows and grows that make /ready fail (docs/observe.md)."
    )
    lag_records: int = Field(10_000, ge=0, description="Records that may wait, whether they become more or not.")
    lake_look_s: float = Field(
        60.0, gt=0, description="Seconds between two looks at the lake's tables by the worker that owns bucket 0."
    )
    session_timeout_s: float = Field(45.0, gt=0, description="Kafka session time-out of a worker.")
    stop_timeout_s: float = Field(
        90.0, ge=1, description="Seconds that a worker that is told to stop may take to end its commit and its sends."
    )
    web_port: int = Field(6066, ge=0, le=65535, description="Port of the worker's pages; 0 picks a free one.")
    web_host: str = Field("127.0.0.1", description="Address that the worker's pages listen on.")
    traces: str | None = Field(
        None,
        pattern=r"^https?://",
        description="Where each epoch goes as a trace (OpenTelemetry, OTLP over HTTP). Default: nowhere.",
    )
    log_format: Literal["text", "json"] = Field("text", description="Format of the worker's log.")
    cloudwatch_metrics: bool = Field(
        False,
        description="Whether a worker's JSON log has a line of metrics per minute, of which CloudWatch makes some.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least severe level logged.")

    @field_validator("source_names", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(p.strip() for p in value.split(",") if p.strip()) if isinstance(value, str) else value

    @field_validator("dead_letter_stop", mode="before")
    @classmethod
    def _reasons(cls, value: object) -> object:
        return parse_reasons(value) if isinstance(value, str) else value

    @field_validator("feature_sets")
    @classmethod
    def _from_the_environment(cls, value: Path | None) -> Path | None:
        if value is not None and not os.environ.get("TRS_FEATURE_SETS"):
            raise ValueError("set it in the environment: sets are declared before `.env` is read")
        return value

    @field_validator("lake")
    @classmethod
    def _known_scheme(cls, value: str) -> str:
        if not is_place(value):
            raise ValueError("neither s3://BUCKET/PREFIX nor a folder")
        return value

    @field_validator("dms_load_position")
    @classmethod
    def _binlog_place(cls, value: str | None) -> str | None:
        from connectors.dms import Place

        if value is not None:
            Place.parse(value)
        return value

    @field_validator("connector_options")
    @classmethod
    def _json_object(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not is_reference(value.get_secret_value()):
            parse_options(value.get_secret_value())
        return value

    @property
    def lake_uri(self) -> str:
        """The lake's root without a trailing slash: `s3://…` or an absolute path."""
        if self.lake.startswith("s3://"):
            return self.lake.rstrip("/")
        return str(Path(self.lake).absolute() if self.lake else (self.home / "lake").absolute())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, dotenv_settings, StackSource(settings_cls)


def is_place(text: str) -> bool:
    """Whether a lake or a backup may be there: a folder, or S3."""
    scheme, separator, rest = text.partition("://")
    return not separator or (scheme == "s3" and bool(rest.strip("/")))


def parse_options(text: str) -> dict[str, str | None]:
    """A connector's options from a JSON object, values as Kafka Connect takes them: text. Raises ValueError."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos}") from None
    if not isinstance(values, dict) or any(isinstance(v, dict | list) for v in values.values()):
        raise ValueError("not a JSON object of names and simple values")
    return {n: v if v is None or isinstance(v, str) else json.dumps(v) for n, v in values.items()}


def lives(pid: int) -> bool:
    """Whether a process with this id runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def variable(field_name: str) -> str:
    """The environment variable of a setting."""
    return ENV_PREFIX + field_name.upper()


def load_settings(**overrides: Any) -> Settings:
    """The settings of this process, secrets in place of references to them (docs/security.md).

    Raises SettingsError that names every wrong variable, AccessDeniedError or UnavailableError for a secret.

    A variable that looks like a setting but is none is told once per process, on stderr.
    """
    _warn_of_unknown_variables()
    try:
        settings = Settings(**overrides)
        secrets = _referred_to(settings)
        return Settings(**(overrides | secrets)) if secrets else settings
    except ValidationError as error:
        wrong = [
            f"{variable(str(e['loc'][0])) if e['loc'] else ENV_PREFIX + '*'}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors(include_url=False, include_input=False)
        ]
        raise SettingsError("; ".join(wrong), hint="`trs settings --describe` lists every setting") from None


def _referred_to(settings: Settings) -> dict[str, str]:
    """The secrets that settings name instead of holding them. Raises what `resolve` does, with the variable's name."""
    found = {}
    for name in (n for n, f in Settings.model_fields.items() if n == "kafka_user" or "SecretStr" in str(f.annotation)):
        value = getattr(settings, name)
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if text is not None and is_reference(text):
            try:
                found[name] = resolve(text, settings.aws_region)
            except TrsError as error:
                error.message = f"{variable(name)}: {error.message}"
                raise
    return found


@dataclass(frozen=True)
class Origin:
    """Where a setting's value comes from: environment, .env, embedded stack or default."""

    name: str
    detail: str | None = None


def origins(settings: Settings) -> dict[str, Origin]:
    """The origin of every setting, by field name, in the order of declaration."""
    stack = StackSource(Settings)
    stack._set_current_state({"home": settings.home})
    sources = (
        (Origin("environment"), EnvSettingsSource(Settings)()),
        (Origin(".env", str(Path.cwd() / ".env")), DotEnvSettingsSource(Settings)()),
        (Origin("embedded stack", str(settings.home / STACK_FILE)), stack()),
    )
    default = Origin("default")
    return {
        name: next((origin for origin, values in sources if name in values), default) for name in Settings.model_fields
    }


def unknown_variables() -> Iterator[tuple[str, str | None]]:
    """Variables of the environment and `.env` that look like settings but are none, each with the likeliest one."""
    known = {variable(name): None for name in Settings.model_fields}
    given = {*os.environ, *(name.upper() for name in DotEnvSettingsSource(Settings).env_vars)}
    for name in sorted(given):
        if name.startswith(ENV_PREFIX) and name not in known and name not in FOR_DEVELOPMENT:
            yield name, next(iter(get_close_matches(name, known, n=1)), None)


@cache
def _warn_of_unknown_variables() -> None:
    for name, likely in unknown_variables():
        advice = "`trs settings --describe` lists every setting" if likely is None else f"did you mean {likely}?"
        sys.stderr.write(f"warning: {name} is not a setting and has no effect ({advice})\n")
