"""How much of a limit is used, how much is refused, and who waits, in virtual time. No broker, no clock.

    python -m bench.limits [--minutes 20] [--seeds 1,2,3,4,5] [--svg docs/limits-used.svg]

Calls the product's own admission. Jobs have 200 to 800 tokens of input and a lognormal output (median 500, sigma 1),
which is not known before. Each figure is after minute 5. Ends with exit code 1 where a goal is missed.
"""

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

from bench.limits_course import limited
from bench.limits_plot import used_svg
from bench.limits_scene import Course, Scene
from streams.policy.buckets import BURST_S
from streams.policy.lending import FRESH_MS

CHANGES = ((8, 50_000.0), (14, 100_000.0))
"""Halved and doubled without notice; the headers tell it."""

MOVES = ((360, (3, 6, 3, 0)), (480, (12, 0, 0, 0)), (600, (1, 1, 1, 9)), (720, (3, 3, 3, 3)))
"""(second, partitions of each worker from then on)."""
BACK_S = 5
MEAN_TOKENS = 1_324

NINE = tuple(f"t{number}" for number in range(9))


@dataclass(slots=True)
class Goals:
    """What was asked of the figures, and which of it was missed."""

    missed: list[str] = field(default_factory=list)

    def ask(self, what: str, *, holds: bool) -> None:
        if not holds:
            self.missed.append(what)


@dataclass(frozen=True, slots=True)
class Waits:
    mean_ms: float
    p50_ms: int
    p99_ms: int

    def __str__(self) -> str:
        return f"mean {self.mean_ms:6.0f} ms, p50 {self.p50_ms:5d} ms, p99 {self.p99_ms:6d} ms"


