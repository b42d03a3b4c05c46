"""Counts the polls of a response after its webhook that did not find an end."""

from collections import OrderedDict

HINTS_MAX = 10_000


class Hints:
    """In memory only: a loss delays a detection by a few seconds."""

    def __init__(self, hints_max: int = HINTS_MAX) -> None:
        self._max = hints_max
        self._vain: OrderedDict[str, int] = OrderedDict()

    def in_vain(self, response_id: str, *, webhook: bool) -> int | None:
        """A poll found no end. Returns the number of such polls before it since the webhook; None without a webhook."""
        vain = 0 if webhook else self._vain.get(response_id, -2) + 1
        if vain < 0:
            return None
        self._vain[response_id] = vain
        self._vain.move_to_end(response_id)
        while len(self._vain) > self._max:
            self._vain.popitem(last=False)
        return vain

    def ended(self, response_id: str) -> None:
        self._vain.pop(response_id, None)
