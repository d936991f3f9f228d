"""Benchmarks by name; each prints a table and writes `runs/bench/NAME.json`."""
