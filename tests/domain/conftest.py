"""Hypothesis without chance: the same examples on every machine, no example database, no deadline."""

from hypothesis import settings

settings.register_profile("antiphon", derandomize=True, database=None, deadline=None, max_examples=150)
settings.load_profile("antiphon")
