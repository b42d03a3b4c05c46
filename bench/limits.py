"""How much of a limit is used, how much is refused, and who waits, in virtual time. No broker, no clock.

    python -m bench.limits [--minutes 20] [--seed 1] [--svg docs/limits-used.svg]

Calls the product's own admission. Jobs have 200 to 800 tokens of input and a lognormal output (median 500, sigma 1),
which is not known before. Each figure is after minute 5.
"""

import argparse
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from bench.limits_course import Course, Scene, limited
from bench.limits_plot import used_svg

CHANGES = ((8, 50_000.0), (14, 100_000.0))
"""Halved and doubled without notice; the headers tell it."""


def line(name: str, course: Course) -> str:
    last = course.scene.minutes
    return (
        f"{name:<46} used {100 * course.share(5, last):5.1f} %, refused {100 * course.refusals:5.2f} % "
        f"(before minute 5: {100 * course.refused_first:5.2f} %), estimate {100 * course.error:+5.1f} %, "
        f"gave up {course.gave_up}"
    )


def waits(course: Course, who: Iterable[str]) -> str:
    ms = sorted(each for name in who for each in course.waits_ms[name])
    if not ms:
        return "no jobs"
    return f"mean {fmean(ms):6.0f} ms, p50 {ms[len(ms) // 2]:6.0f} ms, p99 {ms[99 * len(ms) // 100]:6.0f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description="How much of a limit is used, and who waits.")
    parser.add_argument("--minutes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--svg", type=Path)
    arguments = parser.parse_args()
    plain = Scene(minutes=arguments.minutes, seed=arguments.seed)
    print("100,000 tokens a minute, half as many again submitted:")
    for workers in (1, 2, 4):
        print(line(f"Backstop, workers: {workers}", limited(replace(plain, workers=workers))))
        told = replace(plain, workers=workers, told_limit=None, headers="true")
        print(line(f"Backstop, workers: {workers}, found by headers", limited(told)))
        print(line(f"Backstop, workers: {workers}, found by refusals", limited(replace(told, headers="none"))))
    print(line("the SDK's own retries", limited(replace(plain, method="sdk"))))
    print(line("admission by max_output_tokens", limited(replace(plain, method="declared"))))

    print("\nInteractive jobs, ten a minute (a tick of the simulation: 20 ms):")
    idle = replace(plain, interactive=True, load=0.0001)
    print(f"  nothing else           {waits(limited(idle), ['interactive'])}")
    print(f"  a full bulk backlog    {waits(limited(replace(idle, bulk=True, load=3.0)), ['interactive'])}")

    print("\nNine tenants that submit half of the limit, waiting before the create:")
    nine = [f"t{number}" for number in range(9)]
    calm = replace(plain, floods=True, flood=False, load=0.5)
    print(f"  alone                  {waits(limited(calm), nine)}")
    print(f"  beside 10,000 jobs     {waits(limited(replace(calm, flood=True)), nine)}")

    if arguments.svg:
        arguments.svg.write_text(svg(plain))


def svg(plain: Scene) -> str:
    changing = replace(plain, minutes=20, changes=CHANGES, load=2.0)
    told = replace(changing, headers="true", told_limit=None)
    scenes = {
        "Backstop, 1 worker": told,
        "Backstop, 4 workers": replace(told, workers=4),
        "the SDK's own retries": replace(changing, method="sdk"),
        "by max_output_tokens": replace(changing, method="declared"),
    }
    limits = [100_000.0] * 20
    for minute, limit in CHANGES:
        limits[minute:] = [limit] * (20 - minute)
    return used_svg(limits, {name: _tokens(limited(scene), limits) for name, scene in scenes.items()})


def _tokens(course: Course, limits: list[float]) -> list[float]:
    return [course.used[minute] * limit for minute, limit in enumerate(limits)]


if __name__ == "__main__":
    main()
