"""Label values of metrics that come from outside: names of models, codes of the provider. Pure.

A metric keeps a time series for each value that it ever saw, so callers could make it grow without bound.
"""

from typing import Final

OTHER: Final = "other"
CHARS_MAX: Final = 60


class BoundedLabel:
    """The first `values_max` distinct values as they are, every further one as `other`."""

    def __init__(self, values_max: int) -> None:
        self._values_max = values_max
        self._known: set[str] = set()

    def of(self, value: str) -> str:
        """The label for `value`."""
        value = value[:CHARS_MAX]
        if value not in self._known:
            if len(self._known) >= self._values_max:
                return OTHER
            self._known.add(value)
        return value
