"""The public face: the version, and `trs.lake` for notebooks."""

__version__ = "0.1.0"
