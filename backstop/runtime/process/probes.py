"""What a process is asked about itself before it says that it is ready."""

from collections.abc import Callable

Probe = Callable[[], str | None]
"""None while all is well, else the reason why not, for people. Must be quick and must not raise."""
