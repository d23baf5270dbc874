"""Settings of all tests."""

from hypothesis import settings

# The same examples at every run: a change that breaks a property is told by the change, not by a later run's luck.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")
