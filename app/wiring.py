"""Settings turned into what connectors and probes take, and the worker's engine put together."""

import os
import socket
import ssl
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from app.settings import Settings
from connectors.kafka_config import IAM, KafkaConfig
from processors.errors import SettingsError, UsageError

if TYPE_CHECKING:
    from app.memory import MemoryPlan
    from app.probes import Limits
    from batch_bootstrap.source import Source
    from connectors.delta_lake import DeltaLake
    from connectors.faust_transport import ConsumerOptions
    from connectors.lake import LakeLocation
    from connectors.mysql import DatabaseUrl
    from connectors.store_watch import StoreWatch
    from processors.engine import StreamEngine
    from processors.fold import FoldPolicy


def kafka_config(settings: Settings) -> KafkaConfig:
    """How to reach the Kafka cluster. Raises SettingsError for settings that cannot work."""
    security, ca_file, tokens = settings.kafka_security, settings.kafka_ca_file, None
    if security == IAM:
        from connectors.msk_iam import IamTokens

        tokens = IamTokens(settings.aws_region)
    elif security.startswith("sasl") and (settings.kafka_user is None or settings.kafka_password is None):
        raise SettingsError(f"TRS_KAFKA_SECURITY={security} needs TRS_KAFKA_USER and TRS_KAFKA_PASSWORD")
    if ca_file is not None and not ca_file.is_file():
        raise SettingsError(f"TRS_KAFKA_CA_FILE: there is no file {ca_file}")
    return KafkaConfig(
        bootstrap_servers=settings.kafka,
        security=security,
        sasl_mechanism=settings.kafka_sasl_mechanism,
        user=settings.kafka_user,
        password=None if settings.kafka_password is None else settings.kafka_password.get_secret_value(),
        ca_file=None if ca_file is None else str(ca_file),
        replication=settings.replication,
        tokens=tokens,
    )


def consumer_options(settings: Settings, kafka: KafkaConfig, plan: "MemoryPlan") -> "ConsumerOptions":
    """The consumer's side of the Kafka settings."""
    from connectors.aiokafka_tokens import TokenProvider
    from connectors.faust_transport import ConsumerOptions

    security: dict[str, Any] = {"security_protocol": kafka.protocol.upper()}
    if kafka.tokens is not None:
        security["sasl_mechanism"] = "OAUTHBEARER"
        security["sasl_oauth_token_provider"] = TokenProvider(kafka.tokens)
    elif kafka.security.startswith("sasl"):
        security["sasl_mechanism"] = kafka.sasl_mechanism
        security["sasl_plain_username"] = kafka.user
        security["sasl_plain_password"] = kafka.password
    if kafka.protocol.endswith("ssl"):
        security["ssl_context"] = ssl.create_default_context(cafile=kafka.ca_file)
    return ConsumerOptions(
        bootstrap_servers=kafka.bootstrap_servers,
        group=settings.group,
        session_timeout_s=settings.session_timeout_s,
        security=security,
        partition_bytes=plan.partition_bytes,
        fetch_bytes=plan.fetch_bytes,
    )


def database_url(settings: Settings) -> "DatabaseUrl":
    """The source database. Raises SettingsError where none is set, UsageError for what is no URL."""
    from connectors.mysql import DatabaseUrl

    if settings.database is None:
        raise SettingsError("no source database is set", hint="set TRS_DATABASE")
    ca_file = database_ca_file(settings)
    try:
        return DatabaseUrl.parse(settings.database.get_secret_value(), ca_file=ca_file)
    except UsageError as error:
        raise SettingsError(f"TRS_DATABASE: {error.message}", hint=error.hint) from None


def database_ca_file(settings: Settings) -> str | None:
    """The certificates that every connection to a database is held against. Raises SettingsError for a missing file."""
    file = settings.database_ca_file
    if file is not None and not file.is_file():
        raise SettingsError(f"TRS_DATABASE_CA_FILE: there is no file {file}")
    return None if file is None else str(file)


def lake_location(settings: Settings) -> "LakeLocation":
    """Where the lake is and how to reach its store."""
    from connectors.lake import LakeLocation

    return LakeLocation(settings.lake_uri, s3_options(settings) if settings.lake_uri.startswith("s3://") else {})


def s3_options(settings: Settings) -> dict[str, str]:
    """How S3 is reached, as delta-rs names it."""
    options = {"AWS_REGION": settings.aws_region}
    if settings.aws_endpoint is not None:
        options |= {"AWS_ENDPOINT_URL": settings.aws_endpoint, "AWS_ALLOW_HTTP": "true"}
    if settings.aws_access_key is not None and settings.aws_secret_key is not None:
        options["AWS_ACCESS_KEY_ID"] = settings.aws_access_key.get_secret_value()
        options["AWS_SECRET_ACCESS_KEY"] = settings.aws_secret_key.get_secret_value()
    return options


