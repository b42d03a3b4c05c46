"""Draws tokens used a minute as SVG, one line a method, with the provider's limit."""

from collections.abc import Mapping, Sequence

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 720, 400, 70, 30, 210, 50
COLOURS = ("#1d4ed8", "#059669", "#b45309", "#7c3aed", "#6b7280")


def used_svg(limit: Sequence[float], lines: Mapping[str, Sequence[float]]) -> str:
    """The limit and each line: tokens by minute."""
    minutes, most = len(limit), 1.15 * max(limit)

    def x(minute: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * minute / minutes

    def y(tokens: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(tokens, most) / most

    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="sans-serif" font-size="13">'
        ),
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
    ]  # fmt: skip
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        at = y(part * max(limit))
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#e5e7eb"/>')
        text = f"{part * max(limit) / 1_000:g} k"
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{text}</text>')
    parts.extend(
        f'<text x="{x(minute):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{minute}</text>'
        for minute in range(0, minutes + 1, 5)
    )
    parts.append(f'<text x="{x(minutes / 2):.0f}" y="{HEIGHT - 12}" text-anchor="middle">minute</text>')
    parts.append(
        f'<text transform="translate(18 {HEIGHT / 2:.0f}) rotate(-90)" text-anchor="middle">tokens a minute</text>'
    )
    steps = " ".join(f"{x(at):.1f},{y(each):.1f}" for minute, each in enumerate(limit) for at in (minute, minute + 1))
    parts.append(f'<polyline points="{steps}" fill="none" stroke="#111" stroke-dasharray="4 3"/>')
    parts.append(f'<text x="{WIDTH - RIGHT + 12}" y="{TOP + 12}">the limit (dashed)</text>')
    for colour, (number, (name, used)) in zip(COLOURS, enumerate(lines.items()), strict=False):
        path = " ".join(f"{x(minute + 0.5):.1f},{y(tokens):.1f}" for minute, tokens in enumerate(used))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 12}" y="{TOP + 34 + 20 * number}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])
