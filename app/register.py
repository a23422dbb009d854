"""The lake's entries in Glue: what `trs lake register` does, and from what `trs lake ddl` writes its statements."""

import difflib
from collections.abc import Sequence

from app.settings import Settings
from app.wiring import lake_location
from connectors.glue import Catalogue, GlueDatabase, Registration
from connectors.lake import LakeStore
from processors.entries.ddl import DdlEngine, ddl
from processors.entries.entry import declared_schemas, lake_entries, with_all_read
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


def lake_ddl(settings: Settings, *, engine: DdlEngine, names: Sequence[str] = (), catalog: str) -> list[str]:
    """Statements that make the entries by hand, those of the named ones and of what they read where names are given.

    Of the declared tables and views: nothing is asked of S3 or Glue. Raises UsageError.
    """
    entries = lake_entries(declared_schemas())
    known = [entry.name for entry in entries]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "`trs sql` alone lists tables and views"
            raise UsageError(f"the lake has no table or view `{name}`", hint=hint)
    wanted = with_all_read(entries, tuple(names)) if names else entries
    location, database = shared_location(settings), settings.glue_database
    return list(ddl(wanted, engine=engine, lake_uri=location, database=database, catalog=catalog))
