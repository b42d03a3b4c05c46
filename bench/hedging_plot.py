"""Draws what hedges bring as SVG: extra creates against the 99.9th percentile of the run times, in a logarithm."""

from collections.abc import Mapping, Sequence
from math import log10

from bench.plot import BOTTOM, HEIGHT, RIGHT, TOP, WIDTH, curve, dots, frame

LEFT = 80
EXTRA_MAX, TAILS_S = 0.06, (300.0, 4_000.0)
COLOURS = ("#b45309", "#1d4ed8", "#6b7280")
"""Each model has one: the theory is dashed."""


def _x(extra: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * extra / EXTRA_MAX


def _y(tail_s: float) -> float:
    low, high = (log10(each) for each in TAILS_S)
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (log10(tail_s) - low) / (high - low)


def hedging_svg(lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Each line is a name and its points (extra creates a job, p99.9 in s); theory and measurement take turns."""
    parts = frame(
        LEFT,
        [(_x(tick / 100), f"{tick} %") for tick in range(7)],
        [(_y(tick), f"{tick:,} s") for tick in (300, 500, 1_000, 2_000, 4_000)],
        "extra creates a job",
        "99.9 % of the jobs run at most",
    )
    for number, (name, points) in enumerate(lines.items()):
        colour, dashed = COLOURS[number // 2 % len(COLOURS)], number % 2 == 0
        shown = [(_x(x), _y(min(max(y, TAILS_S[0]), TAILS_S[1]))) for x, y in sorted(points)]
        parts.append(curve(shown, colour, ' stroke-dasharray="5 4"' if dashed else ""))
        if not dashed:
            parts.extend(dots(shown, colour))
        parts.append(
            f'<text x="{WIDTH - 250}" y="{TOP + 20 + 20 * number}" fill="{colour}">{"- - " if dashed else "— "}{name}'
            "</text>"
        )
    return "\n".join([*parts, "</svg>", ""])
