"""The feature sets of this installation: those that are shipped, and those of the folder that TRS_FEATURE_SETS names.

Adding one = one SQL file and one TOML file of its name (docs/feature_sets.md). Tables, topics, views, stages and checks
are declared from these at import, so every process of an installation must be given the same folder.
"""

import os
from pathlib import Path

from processors.features.feature_set import FeatureColumn, FeatureSet
from processors.features.set_files import read_feature_sets

__all__ = [
    "ACCOUNT_FEATURES",
    "FEATURE_SETS",
    "FOLDER_VARIABLE",
    "INVOICE_FEATURES",
    "SETS_BY_ACCOUNT",
    "SETS_BY_ARTICLE",
    "FeatureColumn",
    "FeatureSet",
    "feature_set",
]

FOLDER_VARIABLE = "TRS_FEATURE_SETS"

_SHIPPED = {s.name: s for s in read_feature_sets(Path(__file__).parent, what="the program")}
INVOICE_FEATURES = _SHIPPED.pop("invoice_features")
ACCOUNT_FEATURES = _SHIPPED.pop("account_features")


def _further() -> tuple[FeatureSet, ...]:
    """The sets of the folder that the environment names. Raises SettingsError."""
    folder = os.environ.get(FOLDER_VARIABLE)
    taken = (INVOICE_FEATURES.name, ACCOUNT_FEATURES.name, *_SHIPPED)
    return read_feature_sets(Path(folder), what=FOLDER_VARIABLE, taken=taken, check_sql=True) if folder else ()


FEATURE_SETS: tuple[FeatureSet, ...] = (INVOICE_FEATURES, ACCOUNT_FEATURES, *_SHIPPED.values(), *_further())

SETS_BY_ACCOUNT = tuple(s for s in FEATURE_SETS if s.grain != "article")
SETS_BY_ARTICLE = tuple(s for s in FEATURE_SETS if s.grain == "article")
"""Where there is one, the worker has a third stage that takes charged lines by article (decision 17)."""


def feature_set(name: str) -> FeatureSet | None:
    """The declared set of that name, or None."""
    return next((f for f in FEATURE_SETS if f.name == name), None)
