"""Draws the frontier of schedules as SVG: polls in vain and delay, both logarithmic."""

from collections.abc import Mapping, Sequence
from math import log10

from bench.plot import BOTTOM, HEIGHT, RIGHT, TOP, WIDTH, curve, dots, frame

LEFT = 70
POLLS, DELAYS_S = (0.1, 30.0), (1.0, 200.0)
COLOURS = ("#b45309", "#6b7280", "#1d4ed8", "#059669", "#7c3aed")


def _x(polls: float) -> float:
    low, high = (log10(each) for each in POLLS)
    return LEFT + (WIDTH - LEFT - RIGHT) * (log10(polls) - low) / (high - low)


def _y(delay_s: float) -> float:
    low, high = (log10(each) for each in DELAYS_S)
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (log10(delay_s) - low) / (high - low)


def frontier_svg(lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Each line is a name and its points (polls in vain a job, mean delay in s)."""
    parts = frame(
        LEFT,
        [(_x(tick), f"{tick:g}") for tick in (0.1, 0.3, 1, 3, 10, 30)],
        [(_y(tick), f"{tick:g} s") for tick in (1, 3, 10, 30, 100)],
        "polls of a job that find it running",
        "mean delay of detection",
    )
    for colour, (number, (name, points)) in zip(COLOURS, enumerate(lines.items()), strict=False):
        shown = [
            (_x(x), _y(y)) for x, y in sorted(points) if POLLS[0] <= x <= POLLS[1] and DELAYS_S[0] <= y <= DELAYS_S[1]
        ]
        parts.append(curve(shown, colour))
        parts.extend(dots(shown, colour))
        parts.append(f'<text x="{WIDTH - 250}" y="{TOP + 20 + 20 * number}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])
