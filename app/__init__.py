"""Wiring only: settings, command line, the Faust app and its web pages. No logic of a row or a feature."""
