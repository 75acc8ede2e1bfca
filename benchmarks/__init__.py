"""Figures, measured here and now; ``python -m benchmarks`` prints them all. Timings decide nothing in the tests."""
