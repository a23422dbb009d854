"""Places of further lakes beside the one of the settings."""

from pathlib import Path

from app.settings import Settings
from app.wiring import s3_options
from connectors.lake import LakeLocation

SKIPPED_RUNS = 1000
"""Run numbers that a new lake passes over: those that another one gave are in the topics (R3)."""


def location_of(settings: Settings, place: str) -> LakeLocation:
    """A place of the user's, reached as the lake is."""
    uri = place.rstrip("/")
    if uri.startswith("s3://"):
        return LakeLocation(uri, s3_options(settings))
    return LakeLocation(str(Path(uri).absolute()))
