"""A plot as SVG: its frame of two named axes with ticks, and what is drawn into it."""

from collections.abc import Iterable

WIDTH, HEIGHT, TOP, RIGHT, BOTTOM = 720, 460, 30, 20, 60

Ticks = Iterable[tuple[float, str]]
"""Place in pixels, and text."""


def frame(left: int, across: Ticks, up: Ticks, across_name: str, up_name: str) -> list[str]:
    """The first lines of the SVG. `left`: the width beside the plot, for the texts of the axis that goes up."""
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="sans-serif" font-size="13">'
        ),
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
    ]
    for x, text in across:
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#e5e7eb"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{text}</text>')
    for y, text in up:
        parts.append(f'<line x1="{left}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e5e7eb"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    middle = (left + WIDTH) / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 18}" text-anchor="middle">{across_name}</text>')
    parts.append(f'<text transform="translate(18 {HEIGHT / 2:.0f}) rotate(-90)" text-anchor="middle">{up_name}</text>')
    return parts


def curve(points: Iterable[tuple[float, float]], colour: str, dash: str = "") -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>'


def dots(points: Iterable[tuple[float, float]], colour: str) -> list[str]:
    return [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in points]
