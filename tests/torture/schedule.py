"""The schedule of faults, drawn from the seed: one large fault at a time, kills in between, and failpoints
throughout.
"""

import asyncio
import random
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from backstop.runtime.process.clock import monotonic_s
from backstop.simulator.catalogue import Place, parse_rate
from backstop.simulator.loading import load_profile
from tests.support.fault_proxy import FaultProxy, Faults
from tests.torture.children import Child, Kind
from tests.torture.failpoint_deck import REBUILD, FailpointDeck
from tests.torture.plan import FREEZE_S
from tests.torture.rig import Rig

Tell = Callable[[str], None]

REBUILD_MET_WITHIN_S = 20.0
MET_WITHIN_S = 15.0
"""A process that has not met its failpoint by then gets another one. For example, the failpoint of a recovery is not
met once all partitions are assigned.
"""
KINDS: tuple[Kind, ...] = ("worker", "serve", "projection")
LONG_MINUTES = 30.0
"""Only a run of this length has two minutes for one fault."""

WAVE = {"create_429_requests": 0.4, "create_429_tokens": 0.2, "create_503_overloaded": 0.1, "poll_429": 0.3}
"""What a wave refuses, as shares of the calls that the profile's other faults leave."""


def wave_over(usual: Mapping[str, float]) -> dict[str, float]:
    """The rates of a wave over a profile's: with the rates that stay, those of a place sum to 1 at most."""
    stay: defaultdict[Place, float] = defaultdict(float)
    for name, rate in usual.items():
        if name not in WAVE:
            stay[parse_rate(name)[1]] += rate
    return {name: rate * (1 - stay[parse_rate(name)[1]]) for name, rate in WAVE.items()}


@dataclass(slots=True)
class Done:
    """What was broken, by name, and how often."""

    faults: Counter[str] = field(default_factory=Counter)
    rebuild_kills: int = 0


