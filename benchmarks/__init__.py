"""Measurements: `python -m benchmarks.NAME --json` prints one JSON object, a baseline measured in the same run."""
