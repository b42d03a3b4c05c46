"""The table and the plots of a run of the benchmark, and where they stand in the page."""

import xml.etree.ElementTree as ET

import pytest

from bench.judging import Goal, judged
from bench.report import BEGIN, END, growth_svg, put, table


def test_the_table_shows_goal_spread_limit_ratio_and_what_is_missed() -> None:
    goals = [
        Goal("a.p50", "latency, ms", 8, beside="bare.hop"), Goal("b.rate", "jobs/s", 700, at_least=True),
        Goal("c.of", "… of it c", None),
    ]  # fmt: skip
    values = {"a.p50": [6.0, 4.0, 9.0], "bare.hop": [2.0], "b.rate": [350.0], "c.of": [12345.6]}
    assert table(judged(values, goals), "2 cores.", ["the rest"]).splitlines() == [
        "2 cores.",
        "",
        "| figure | goal | median (least to most) | limit of the same run | ratio | |",
        "|---|---|---|---|---|---|",
        "| latency, ms | ≤ 8 | 6 (4 to 9) | 2 (`bare.hop`) | 3 | reached |",
        "| jobs/s | ≥ 700 | 350 (350 to 350) |  |  | missed |",
        "| … of it c |  | 12,346 (12,346 to 12,346) |  |  |  |",
        "",
        "- Missed: jobs/s: 350, the goal is ≥ 700 (2.00 times).",
        "- Not measured in this run: the rest.",
    ]


def test_only_what_is_between_the_markers_changes() -> None:
    page = f"# By hand\n{BEGIN}\nold\n{END}\nMore by hand\n"
    once = put(page, "new\n")
    assert once == f"# By hand\n{BEGIN}\nnew\n{END}\nMore by hand\n"
    assert put(once, "new\n") == once


@pytest.mark.parametrize("page", ["", f"{BEGIN} without an end", f"{END} alone"])
def test_a_page_without_markers_is_left_alone(page: str) -> None:
    with pytest.raises(ValueError, match="has no"):
        put(page, "new\n")


def test_growth_is_drawn_over_logarithmic_axes_with_a_name_at_each_curve() -> None:
    svg = ET.fromstring(growth_svg({"bytes": [(1_000, 100), (100_000, 1_000)]}, "jobs", "bytes"))
    (line,) = svg.iter("{http://www.w3.org/2000/svg}polyline")
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in str(line.get("points")).split())
    assert x1 > x0
    assert y1 < y0, "more is higher"
    assert "bytes" in [text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")]
