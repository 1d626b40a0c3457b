"""Hypothesis without deadlines: the cores of a test machine are shared."""

from hypothesis import settings

settings.register_profile("shared_cores", deadline=None)
settings.load_profile("shared_cores")