class Schedule:
    def __init__(self, rig: Rig, tell: Tell, deck: FailpointDeck) -> None:
        self.done = Done()
        self._deck = deck
        self._armed_since_s: dict[tuple[str, int], float] = {}
        self._rig = rig
        self._tell = tell
        self._random = random.Random(f"schedule {rig.plan.seed}")
        self._began_s = monotonic_s()
        usual = load_profile(rig.plan.faults).rates
        self._usual_rates = {name: usual.get(name, 0.0) for name in WAVE}
        self._wave_rates = wave_over(usual)

    async def run(self) -> None:
        """For the minutes of the plan; what is broken then is the caller's to heal (`heal`)."""
        end_s = self._began_s + self._rig.plan.minutes * 60
        with suppress(TimeoutError):
            async with asyncio.timeout(end_s - monotonic_s()):
                if self._rig.plan.short:
                    await self._short()
                elif self._rig.plan.failpoints or self._rig.plan.large:
                    await self._focused()
                else:
                    await self._long()

    async def _short(self) -> None:
        """Each kind of trouble once, while the failpoints go on beside it; over when each of them was hit."""
        await self._arm()
        for what in (self._zombie, self._rebuild_killed, self._broker_killed, self._connections_cut, self._outage):
            await self._do(what)
            await asyncio.sleep(2)
        while any(self._deck.missing(kind) for kind in KINDS):
            await asyncio.sleep(1)
            self._steer()

    def _steer(self) -> None:
        """Kill processes without a missing failpoint, or that have not met theirs for long. The restart arms a missing
        one.
        """
        now_s = monotonic_s()
        for child in self._rig.children.values():
            missing = self._deck.missing(child.kind)
            if not missing or child.pid is None:
                continue
            since_s = self._armed_since_s.setdefault((child.name, child.pid), now_s)
            if child.armed.partition(":")[0] not in missing or now_s - since_s > MET_WITHIN_S:
                child.kill()

    async def _arm(self) -> None:
        """Kill each process of ours once: from then on it is armed at each start."""
        for child in self._rig.children.values():
            if child.kind != "simulator":
                await asyncio.sleep(1)
                child.kill()

    async def _focused(self) -> None:
        """What the plan names; for planted bugs."""
        if self._rig.plan.failpoints:
            await self._arm()
        while True:
            for name in self._rig.plan.large:
                await asyncio.sleep(self._random.uniform(3, 6))
                await self._do(getattr(self, f"_{name}"))
            await asyncio.sleep(5)

    async def _long(self) -> None:
        large: Mapping[Callable[[], Awaitable[None]], int] = {
            self._zombie: 4, self._zombie_edge: 1, self._broker_killed: 2, self._broker_ended: 1,
            self._broker_frozen: 1, self._connections_cut: 3, self._slow_link: 2, self._black_hole: 2, self._refused: 1,
            self._data_limited: 2,
            self._outage: 2, self._wave: 2, self._provider_restarted: 1, self._provider_killed: 1,
            self._members_change: 2, self._all_killed: 1, self._rolling_stop: 1, self._rebuild_killed: 3,
            self._narrow_link: 1, self._sliced: 1,
            self._broker_frozen_long: int(self._rig.plan.minutes >= LONG_MINUTES),
        }  # fmt: skip
        while True:
            for _ in range(self._random.randint(2, 4)):
                await asyncio.sleep(self._random.uniform(1.0, 4.0))
                await self._do(self._kill_one)
            await asyncio.sleep(self._random.uniform(1.0, 5.0))
            (what,) = self._random.choices(list(large), weights=list(large.values()))
            await self._do(what)

    async def _do(self, what: Callable[[], Awaitable[None]]) -> None:
        name = what.__name__.strip("_")
        self._tell(f"{monotonic_s() - self._began_s:6.1f} s  {name}")
        await what()
        self.done.faults[name] += 1

    async def heal(self) -> None:
        """Every link good, the provider well, everything up, but for a worker that has left for good.

        What is open then must be ended by those that stay: a restart would hide what a takeover has forgotten.
        """
        rig = self._rig
        for proxy in rig.proxies.values():
            proxy.heal()
        if not rig.broker.running:
            await asyncio.to_thread(rig.broker.start)
        with suppress(ProcessLookupError):
            rig.broker.resume()
        for child in rig.children.values():
            if not child.up:
                child.start()
        await rig.control("outage", {"for_s": 0})
        await rig.control("faults", {"rates": self._usual_rates})
        if rig.plan.breaks and rig.plan.workers > 1:
            await self._do(self._scaled_in)

    # -- our processes

    async def _kill_one(self) -> None:
        kind: Kind = self._random.choices(("worker", "serve", "projection"), weights=(6, 2, 2))[0]
        child = self._random.choice(self._rig.up(kind))
        child.restart_after_s = self._random.choice((0.0, 0.0, 0.5, 2.0, 8.0))
        child.kill()

    async def _zombie(self) -> None:
        await self._freeze(self._random.choice(self._rig.up("worker")))

    async def _zombie_edge(self) -> None:
        await self._freeze(self._random.choice(self._rig.up(self._random.choice(("serve", "projection")))))

    async def _freeze(self, child: Child) -> None:
        if child.freeze():
            await asyncio.sleep(FREEZE_S + 1)

    async def _members_change(self) -> None:
        """1 → 2 → 3 → 1 workers, gracefully."""
        first, *others = self._rig.up("worker")
        await asyncio.gather(*(child.stop() for child in others))
        for child in others:
            await asyncio.sleep(self._random.uniform(2, 5))
            child.start()
        await asyncio.sleep(self._random.uniform(2, 6))
        await first.stop()
        await asyncio.sleep(self._random.uniform(0, 4))
        first.start()

    async def _scaled_in(self) -> None:
        """One worker fewer, without a farewell or after its drain."""
        workers = self._rig.of_kind("worker")
        await self._rig.ready()
        await self._random.choice(workers).stop(self._random.choice((signal.SIGTERM, signal.SIGKILL)))

    async def _all_killed(self) -> None:
        for child in self._rig.children.values():
            if child.kind != "simulator":
                child.kill()

    async def _rolling_stop(self) -> None:
        for child in self._rig.children.values():
            if child.kind == "simulator" or not child.up:
                continue
            await child.stop()
            child.start()
            with suppress(TimeoutError):
                await child.until_ready(15)

    async def _rebuild_killed(self) -> None:
        """The read model is rebuilt beside the live one, and the rebuild killed in the midst."""
        rig = self._rig
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "backstop.cli", "readmodel", "rebuild"),
            env={**rig.environment("projection"), "BACKSTOP_FAILPOINTS": f"{REBUILD}=kill"},
            cwd=rig.plan.code, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            # Not met in time, on a slow machine: then it is ended like this, and the schedule goes on.
            with suppress(TimeoutError):
                async with asyncio.timeout(REBUILD_MET_WITHIN_S):
                    self.done.rebuild_kills += await process.wait() == -9
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    # -- the broker

    async def _broker_killed(self) -> None:
        await asyncio.to_thread(self._rig.broker.kill)
        await asyncio.sleep(0.5 if self._rig.plan.short else self._random.choice((0.5, 3.0, 15.0)))
        await asyncio.to_thread(self._rig.broker.start)

    async def _broker_ended(self) -> None:
        await asyncio.to_thread(self._rig.broker.restart)

    async def _broker_frozen(self) -> None:
        self._rig.broker.pause()
        await asyncio.sleep(self._random.uniform(5, 20))
        self._rig.broker.resume()

    async def _broker_frozen_long(self) -> None:
        """Longer than any timeout of a client."""
        self._rig.broker.pause()
        await asyncio.sleep(125)
        self._rig.broker.resume()

    # -- the network

    async def _on_a_link(self, faults: Faults, for_s: float) -> None:
        proxy = self._proxy()
        proxy.faults = faults
        await asyncio.sleep(for_s)
        proxy.heal()

    def _proxy(self) -> FaultProxy:
        name = self._random.choice(list(self._rig.proxies))
        self._tell(f"          {name}")
        return self._rig.proxies[name]

    async def _connections_cut(self) -> None:
        for _ in range(3):
            self._proxy().reset_all()
            await asyncio.sleep(self._random.uniform(0.2, 2))

    async def _slow_link(self) -> None:
        await self._on_a_link(Faults(latency_s=self._random.choice((0.2, 2.0))), self._random.uniform(4, 10))

    async def _narrow_link(self) -> None:
        await self._on_a_link(Faults(bytes_per_s=self._random.choice((20_000, 100_000))), self._random.uniform(4, 10))

    async def _sliced(self) -> None:
        await self._on_a_link(Faults(slice_bytes=self._random.choice((16, 200))), self._random.uniform(4, 10))

    async def _black_hole(self) -> None:
        await self._on_a_link(Faults(black_hole=True), self._random.uniform(3, 15))

    async def _refused(self) -> None:
        proxy = self._proxy()
        proxy.faults = Faults(refused=True)
        proxy.reset_all()
        await asyncio.sleep(self._random.uniform(3, 10))
        proxy.heal()

    async def _data_limited(self) -> None:
        for _ in range(5):
            self._proxy().limit_data(self._random.randint(1, 20_000))
            await asyncio.sleep(self._random.uniform(0.5, 2))

    # -- the provider

    async def _outage(self) -> None:
        mode = self._random.choice(("503", "500", "html", "reset", "stall"))
        runs, webhooks = self._random.choice(("on", "fail", "stuck")), self._random.choice(("sent", "held", "lost"))
        await self._rig.control("outage", {"for_s": 60, "mode": mode, "share": 0.8, "runs": runs, "webhooks": webhooks})
        await asyncio.sleep(6)

    async def _wave(self) -> None:
        await self._rig.control("faults", {"rates": self._wave_rates})
        await asyncio.sleep(self._random.uniform(4, 8))
        await self._rig.control("faults", {"rates": self._usual_rates})

    async def _provider_restarted(self) -> None:
        await self._rig.control("restart", {})

    async def _provider_killed(self) -> None:
        self._rig.children["simulator"].kill()
