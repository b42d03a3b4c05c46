"""Draws the frontier of schedules as SVG: polls in vain and delay, both logarithmic."""

from collections.abc import Mapping, Sequence
from math import log10

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 720, 460, 70, 30, 20, 60
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
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="sans-serif" font-size="13">'
        ),
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
    ]
    for tick in (0.1, 0.3, 1, 3, 10, 30):
        parts.append(
            f'<line x1="{_x(tick):.1f}" x2="{_x(tick):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#e5e7eb"/>'
        )
        parts.append(f'<text x="{_x(tick):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{tick:g}</text>')
    for tick in (1, 3, 10, 30, 100):
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{_y(tick):.1f}" y2="{_y(tick):.1f}" stroke="#e5e7eb"/>'
        )
        parts.append(f'<text x="{LEFT - 8}" y="{_y(tick) + 4:.1f}" text-anchor="end">{tick:g} s</text>')
    parts.append(
        f'<text x="{(LEFT + WIDTH) / 2:.0f}" y="{HEIGHT - 18}" text-anchor="middle">'
        "polls of a job that find it running</text>"
    )
    parts.append(
        f'<text transform="translate(18 {HEIGHT / 2:.0f}) rotate(-90)" text-anchor="middle">'
        "mean delay of detection</text>"
    )
    for colour, (number, (name, points)) in zip(COLOURS, enumerate(lines.items()), strict=False):
        shown = [
            (_x(x), _y(y)) for x, y in sorted(points) if POLLS[0] <= x <= POLLS[1] and DELAYS_S[0] <= y <= DELAYS_S[1]
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in shown)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.extend(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in shown)
        parts.append(f'<text x="{WIDTH - 250}" y="{TOP + 20 + 20 * number}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])
