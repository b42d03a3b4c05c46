"""The type of a readiness or liveness check."""

from collections.abc import Callable

Probe = Callable[[], str | None]
"""Returns None while all is well, else the reason for people. Must be quick and must not raise."""
