"""The lake's entries in Glue: what `trs lake register` does, and from what `trs lake ddl` writes its statements."""

from app.settings import Settings
from app.wiring import lake_location
from connectors.glue import Catalogue, GlueDatabase, Registration
from connectors.lake import LakeStore
from processors.entries.entry import lake_entries
from processors.errors import UnavailableError, UsageError


def glue_database(settings: Settings) -> GlueDatabase:
    """The database of Glue and how it is reached."""
    access, secret = settings.aws_access_key, settings.aws_secret_key
    return GlueDatabase(
        name=settings.glue_database,
        region=settings.aws_region,
        endpoint=settings.glue_endpoint or settings.aws_endpoint,
        access_key=None if access is None else access.get_secret_value(),
        secret_key=None if secret is None else secret.get_secret_value(),
    )


def shared_location(settings: Settings) -> str:
    """The lake's location, which other engines must be able to reach. Raises UsageError."""
    if not settings.lake_uri.startswith("s3://"):
        raise UsageError(
            f"the lake is the folder {settings.lake_uri}: Athena and Trino read it from S3",
            hint="let TRS_LAKE name an s3:// location",
        )
    return settings.lake_uri


def register_lake(settings: Settings, *, create_database: bool = False, dry_run: bool = False) -> Registration:
    """Registers every table and view of the lake. Raises UnavailableError where there is no lake."""
    uri = shared_location(settings)
    store = LakeStore(lake_location(settings))
    if not store.exists():
        raise UnavailableError(f"there is no lake at {uri}", hint="`trs worker` creates it")
    entries = lake_entries(store.schemas())
    catalogue = Catalogue(glue_database(settings))
    return catalogue.register(uri, entries, create_database=create_database, dry_run=dry_run)