def opened_source(settings: Settings, spec: str, **options: Any) -> "Source":
    """The source that `spec` names (`options`: see batch_bootstrap/source.py), with the settings' database and S3."""
    from batch_bootstrap.source import open_source

    database = None if settings.database is None else settings.database.get_secret_value()
    return open_source(
        spec,
        database=database,
        database_ca_file=database_ca_file(settings),
        s3_options=s3_options(settings),
        **options,
    )


def fold_policy(settings: Settings) -> "FoldPolicy":
    """When the worker folds."""
    from processors.fold import FoldPolicy

    return FoldPolicy(
        min_rows=settings.fold_min_rows,
        share_percent=settings.fold_share_percent,
        max_age_s=settings.fold_max_age_s,
    )


def limits_of(settings: Settings) -> "Limits":
    """When the worker is in trouble, by its settings."""
    from app.probes import Limits

    return Limits(
        stuck_epoch_s=settings.stuck_epoch_s,
        stuck_loop_s=settings.stuck_loop_s,
        rest_s=max(settings.idle_epoch_s, settings.epoch_interval_s),
        broker_lost_s=settings.broker_lost_s,
        lag_grows_s=settings.lag_grows_s,
        lag_records=settings.lag_records,
    )


def store_watch(settings: Settings) -> "AbstractContextManager[StoreWatch | None]":
    """While it is open, the log tells when the lake's object store does not answer; None for a folder."""
    from connectors.store_watch import StoreWatch

    location = lake_location(settings)
    if not location.uri.startswith("s3://"):
        return nullcontext()
    return StoreWatch(location.uri, location.storage_options)


def build_engine(settings: Settings, topic_ids: Mapping[str, str], plan: "MemoryPlan") -> "StreamEngine":
    """The worker's engine. Makes the lake's tables where they are missing.

    Raises UnavailableError while the store does not answer, and SettingsError for another number of partitions, or
    other SQL under a known version, than the lake has.
    """
    from app.backup_manifest import check_is_for_workers
    from app.spill_folder import make_spill_folder
    from connectors.kafka import KafkaDocumentSink
    from connectors.store_check import check_store
    from processors.engine import EngineConfig, StreamEngine
    from processors.tables import CHARGED_LINES_TOPIC, DERIVED_TOPICS, DOCUMENTS_TOPIC, topic_of

    location = lake_location(settings)
    check_store(location)
    check_is_for_workers(location)
    lake = _agreed_lake(location, settings.partitions)
    sinks = {
        name: KafkaDocumentSink(
            kafka_config(settings),
            topic_of(settings.topic_prefix, name),
            partitions=settings.partitions,
            queue_kbytes=plan.queue_kbytes,
        )
        for name in DERIVED_TOPICS
    }

    return StreamEngine(
        EngineConfig(
            topic_prefix=settings.topic_prefix,
            partitions=settings.partitions,
            source_names=settings.source_names,
            price_at=settings.price_at,
            interval_s=settings.epoch_interval_s,
            max_events=plan.max_events,
            idle_s=settings.idle_epoch_s,
            memory_mb=plan.state_mb,
            inbox_bytes=plan.inbox_bytes,
            threads=settings.threads,
            spill=make_spill_folder(settings.home),
            dead_letter_stop=frozenset(settings.dead_letter_stop),
        ),
        lake=lake,
        sink=sinks[DOCUMENTS_TOPIC],
        lines_sink=sinks.get(CHARGED_LINES_TOPIC),
        topic_ids=topic_ids,
        writer=f"{socket.gethostname()}:{os.getpid()}",
    )


def _agreed_lake(location: "LakeLocation", partitions: int) -> "DeltaLake":
    """The lake with all its tables. A worker that is refused has changed nothing: others write the lake as it is."""
    from connectors.delta_lake import DeltaLake
    from processors.features.declarations import FEATURE_SETS
    from processors.installation import agree
    from processors.lake_tables import CONTROL_LOG, SKU_LOG

    lake = DeltaLake(location, create=False)
    is_old = {CONTROL_LOG.name, SKU_LOG.name} <= lake.store.present()
    if not is_old:
        lake = DeltaLake(location)
    agree(lake.control, lake.fenced(SKU_LOG.name), partitions=partitions, feature_sets=FEATURE_SETS)
    return DeltaLake(location) if is_old else lake
