"""Feature sets: one SQL file each plus a short declaration."""
