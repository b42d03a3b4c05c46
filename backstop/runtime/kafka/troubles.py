"""What processes say is wrong with themselves, in the headers of their records on `clock`; `serve` tells it on.

Consumer groups show which process is gone, not which one has a full disk. A process asks for the broker's time every
`ASK_EVERY_S` anyway (`backstop.runtime.kafka.broker_clock`), and that record names what its own probes complain of.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from backstop.runtime.kafka.broker_clock import ASK_EVERY_S
from backstop.runtime.kafka.lives import Lives, ShortLives
from backstop.runtime.process.clock import NowMs
from backstop.runtime.process.identity import life_from, name_from, own_life, own_name
from backstop.runtime.process.probes import Probe

PROCESS: Final = "process"
LIFE: Final = "life"
TROUBLE: Final = "trouble"

HEARD_MS: Final = int(4 * ASK_EVERY_S * 1000)
"""A complaint is told for so long after it was last heard, also of a process that has ended since."""
SAID_CHARS_MAX: Final = 300
PROCESSES_MAX: Final = 100
"""Processes in trouble that are remembered."""

Headers = Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Trouble:
    """What one process complains of. `since_ms`: of the first record in a row that complained."""

    place: str
    component: str
    said: str
    since_ms: int
    heard_ms: int


def trouble_headers(component: str, probe: Probe) -> list[tuple[str, bytes]]:
    """The headers of a record on `clock`: this process, its start and age, and what it complains of now."""
    said = probe()
    named = [(PROCESS, str(own_name(component)).encode()), (LIFE, own_life().encode())]
    return named if said is None else [*named, (TROUBLE, said[:SAID_CHARS_MAX].encode())]


class Troubles:
    """What the processes complain of, by the records of `clock`."""

    def __init__(self, now_ms: NowMs) -> None:
        self._now_ms = now_ms
        self._by_process: dict[str, Trouble] = {}
        self.lives = Lives()

    def heard(self, headers: Iterable[tuple[str, bytes]], at_ms: int) -> None:
        """Take the headers of a record. Any producer may have written it, so they are parsed strictly, else ignored."""
        given: Mapping[str, bytes] = dict(headers)
        process = name_from((given.get(PROCESS) or b"").decode(errors="replace"))
        if process is None:
            return
        life = life_from((given.get(LIFE) or b"").decode(errors="replace"))
        if life is not None:
            self.lives.heard(process, *life, at_ms)
        before = self._by_process.pop(process.place, None)
        said = _line(given.get(TROUBLE) or b"")
        if not said:
            return
        since_ms = at_ms if before is None else before.since_ms
        self._by_process[process.place] = Trouble(process.place, process.component, said, since_ms, at_ms)
        while len(self._by_process) > PROCESSES_MAX:
            del self._by_process[next(iter(self._by_process))]

    def now(self) -> list[Trouble]:
        """Those in force, in the order of the processes' names."""
        since_ms = self._now_ms() - HEARD_MS
        return sorted(
            (each for each in self._by_process.values() if each.heard_ms >= since_ms), key=lambda each: each.place
        )

    def short_lives(self) -> list[ShortLives]:
        """Processes that end again and again soon after their start."""
        return self.lives.short(self._now_ms())

    def count(self) -> int:
        """How many are told."""
        return len(self.now()) + len(self.short_lives())


def _line(said: bytes) -> str:
    """One line of printable characters: it is shown on terminals and the page."""
    text = said.decode(errors="replace")[:SAID_CHARS_MAX]
    return "".join(each if each.isprintable() else "?" for each in text).strip()
