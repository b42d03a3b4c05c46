"""Processes that are killed, frozen and started again. Signals go to the pid of a child that we started, and to nothing
else.
"""

import asyncio
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from backstop.dev.broker import ends_with_owner
from backstop.runtime.process.clock import monotonic_s

Kind = Literal["worker", "serve", "projection", "simulator"]
Ready = Callable[[], Awaitable[bool]]
Deal = Callable[[Kind], str]
"""What the next incarnation of a child is armed with: `name:n=action`, or nothing."""

POLL_S = 0.1
TERM_TIMEOUT_S = 45.0
"""More than `plan.DRAIN_S_MAX`: what takes longer is a violation, and is killed."""
TAIL_BYTES = 20_000
_EXCEPTION = re.compile(r"^(?:[a-z_]+\.)*([A-Z]\w*(?:Error|Exception|Fenced|Warning))\b", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Death:
    """How one incarnation ended. `how`: killed, failpoint, asked (SIGTERM), itself."""

    name: str
    kind: Kind
    how: Literal["killed", "failpoint", "asked", "itself"]
    at_s: float
    ran_s: float
    code: int
    failpoint: str = ""
    why: str = ""
    """Of one that ended by itself: the exception that it told of last."""


@dataclass(slots=True)
class Log:
    """What happened to the children, over all of them."""

    deaths: list[Death] = field(default_factory=list)
    stops: Counter[str] = field(default_factory=Counter)
    """Freezes by kind of process; those at a failpoint by its name."""
    drains_s: list[float] = field(default_factory=list)
    """From SIGTERM to the end."""

    def failpoints(self) -> Counter[str]:
        """Kills by failpoint."""
        return Counter(death.failpoint for death in self.deaths if death.how == "failpoint")

    def killed_at_ms(self, kind: Kind, now_ms: int) -> list[int]:
        """When processes of this kind were killed, by the clock that shows `now_ms` now."""
        now_s = monotonic_s()
        killed = [death for death in self.deaths if death.kind == kind and death.how in ("killed", "failpoint")]
        return [now_ms - round((now_s - death.at_s) * 1000) for death in killed]

    def kills(self) -> Counter[str]:
        """SIGKILLs by kind of process, at failpoints and elsewhere."""
        return Counter(death.kind for death in self.deaths if death.how in ("killed", "failpoint"))


class Child:
    """One program that is kept running from `start` to `stop`, whatever befalls it."""

    def __init__(
        self, name: str, kind: Kind, command: Sequence[str], environment: Mapping[str, str], folder: Path,
        log_file: Path, ready: Ready, log: Log, deal: Deal, freeze_s: float,
    ) -> None:  # fmt: skip
        self.name = name
        self.kind: Kind = kind
        self.armed = ""
        self.restart_after_s = 0.0
        """How long it stays down after its next end."""
        self._command = command
        self._environment = environment
        self._folder = folder
        self._log_file = log_file
        self._ready = ready
        self._log = log
        self._deal = deal
        self._freeze_s = freeze_s
        self._frozen_s = 0.0
        """How long it has been frozen, in all."""
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        """The keeper before this one: its process may still be on its way out."""
        self._unwanted = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self._how: Literal["killed", "asked"] | None = None
        self._frozen_by_us = False

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    @property
    def up(self) -> bool:
        return self._keeper is not None

    def start(self) -> None:
        """Keep it running from now on."""
        assert self._keeper is None
        self._unwanted = asyncio.Event()
        self._keeper = asyncio.create_task(self._keep(self._unwanted), name=f"keep-{self.name}")
        self._watcher = asyncio.create_task(self._thaw_what_is_frozen(), name=f"thaw-{self.name}")

    def set(self, settings: Mapping[str, str]) -> None:
        """Change settings, from its next start on."""
        self._environment = {**self._environment, **settings}

    def kill(self) -> bool:
        """SIGKILL; it comes back after `restart_after_s`. False where it is down already."""
        if self.pid is None:
            return False
        self._how = "killed"
        os.kill(self.pid, signal.SIGKILL)
        return True

    def freeze(self) -> bool:
        """SIGSTOP, and SIGCONT after `freeze_s`."""
        if self.pid is None or is_stopped(self.pid):
            return False
        self._frozen_by_us = True
        os.kill(self.pid, signal.SIGSTOP)
        return True

    async def until_ready(self, within_s: float = 60.0) -> float:
        """Wait until it is ready; how long that took.

        :raises TimeoutError: it is not.
        """
        began_s = monotonic_s()
        async with asyncio.timeout(within_s):
            while not (self.pid is not None and await self._ready()):
                await asyncio.sleep(POLL_S)
        return monotonic_s() - began_s

    async def stop(self, by: signal.Signals = signal.SIGTERM) -> None:
        """SIGTERM, and SIGKILL to one that does not end; or SIGKILL at once. It stays down. Harmless twice.

        One that freezes at a failpoint after its SIGTERM is thawed as any other, and its sleep is no part of its drain.
        How long a drain took is the judge's, also of one that had to be killed.
        """
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        self._ending = keeper
        self._unwanted.set()
        began_s, frozen_s = monotonic_s(), self._frozen_s
        was_up = self._ask(by)
        try:
            ended, _ = await asyncio.wait({keeper}, timeout=TERM_TIMEOUT_S + self._freeze_s)
            if was_up and by == signal.SIGTERM:
                self._log.drains_s.append(monotonic_s() - began_s - (self._frozen_s - frozen_s))
            if not ended:
                self._kill_now()
                await keeper
        except asyncio.CancelledError:
            self._kill_now()
            raise
        finally:
            if self._watcher is not None:
                self._watcher.cancel()

    def _ask(self, by: signal.Signals = signal.SIGTERM) -> bool:
        """False where nothing runs."""
        pid = self.pid
        if pid is None:
            return False
        self._how = "asked" if by == signal.SIGTERM else "killed"
        frozen = is_stopped(pid)  # one that freezes on its way is the watcher's to thaw
        with suppress(ProcessLookupError):
            os.kill(pid, by)
            if frozen:
                os.kill(pid, signal.SIGCONT)
        return True

    def kill_for_good(self) -> None:
        """At once and without waiting, for an interrupted run."""
        self._keeper = None
        self._unwanted.set()
        self._kill_now()

    def _kill_now(self) -> None:
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    async def _keep(self, unwanted: asyncio.Event) -> None:
        if self._ending is not None:
            await asyncio.gather(self._ending, return_exceptions=True)
        while True:
            self.armed = self._deal(self.kind)
            await self._spawn()
            if unwanted.is_set():  # stopped while it was being spawned
                self._ask()
            process, started_s = self._process, monotonic_s()
            assert process is not None
            code = await process.wait()
            self._let_go(process)
            self._note(code, monotonic_s() - started_s)
            wait_s, self.restart_after_s = self.restart_after_s, 0.0
            with suppress(TimeoutError):
                async with asyncio.timeout(max(wait_s, 0.001)):
                    await unwanted.wait()
            if unwanted.is_set():
                return

    async def _spawn(self) -> None:
        self._how = None
        with self._log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", ends_with_owner.__file__, "--", *self._command),
                env={**self._environment, "BACKSTOP_FAILPOINTS": self.armed}, cwd=self._folder,
                stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def _note(self, code: int, ran_s: float) -> None:
        at_s, failpoint = monotonic_s(), self.armed.partition(":")[0].partition("=")[0]
        if self._how is not None:
            death = Death(self.name, self.kind, self._how, at_s, ran_s, code)
        elif code == -signal.SIGKILL and self.armed:
            death = Death(self.name, self.kind, "failpoint", at_s, ran_s, code, failpoint)
        else:
            death = Death(self.name, self.kind, "itself", at_s, ran_s, code, why=_last_words(self._log_file))
            # What ends by itself waits a little, as under any supervisor: the broker may be away.
            self.restart_after_s = max(self.restart_after_s, 0.5)
        self._log.deaths.append(death)

    async def _thaw_what_is_frozen(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            pid = self.pid
            if pid is None or not is_stopped(pid):
                self._frozen_by_us = False
                continue
            where = self.kind if self._frozen_by_us else self.armed.partition(":")[0].partition("=")[0]
            self._log.stops[where] += 1
            await asyncio.sleep(self._freeze_s)
            self._frozen_s += self._freeze_s
            if self.pid == pid:
                os.kill(pid, signal.SIGCONT)

    def _let_go(self, process: asyncio.subprocess.Process) -> None:
        """Tell the watcher of the process that this end is known."""
        pipe = process.stdin
        if pipe is not None and not pipe.is_closing():
            with suppress(OSError):
                pipe.write(b".")
            pipe.close()


def _last_words(log_file: Path) -> str:
    with log_file.open("rb") as log:
        log.seek(max(0, os.fstat(log.fileno()).st_size - TAIL_BYTES))
        told = _EXCEPTION.findall(log.read().decode(errors="replace"))
    return told[-1] if told else ""


def is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False
