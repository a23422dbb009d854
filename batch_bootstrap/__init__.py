"""Emitters of row events from a source at rest: the same events as change data capture would send."""