def waits_of(course: Course, who: Iterable[str]) -> Waits:
    ms = sorted(each for name in who for each in course.waits_ms[name])
    return Waits(fmean(ms), ms[len(ms) // 2], ms[99 * len(ms) // 100])


def used_and_refused(plain: Scene, seeds: list[int], goals: Goals) -> None:
    print("100,000 tokens a minute, half as many again submitted; mean of the seeds, and the worst of them:")
    for workers in (1, 2, 4):
        told = replace(plain, workers=workers, told_limit=None, headers="true")
        scenes = {
            "limit set": replace(plain, workers=workers),
            "found by headers": told,
            "found by refusals": replace(told, headers="none"),
        }
        for name, scene in scenes.items():
            row = f"Backstop, workers: {workers}, {name}"
            courses = [limited(replace(scene, seed=seed)) for seed in seeds]
            share, refused = _print_row(row, courses)
            goals.ask(f"{row}: 95 % used, {share:.3f}", holds=share >= 0.95)
            goals.ask(f"{row}: 1 % refused, {refused:.4f}", holds=refused <= 0.01)
    _print_row("the SDK's own retries", [limited(replace(plain, method="sdk"))])
    _print_row("admission by max_output_tokens", [limited(replace(plain, method="declared"))])


def _print_row(name: str, courses: list[Course]) -> tuple[float, float]:
    """The means of the shares used and refused."""
    shares = [course.share(5, course.scene.minutes) for course in courses]
    refusals = [course.refusals for course in courses]
    print(
        f"{name:<46} used {100 * fmean(shares):5.1f} % (worst {100 * min(shares):5.1f} %), "
        f"refused {100 * fmean(refusals):5.2f} % (worst {100 * max(refusals):5.2f} %), "
        f"estimate {100 * fmean(course.error for course in courses):+5.1f} %, "
        f"gave up {sum(course.gave_up for course in courses)}",
        flush=True,
    )
    return fmean(shares), fmean(refusals)


def lent(plain: Scene, seeds: list[int], goals: Goals) -> None:
    """All jobs lie at the partitions of one worker; then its partitions move."""
    print("\nAll jobs at one worker's partitions:")
    for workers in (2, 4):
        scene = replace(plain, workers=workers, lies_at=0)
        for name, each in (("nothing is lent", replace(scene, shares=False)), ("lent", scene)):
            row = f"Backstop, workers: {workers}, {name}"
            courses = [limited(replace(each, seed=seed)) for seed in (seeds if each.shares else seeds[:1])]
            share, refused = _print_row(row, courses)
            if each.shares:
                goals.ask(f"{row}: 95 % used, {share:.3f}", holds=share >= 0.95)
                goals.ask(f"{row}: 1 % refused, {refused:.4f}", holds=refused <= 0.01)

    print("\nThe same with four workers, and partitions that move every two minutes:")
    scene = replace(plain, workers=4, lies_at=0, moves=MOVES)
    courses = [limited(replace(scene, seed=seed)) for seed in seeds]
    after = [course.granted(second + BACK_S, 60) for course in courses for second, _ in MOVES]
    most = max(course.most_granted(5, scene.minutes) for course in courses)
    job = MEAN_TOKENS * 4 / scene.limit
    bound = 1 + BURST_S / 60 + 3 * job + FRESH_MS / 60_000
    print(
        f"  granted from {BACK_S} s after a move on: {100 * fmean(after):.1f} % of the limit (worst minute "
        f"{100 * min(after):.1f} %); most in any minute {100 * most:.1f} % (bound {100 * bound:.1f} %)", flush=True,
    )  # fmt: skip
    goals.ask(f"after a move: 95 % within {BACK_S} s, {fmean(after):.3f}", holds=fmean(after) >= 0.95)
    goals.ask(f"after a move: no minute over the bound, {most:.3f}", holds=most <= bound)


def held(plain: Scene, goals: Goals) -> None:
    """The provider refuses the key for an hour, and 10,000 jobs come."""
    print("\nA lane held for an hour with 10,000 jobs waiting, then 2,000,000 tokens a minute:")
    for workers in (1, 4):
        scene = replace(
            plain, workers=workers, minutes=80, load=0.0001, away=(3, 63), backlog=10_000, backlog_at=4,
            limit=2_000_000, told_limit=2_000_000,
        )  # fmt: skip
        course, mended_ms = limited(scene), 63 * 60_000
        probes = [course.probes[minute] for minute in range(3, 63)]
        first_s = (min(at_ms for at_ms in course.accepted_ms if at_ms >= mended_ms) - mended_ms) / 1_000
        lost = course.came - len(course.accepted_ms)
        refused = sum(course.refused.get(minute, 0) for minute in range(63, 80))
        last_min = (max(course.accepted_ms) - mended_ms) / 60_000
        print(
            f"  workers: {workers}: {sum(probes)} creates in the hour, at most {max(probes[5:])} a minute after the "
            f"fifth; first create {first_s:.1f} s after it is mended; {refused} refused after it; all begun after "
            f"{last_min:.1f} min; {lost} lost", flush=True,
        )  # fmt: skip
        row = f"held for an hour, workers: {workers}"
        goals.ask(f"{row}: none lost, {lost}", holds=not lost)
        goals.ask(f"{row}: one probe a minute, {max(probes[5:])}", holds=max(probes[5:]) <= 1)
        goals.ask(f"{row}: first create within 60 s, {first_s:.0f} s", holds=first_s <= 60)
        goals.ask(f"{row}: 1 % refused after it, {refused}", holds=refused <= 100)


def who_waits(plain: Scene, seeds: list[int], goals: Goals) -> None:
    """Each with itself alone: the same jobs, the same limit, and nothing else that waits."""
    print("\nInteractive jobs, ten a minute (a tick of the simulation: 20 ms):")
    for seed in seeds:
        scene = replace(plain, seed=seed, interactive=True, load=0.0001)
        idle = waits_of(limited(scene), ["interactive"])
        course = limited(replace(scene, bulk=True, load=3.0))
        busy, share = waits_of(course, ["interactive"]), course.share(5, scene.minutes)
        print(f"  seed {seed}, nothing else          {idle}")
        print(f"  seed {seed}, a full bulk backlog   {busy}; used {100 * share:.1f} %", flush=True)
        goals.ask(f"interactive beside bulk, seed {seed}: p99 twice its idle p99", holds=busy.p99_ms <= 2 * idle.p99_ms)
        goals.ask(f"interactive beside bulk, seed {seed}: 95 % used", holds=share >= 0.95)

    print("\nNine tenants that submit half of the limit, waiting before the create:")
    for seed in seeds:
        scene = replace(plain, seed=seed, floods=True, flood=False, load=0.5)
        alone, course = waits_of(limited(scene), NINE), limited(replace(scene, flood=True))
        beside, share = waits_of(course, NINE), course.share(5, scene.minutes)
        print(f"  seed {seed}, alone                 {alone}")
        print(f"  seed {seed}, beside 10,000 jobs    {beside}; used {100 * share:.1f} %", flush=True)
        goals.ask(f"nine beside a flood, seed {seed}: mean + 20 %", holds=beside.mean_ms <= 1.2 * alone.mean_ms)
        goals.ask(f"nine beside a flood, seed {seed}: p99 + 20 %", holds=beside.p99_ms <= 1.2 * alone.p99_ms)
        goals.ask(f"nine beside a flood, seed {seed}: 95 % used", holds=share >= 0.95)


def svg(plain: Scene) -> str:
    changing = replace(plain, minutes=20, changes=CHANGES, load=2.0)
    told = replace(changing, headers="true", told_limit=None)
    scenes = {
        "Backstop, 1 worker": told,
        "Backstop, 4 workers": replace(told, workers=4),
        "the SDK's own retries": replace(changing, method="sdk"),
        "by max_output_tokens": replace(changing, method="declared"),
        "4 workers, jobs at one": replace(told, workers=4, lies_at=0),
    }
    limits = [100_000.0] * 20
    for minute, limit in CHANGES:
        limits[minute:] = [limit] * (20 - minute)
    return used_svg(limits, {name: _tokens(limited(scene), limits) for name, scene in scenes.items()})


def _tokens(course: Course, limits: list[float]) -> list[float]:
    return [course.used[minute] * limit for minute, limit in enumerate(limits)]


def main() -> None:
    parser = argparse.ArgumentParser(description="How much of a limit is used, and who waits.")
    parser.add_argument("--minutes", type=int, default=20)
    parser.add_argument("--seeds", default="1,2,3,4,5", type=lambda text: [int(each) for each in text.split(",")])
    parser.add_argument("--svg", type=Path)
    arguments = parser.parse_args()
    plain, goals = Scene(minutes=arguments.minutes, seed=arguments.seeds[0]), Goals()
    used_and_refused(plain, arguments.seeds, goals)
    lent(plain, arguments.seeds, goals)
    held(plain, goals)
    who_waits(plain, arguments.seeds, goals)
    if arguments.svg:
        arguments.svg.write_text(svg(plain))
    for missed in goals.missed:
        print("MISSED:", missed)
    sys.exit(1 if goals.missed else 0)


if __name__ == "__main__":
    main()
