"""Plots of the latency report as SVG text, coloured by the page's CSS variables. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from typing import Final

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 16, 44
SERIES_MAX: Final = 4
"""As many as the page has colours for."""


@dataclass(frozen=True, slots=True)
class Series:
    name: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float, float]] = ()
    """x, low and high of a confidence interval."""


@dataclass(frozen=True, slots=True)
class Axis:
    """From `low` to `high`; with `log` by the order of size, and `low` above 0."""

    title: str
    low: float
    high: float
    log: bool = False

    def at(self, value: float, start: float, end: float) -> float:
        value = min(max(value, self.low), self.high)
        if self.log:
            share = (log10(value) - log10(self.low)) / max(1e-9, log10(self.high) - log10(self.low))
        else:
            share = (value - self.low) / max(1e-9, self.high - self.low)
        return start + share * (end - start)

    def ticks(self) -> list[float]:
        if self.log:
            return [10.0**power for power in range(ceil(log10(self.low)), floor(log10(self.high)) + 1)]
        step = 10 ** floor(log10(max(self.high - self.low, 1e-9)))
        step = (
            step / 5 if (self.high - self.low) / step < 2 else step / 2 if (self.high - self.low) / step < 5 else step
        )
        first = ceil(self.low / step)
        return [number * step for number in range(first, floor(self.high / step) + 1)]


def seconds(value: float) -> str:
    """A span in seconds, short."""
    if value >= 3_600:
        return f"{value / 3_600:.3g} h"
    if value >= 120:
        return f"{value / 60:.3g} min"
    return f"{value:.3g} s" if value >= 1 or value == 0 else f"{value * 1_000:.3g} ms"


def percent(value: float) -> str:
    return f"{value * 100:.3g} %"


def lines(
    title: str, series: Sequence[Series], x: Axis, y: Axis, *, x_labels: Sequence[tuple[float, str]] = (),
    steps: bool = False, y_text: bool = False,
) -> str:  # fmt: skip
    """Lines over two axes, with a legend. `y_text`: y is in seconds; otherwise it is a share."""
    parts = [_frame(x, y, x_labels or [(each, seconds(each)) for each in x.ticks()], in_seconds=y_text)]
    for number, each in enumerate(series[:SERIES_MAX]):
        band = [(x.at(at, LEFT, WIDTH - RIGHT), low, high) for at, low, high in each.band]
        if band:
            upper = [f"{at:.1f},{_y(y, high):.1f}" for at, _, high in band]
            lower = [f"{at:.1f},{_y(y, low):.1f}" for at, low, _ in reversed(band)]
            parts.append(f'<polygon class="band c{number}" points="{" ".join([*upper, *lower])}"/>')
        path, before = list[str](), None
        for at, value in each.points:
            left, top = x.at(at, LEFT, WIDTH - RIGHT), _y(y, value)
            if steps and before is not None:
                path.append(f"{left:.1f},{before:.1f}")
            path.append(f"{left:.1f},{top:.1f}")
            before = top
        parts.append(f'<polyline class="line c{number}" points="{" ".join(path)}"/>')
        if len(each.points) <= 60 and not steps:
            dots = [(x.at(at, LEFT, WIDTH - RIGHT), _y(y, value)) for at, value in each.points]
            parts += [f'<circle class="dot c{number}" cx="{left:.1f}" cy="{top:.1f}" r="3"/>' for left, top in dots]
    return _svg(title, "".join(parts), HEIGHT) + _legend([each.name for each in series[:SERIES_MAX]])


@dataclass(frozen=True, slots=True)
class Range:
    """A value with its interval; a bound that is not known is drawn open."""

    value: float
    low: float | None
    high: float | None


def ranges(title: str, rows: Sequence[tuple[str, Sequence[Range | None]]], x: Axis, names: Sequence[str]) -> str:
    """One line for each row, with a dot and its interval for each of `names`."""
    height = TOP + BOTTOM + 34 * len(rows)
    parts = [_x_axis(x, [(each, seconds(each)) for each in x.ticks()], height)]
    for row, (label, values) in enumerate(rows):
        middle = TOP + 34 * row + 17
        parts.append(f'<text class="label" x="{LEFT + 16}" y="{middle + 4}" text-anchor="end">{escape(label)}</text>')
        for number, value in enumerate(values):
            if value is None:
                continue
            at = middle + 7 * (number - (len(values) - 1) / 2)
            low = _wide(x, value.low if value.low is not None else value.value)
            high = _wide(x, value.high if value.high is not None else x.high)
            dashed = "" if value.high is not None else ' stroke-dasharray="3 3"'
            parts.append(f'<line class="whisker c{number}" x1="{low:.1f}" x2="{high:.1f}" y1="{at:.1f}" y2="{at:.1f}"'
                         f"{dashed}/>")  # fmt: skip
            parts.append(f'<circle class="dot c{number}" cx="{_wide(x, value.value):.1f}" cy="{at:.1f}" r="4"/>')
    return _svg(title, "".join(parts), height) + _legend(names)


def _wide(x: Axis, value: float) -> float:
    return x.at(value, LEFT + 26, WIDTH - RIGHT)


def _y(axis: Axis, value: float) -> float:
    return axis.at(value, HEIGHT - BOTTOM, TOP)


def _frame(x: Axis, y: Axis, x_ticks: Sequence[tuple[float, str]], *, in_seconds: bool) -> str:
    parts = []
    for value in y.ticks():
        at = _y(y, value)
        text = seconds(value) if in_seconds else percent(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
                     f'<text class="tick" x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{text}</text>')  # fmt: skip
    for value, text in x_ticks:
        at = x.at(value, LEFT, WIDTH - RIGHT)
        anchor = "end" if at > WIDTH - 2 * RIGHT else "middle"
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
                     f'<text class="tick" x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="{anchor}">'
                     f"{escape(text)}</text>")  # fmt: skip
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="title" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x.title)}</text>')
    return "".join(parts)


def _x_axis(x: Axis, ticks: Sequence[tuple[float, str]], height: int) -> str:
    parts = []
    for value, text in ticks:
        at = _wide(x, value)
        bottom = height - BOTTOM
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{text}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    return "".join(parts) + (
        f'<text class="title" x="{middle}" y="{height - 6}" text-anchor="middle">{escape(x.title)}</text>'
    )


def _svg(title: str, inside: str, height: int) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title, quote=True)}">{inside}</svg>'


def _legend(names: Sequence[str]) -> str:
    marks = "".join(f'<li class="c{number}">{escape(name)}</li>' for number, name in enumerate(names))
    return f'<ul class="legend">{marks}</ul>'
