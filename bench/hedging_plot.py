"""Draws what hedges bring as SVG: extra creates against the 99.9th percentile of the run times, in a logarithm."""

from collections.abc import Mapping, Sequence
from math import log10

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 720, 460, 80, 30, 20, 60
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
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="sans-serif" font-size="13">'
        ),
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
    ]
    for tick in range(7):
        x = _x(tick / 100)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#e5e7eb"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{tick} %</text>')
    for tick in (300, 500, 1_000, 2_000, 4_000):
        y = _y(tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e5e7eb"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:,} s</text>')
    middle = (LEFT + WIDTH) / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 18}" text-anchor="middle">extra creates a job</text>')
    parts.append(
        f'<text transform="translate(18 {HEIGHT / 2:.0f}) rotate(-90)" text-anchor="middle">'
        "99.9 % of the jobs run at most</text>"
    )
    for number, (name, points) in enumerate(lines.items()):
        colour, dashed = COLOURS[number // 2 % len(COLOURS)], number % 2 == 0
        shown = [(_x(x), _y(min(max(y, TAILS_S[0]), TAILS_S[1]))) for x, y in sorted(points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in shown)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        if not dashed:
            parts.extend(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in shown)
        parts.append(
            f'<text x="{WIDTH - 250}" y="{TOP + 20 + 20 * number}" fill="{colour}">{"- - " if dashed else "— "}{name}'
            "</text>"
        )
    return "\n".join([*parts, "</svg>", ""])
