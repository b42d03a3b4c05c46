"""Chooses a process's failpoint at its start: the one of its kind that was hit least, at a hit drawn from the seed."""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, get_args

from backstop.runtime.process.failpoints import Failpoint
from tests.torture.children import Kind

KIND_OF_PREFIX: Final[Mapping[str, Kind]] = {
    "receiver": "serve", "intake": "worker", "job_fold": "worker", "response_fold": "worker", "submitter": "worker",
    "poller": "worker", "scheduler": "worker", "results": "worker", "projection": "projection",
}  # fmt: skip

FAILPOINTS: Final[tuple[str, ...]] = tuple(
    name for name in get_args(Failpoint) if name.partition(".")[0] in KIND_OF_PREFIX
)
"""Of the processes that a run has: outgoing webhooks have tests of their own (`kafka/test_outgoing.py`)."""

REBUILD: Final = "projection.rebuilding"
"""Only in `backstop readmodel rebuild`, which the schedule starts itself."""

ONCE_A_START: Final = ("recovering", "rebuilding", "tail.reading")
"""Passed a few times after a start, and then hardly again."""

HITS_MAX: Final = 150
STOPS: Final = 0.12
"""Share of the failpoints at which a process is frozen instead of killed: a zombie in the midst of a step."""
HANGS: Final = 0.3
"""Share of those at which a worker's loop hangs instead."""


def kind_of(name: str) -> Kind:
    return KIND_OF_PREFIX[name.partition(".")[0]]


class FailpointDeck:
    """Deals to the processes of one run. `share` of the starts are armed while `on`."""

    def __init__(
        self, seed: int, hits: Callable[[], Counter[str]], *, share: float, short: bool, only: Sequence[str] = ()
    ) -> None:
        self.on = False
        self._only = dict(point.partition("=")[::2] for point in only)
        self._random = random.Random(f"failpoints {seed}")
        self._hits = hits
        self._share = share
        self._short = short
        self._dealt: Counter[str] = Counter()

    def deal(self, kind: Kind) -> str:
        """`name:n=action` for the next start of a process of `kind`, or nothing."""
        names = [name for name in self._only or FAILPOINTS if name != REBUILD and kind_of(name) == kind]
        if not (self.on and names) or self._random.random() >= self._share:
            return ""
        hits = self._hits()
        # Two of a kind may start at the same moment: what was dealt lately waits behind what was not.
        fewest = min((hits[name], self._dealt[name]) for name in names)
        name = self._random.choice([name for name in names if (hits[name], self._dealt[name]) == fewest])
        if self._short and hits[name]:
            return ""
        self._dealt[name] += 1
        action = self._only.get(name) or self._action(kind)
        # Dealt before, and not hit: on a slow machine the first time must do.
        nth = 1 if self._short and self._dealt[name] > 1 else self._nth(name)
        return f"{name}:{nth}={action}"

    def missing(self, kind: Kind) -> frozenset[str]:
        """Failpoints of a kind of process at which no process was killed so far, except `REBUILD`."""
        hits = self._hits()
        return frozenset(name for name in FAILPOINTS if name != REBUILD and kind_of(name) == kind and not hits[name])

    def _action(self, kind: Kind) -> str:
        if self._short or self._random.random() >= STOPS:
            return "kill"
        # Only a worker has a watchdog that ends it when its loop hangs.
        return "hang" if kind == "worker" and self._random.random() < HANGS else "stop"

    def _nth(self, name: str) -> int:
        if name.endswith(ONCE_A_START):
            return self._random.randint(1, 2)
        return self._random.randint(1, 5) if self._short or self._only else round(HITS_MAX ** self._random.random())
