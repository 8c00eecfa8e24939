"""Measurements, one file each: `python -m tests.bench.NAME [--peer]` prints one JSON line (measure.py says what is in it)."""
