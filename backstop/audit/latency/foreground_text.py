"""Background against foreground, in words and as a part of the report's page. Pure."""

from html import escape
from typing import Final

from backstop.audit.latency.foreground import ForegroundFigures, PairedSpan
from backstop.audit.latency.statistics import Interval
from backstop.audit.latency.summary import FEW

SPANS: Final = {
    "run": "from created_at to completed_at, by the provider's clock (whole seconds)",
    "took": "from sending to the known end, by Backstop's clock; in the background found by a poll each second",
}


def verdict(span: PairedSpan) -> str:
    """What the pairs show of the run time, which is known to a second."""
    longer = span.longer
    if longer.value is None or longer.low is None or longer.high is None:
        return f"{span.pairs} pairs are too few to tell whether the background takes longer."
    between = f"between {_signed(longer.low)} and {_signed(longer.high)}"
    if longer.low > 0:
        return f"The background took longer: in the median of the pairs by {_signed(longer.value)}, {between}."
    if longer.high < 0:
        return f"The background took less time: in the median of the pairs {_signed(longer.value)}, {between}."
    return (
        f"No difference is shown: in the median of the pairs it is {_signed(longer.value)}, and it lies {between}. "
        "One within these bounds is possible, and one of less than a second: the provider's stamps are whole seconds."
    )


def foreground_section(figures: ForegroundFigures) -> str:
    rows = [("run", "all models", figures.run), ("took", "all models", figures.took)]
    rows += [("run", model, span) for model, span in figures.models.items()]
    lines = "".join(_row(name, of, span) for name, of, span in rows)
    ends = "; ".join(
        f"{side}: " + ", ".join(f"{count} {end}" for end, count in ends.items()) for side, ends in figures.ends.items()
    )
    spans = "".join(f"<li><b>{name}</b>: {escape(text)}</li>" for name, text in SPANS.items())
    return (
        "<h2>Background against foreground</h2>"
        f"<p>{figures.asked} requests of the range, chosen by a hash of the job's id alone, were each sent twice at "
        f"the same moment: in the background and in the foreground. {escape(verdict(figures.run))}</p>"
        '<div class="wide"><table><thead><tr><th>Span</th><th class="l">of</th><th>pairs</th><th>foreground, median'
        "</th><th>background, median</th><th>background longer by (median of pairs)</th>"
        f"<th>pairs in which it took longer</th></tr></thead><tbody>{lines}</tbody></table></div><ul>{spans}</ul>"
        "<p>Shown: whether the mode makes a difference for these requests, at this time, with this account; the pairs "
        "share request, moment and model, so nothing else differs. The intervals hold with 95 % confidence if pairs "
        "are independent. Not shown: other hours; requests that were left out (tools that act, conversations, streams, "
        "completion windows, large bodies); whether an answer came from a cache that the first run of the request had "
        "filled, which is the same for both sides. Only pairs of which both sides completed are compared. "
        f"{escape(ends[:1].upper() + ends[1:])}.</p>"
    )


def _row(name: str, of: str, span: PairedSpan) -> str:
    few = ' class="few"' if span.pairs < FEW else ""
    slower = span.slower
    share = "no difference" if slower.value is None else f"{slower.value:.0%}<small>{_percent(slower)}</small>"
    return (
        f'<tr{few}><td>{name}</td><td class="l">{escape(of)}</td><td>{span.pairs}</td>{_cell(span.foreground)}'
        f"{_cell(span.background)}{_cell(span.longer, signed=True)}<td>{share}</td></tr>"
    )


def _percent(share: Interval) -> str:
    return f"{share.low:.0%} – {share.high:.0%}"


def _cell(interval: Interval, *, signed: bool = False) -> str:
    if interval.value is None:
        return "<td>not known</td>"
    text = _signed if signed else _plain
    low, high = ("?" if each is None else text(each) for each in (interval.low, interval.high))
    return f"<td>{text(interval.value)}<small>{low} – {high}</small></td>"


def _plain(ms: float) -> str:
    return f"{ms / 1_000:.1f} s"


def _signed(ms: float) -> str:
    return f"{ms / 1_000:+.1f} s"
