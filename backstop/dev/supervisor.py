"""A tree of processes: started in the order of their needs, restarted after a crash, stopped in reverse order.

Each child runs in its own session: Ctrl-C at the terminal reaches only the supervisor, which then stops the children in
order. A child dies with the supervisor, even after SIGKILL (see `broker/ends_with_owner.py`). Its stdout and stderr go
to `logs/NAME.log`.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from backstop.dev.broker import ends_with_owner
from backstop.runtime.errors import BackstopError
from backstop.runtime.process.clock import monotonic_s

READY_TIMEOUT_S = 60.0
ASK_AGAIN_S = 0.05
TERM_TIMEOUT_S = 10.0
KILL_TIMEOUT_S = 5.0
BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 10.0
STEADY_AFTER_S = 30.0
"""A child that ran this long has recovered: its next crash counts as the first."""
TAIL_BYTES = 3_000

Ready = Callable[[], Awaitable[str | None]]
"""Returns None when the child is ready, else what is missing."""

Tell = Callable[[str], None]


class StartError(BackstopError):
    """A child did not start; the message ends with the end of its log, on which the operator must act."""


@dataclass(frozen=True, slots=True)
class Program:
    """One child. `needs` names the children that must be ready before it starts."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    ready: Ready
    needs: tuple[str, ...] = ()


@dataclass(slots=True)
class Child:
    """The supervisor's state of one program."""

    program: Program
    process: asyncio.subprocess.Process | None = None
    is_ready: asyncio.Event = field(default_factory=asyncio.Event)
    started_s: float = 0.0
    restarts: int = 0
    crashes_in_a_row: int = 0


class Supervisor:
    """Owns the children from `start` to `stop`. Not for concurrent use; `kill` may be called from a signal handler."""

    def __init__(self, programs: Sequence[Program], log_dir: Path, tell: Tell) -> None:
        self._children = {program.name: Child(program) for program in programs}
        self._log_dir = log_dir
        self._tell = tell
        self._watchers: list[asyncio.Task[None]] = []
        self._stopping = False
        for program in programs:
            unknown = set(program.needs) - set(self._children)
            assert not unknown, f"{program.name} needs {unknown}, which are not among the programs"

    @property
    def restarts(self) -> dict[str, int]:
        """The number of restarts after a crash, by child."""
        return {name: child.restarts for name, child in self._children.items()}

    def pid(self, name: str) -> int | None:
        process = self._children[name].process
        return process.pid if process is not None and process.returncode is None else None

    def log(self, name: str) -> Path:
        return self._log_dir / f"{name}.log"

    async def start(self) -> None:
        """Start all children, in parallel where their needs allow it; return when all are ready.

        :raises StartError: a child ended early or was not ready in time. The others still run: call `stop`.
        """
        self._log_dir.mkdir(parents=True, exist_ok=True)
        try:
            async with asyncio.TaskGroup() as group:
                for child in self._children.values():
                    group.create_task(self._bring_up(child))
        except ExceptionGroup as errors:
            # Not `except*`: what is raised there comes as a group of one on CPython before 3.11.4.
            failed, others = errors.split(StartError)
            if failed is None or others is not None:
                raise
            raise StartError("\n".join(str(error) for error in failed.exceptions)) from None
        self._watchers = [
            asyncio.create_task(self._keep_up(child), name=f"watch-{name}") for name, child in self._children.items()
        ]

    async def stop(self) -> None:
        """Stop all children, dependents first: SIGTERM, after `TERM_TIMEOUT_S` SIGKILL. May be called twice."""
        self._stopping = True
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        for layer in reversed(self._layers()):
            await asyncio.gather(*(self._end(child) for child in layer))

    def kill(self) -> None:
        """Send SIGKILL to all children, without waiting."""
        self._stopping = True
        for child in self._children.values():
            if child.process is not None and child.process.returncode is None:
                with suppress(ProcessLookupError):
                    child.process.kill()

    async def _bring_up(self, child: Child) -> None:
        for name in child.program.needs:
            await self._children[name].is_ready.wait()
        await self._spawn(child)
        await self._until_ready(child)

    async def _spawn(self, child: Child) -> None:
        program = child.program
        with self.log(program.name).open("ab") as log:
            child.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", ends_with_owner.__file__, "--", *program.command),
                env=dict(program.environment),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        child.started_s = monotonic_s()

    async def _until_ready(self, child: Child) -> None:
        name, process = child.program.name, child.process
        assert process is not None
        deadline_s = monotonic_s() + READY_TIMEOUT_S
        while True:
            missing = await child.program.ready()
            # Check the exit first: another program may answer at the child's address.
            if process.returncode is not None:
                raise StartError(f"{name} ended with code {process.returncode} before it was ready:\n{self.tail(name)}")
            if missing is None:
                child.is_ready.set()
                return
            if monotonic_s() >= deadline_s:
                raise StartError(f"{name} is not ready after {READY_TIMEOUT_S:g} s ({missing}):\n{self.tail(name)}")
            await asyncio.sleep(ASK_AGAIN_S)

    async def _keep_up(self, child: Child) -> None:
        """Restart the child after each end, until this task is cancelled."""
        name = child.program.name
        while True:
            assert child.process is not None
            code = await child.process.wait()
            self._let_go(child)
            ran_s = monotonic_s() - child.started_s
            child.crashes_in_a_row = 1 if ran_s >= STEADY_AFTER_S else child.crashes_in_a_row + 1
            wait_s = min(BACKOFF_FIRST_S * 2 ** (child.crashes_in_a_row - 1), BACKOFF_MAX_S)
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            self._tell(f"{name} {how} after {ran_s:.0f} s; restart in {wait_s:g} s (see {self.log(name)})")
            await asyncio.sleep(wait_s)
            child.restarts += 1
            await self._spawn(child)

    async def _end(self, child: Child) -> None:
        process = child.process
        if process is None:
            return
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(TERM_TIMEOUT_S):
                    await process.wait()
            except TimeoutError:
                self._tell(f"{child.program.name} did not end within {TERM_TIMEOUT_S:g} s of SIGTERM; killing it")
                with suppress(ProcessLookupError):
                    process.kill()
                async with asyncio.timeout(KILL_TIMEOUT_S):
                    await process.wait()
        self._let_go(child)

    def _let_go(self, child: Child) -> None:
        """Release the watcher of `ends_with_owner.py`: the child has ended as intended, so it must kill nothing."""
        pipe = child.process.stdin if child.process is not None else None
        if pipe is not None and not pipe.is_closing():
            with suppress(OSError):
                pipe.write(b".")
            pipe.close()

    def _layers(self) -> list[list[Child]]:
        """Children by depth of need. Those in the first layer need no other child."""
        depth: dict[str, int] = {}

        def of(name: str) -> int:
            if name not in depth:
                depth[name] = 1 + max((of(need) for need in self._children[name].program.needs), default=-1)
            return depth[name]

        layers: list[list[Child]] = [[] for _ in range(1 + max(map(of, self._children), default=-1))]
        for name, child in self._children.items():
            layers[of(name)].append(child)
        return layers

    def tail(self, name: str) -> str:
        """The last `TAIL_BYTES` of a child's log."""
        with suppress(OSError), self.log(name).open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - TAIL_BYTES))
            return log.read().decode(errors="replace").strip()
        return "(it wrote nothing)"
