"""Spans of time as people write them: 90s, 15m, 1h."""

_UNITS_S = {"s": 1, "m": 60, "h": 3600}
PATTERN = r"^[1-9][0-9]*[smh]$"


def seconds(text: str) -> float:
    """A span that matches PATTERN in seconds."""
    return float(int(text[:-1]) * _UNITS_S[text[-1]])
