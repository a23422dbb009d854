"""Benchmarks: each prints value and unit, and writes JSON; run by `make bench`."""
