"""Benchmarks: `python -m benchmarks.run NAME [--json]`; each prints one JSON line of figures."""
