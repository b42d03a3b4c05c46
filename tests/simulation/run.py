"""One seed: build the system, let it run, break it, let it rest, check."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from tests.simulation.chaos import Chaos
from tests.simulation.checks import Checks
from tests.simulation.loop import DeadlockError, VirtualLoop
from tests.simulation.system import System
from tests.simulation.wrong import RIGHT, Wrong

STEPS_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Outcome:
    seed: int
    violations: tuple[str, ...]
    met: Counter[str]
    steps: tuple[str, ...]
    """The last of them; all, if they were asked for."""
    virtual_s: float


def quiet() -> None:
    """Turn off the system's own warnings: the simulation provokes them."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def simulate(
    seed: int, jobs: int, wrong: Wrong = RIGHT, *, trace: bool = False, aimed: Mapping[str, Any] | None = None,
    poll_at: Callable[[System], None] | None = None, operators: bool = False,
) -> Outcome:  # fmt: skip
    """`aimed`: see `Chaos`. `poll_at` is called with the invariants' checks, for what one test wants to count
    besides.
    """
    loop = VirtualLoop(f"order {seed}")
    asyncio.set_event_loop(loop)
    chaos = Chaos(seed, loop, trace=trace, aimed=aimed)
    violations: list[str] = []
    try:
        system = System(chaos, jobs, wrong, learned=aimed is None and seed % 2 == 1, operators=operators)

        def check() -> None:
            violations.extend(str(violation) for violation in Checks(system, chaos.met).run())
            if poll_at is not None:
                poll_at(system)

        loop.run_until_complete(system.run(check))
        loop.run_until_complete(system.end())
    except DeadlockError as error:
        violations.append(f"deadlock: {error}")
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    violations += [f"unretrieved: {text}" for text in loop.unretrieved]
    steps = list(chaos.steps) if trace or violations else []
    shown = steps if trace else steps[-STEPS_SHOWN:]
    return Outcome(seed, tuple(violations), chaos.met.counts, tuple(_line(*step) for step in shown), loop.time())


def _line(at_s: float, who: str, what: str, detail: str) -> str:
    return f"{at_s:10.3f}  {who:<10} {what} {detail}".rstrip()
