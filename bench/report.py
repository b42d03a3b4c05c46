"""The table and the plots of a run, and where they stand in a page that is written by hand. Pure."""

import math
from collections.abc import Mapping, Sequence
from textwrap import fill

from bench import plot
from bench.judging import Judged

BEGIN, END = "<!-- begin: make bench -->", "<!-- end: make bench -->"
COLUMNS_MAX = 120
LEFT = 70
COLOURS = ("#1d4ed8", "#059669", "#b45309", "#7c3aed")
Curve = Sequence[tuple[float, float]]


def table(rows: Sequence[Judged], machine: str, unmeasured: Sequence[str] = ()) -> str:
    """Markdown: each figure with goal, spread, limit of the same run, ratio and verdict."""
    lines = [
        machine, "",
        "| figure | goal | median (least to most) | limit of the same run | ratio | |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        goal = row.goal
        bound = "" if goal.goal is None else f"{'≥' if goal.at_least else '≤'} {goal.goal:g}"
        limit = "" if row.limit is None else f"{_short(row.limit)} (`{goal.beside}`)"
        ratio = "" if row.ratio is None else f"{row.ratio:.3g}"
        verdict = "missed" if row.short else "reached" if goal.goal is not None or goal.of_beside is not None else ""
        cells = f"{_short(row.median)} ({_short(row.least)} to {_short(row.most)})"
        lines.append(f"| {goal.what} | {bound} | {cells} | {limit} | {ratio} | {verdict} |")
    lines += ["", *(f"- Missed: {sentence}." for row in rows for sentence in row.short)]
    lines += [fill(f"- Not measured in this run: {what}.", COLUMNS_MAX, subsequent_indent="  ") for what in unmeasured]
    return "\n".join(lines).rstrip() + "\n"


def put(page: str, text: str) -> str:
    """`page` with `text` between its markers.

    :raises ValueError: the page has no markers.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n{text}{END}{after}"


def growth_svg(curves: Mapping[str, Curve], across: str, up: str) -> str:
    """Curves over logarithmic axes, each with its name at its end."""
    points = [point for curve in curves.values() for point in curve if min(point) > 0]
    low_x, high_x = _decades([x for x, _ in points])
    low_y, high_y = _decades([y for _, y in points])

    def x_at(x: float) -> float:
        return LEFT + (plot.WIDTH - LEFT - plot.RIGHT) * (math.log10(x) - low_x) / (high_x - low_x)

    def y_at(y: float) -> float:
        room = plot.HEIGHT - plot.TOP - plot.BOTTOM
        return plot.HEIGHT - plot.BOTTOM - room * (math.log10(y) - low_y) / (high_y - low_y)

    parts = plot.frame(
        LEFT, [(x_at(10.0**n), f"{10**n:,}") for n in range(low_x, high_x + 1)],
        [(y_at(10.0**n), f"{10.0**n:g}") for n in range(low_y, high_y + 1)], across, up,
    )  # fmt: skip
    for colour, (name, curve) in zip(COLOURS, curves.items(), strict=False):
        placed = [(x_at(x), y_at(y)) for x, y in curve if min(x, y) > 0]
        parts += [plot.curve(placed, colour), *plot.dots(placed, colour)]
        at_x, at_y = placed[-1]
        parts.append(f'<text x="{at_x - 6:.1f}" y="{at_y - 8:.1f}" text-anchor="end" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"
