"""Runs a feature set's SQL file: the same text in batch, over everything, and in the stream, over touched accounts."""

from processors.features.feature_set import FeatureSet


def derive_sql(feature_set: FeatureSet) -> str:
    """The set's rows as SQL in parentheses: the declared columns, in order, cast to their declared types.

    Reads the relations of its grain (processors/features/feature_set.py), which must be visible where
    the SQL runs. A value out of its declared type's range is DuckDB's error.
    """
    columns = ",\n  ".join(f"CAST({c.name} AS {c.sql_type}) AS {c.name}" for c in feature_set.columns)
    return f"(\nSELECT\n  {columns}\nFROM (\n{feature_set.sql}\n) AS derived\n)"
