"""The latency report as one HTML file: no scripts, nothing loaded from elsewhere, no tenant or prompt in it. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Final

from backstop.audit.latency import plots
from backstop.audit.latency.foreground import ForegroundFigures
from backstop.audit.latency.foreground_text import foreground_section
from backstop.audit.latency.rows import LatencyRows, ResponseRun
from backstop.audit.latency.statistics import Interval, Sample, quantiles, survival
from backstop.audit.latency.summary import FEW, MISSED_AFTER_MS, STAGES, LatencyGroup, Misses, Stage, Summary, missed

SLOTS_MS: Final = (10_000, 60_000, 300_000, 900_000, 3_600_000, 21_600_000, 86_400_000)
SLOTS_MAX: Final = 24
POINTS_MAX: Final = 400
"""Points of a curve; more are thinned out."""

STYLE: Final = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--soft:#57606a;--line:#d8dee4;--tint:#f6f8fa;
--c0:#0b62c4;--c1:#b3540b;--c2:#1a7f37;--c3:#7a3fc4}
@media (prefers-color-scheme:dark){:root{--bg:#0f1419;--fg:#e6edf3;--soft:#9aa5b1;--line:#2d353e;--tint:#171d24;
--c0:#6cb2ff;--c1:#f0a35e;--c2:#5fd08a;--c3:#c6a2ff}}
body{background:var(--bg);color:var(--fg);font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;
padding:0 1rem}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.2rem;margin-top:2.2rem}p.soft,figcaption{color:var(--soft)}
figure{margin:1rem 0}svg{width:100%;height:auto;display:block}
table{border-collapse:collapse;width:100%;font-size:.86rem;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:.25rem .5rem;border-bottom:1px solid var(--line);vertical-align:top}
th:first-child,td:first-child,th.l,td.l{text-align:left}thead th{background:var(--tint)}
td small{color:var(--soft);display:block;white-space:nowrap}.few{color:var(--soft)}div.wide{overflow-x:auto}
.grid{stroke:var(--line);stroke-width:1}.tick,.label{fill:var(--soft);font-size:11px}.title{fill:var(--soft);
font-size:12px}.line{fill:none;stroke-width:2}.whisker{stroke-width:3;opacity:.45}.band{opacity:.16;stroke:none}
.line.c0,.whisker.c0{stroke:var(--c0)}.line.c1,.whisker.c1{stroke:var(--c1)}.line.c2,.whisker.c2{stroke:var(--c2)}
.line.c3,.whisker.c3{stroke:var(--c3)}.dot.c0,.band.c0{fill:var(--c0)}.dot.c1,.band.c1{fill:var(--c1)}
.dot.c2,.band.c2{fill:var(--c2)}.dot.c3,.band.c3{fill:var(--c3)}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;padding:0;margin:.2rem 0;font-size:.85rem}
.legend li::before{content:"";display:inline-block;width:.8em;height:.8em;border-radius:50%;margin-right:.4em}
.legend .c0::before{background:var(--c0)}.legend .c1::before{background:var(--c1)}
.legend .c2::before{background:var(--c2)}.legend .c3::before{background:var(--c3)}
"""


def page(rows: LatencyRows, summary: Summary, foreground: ForegroundFigures | None = None) -> str:
    whole = summary.groups[0]
    parts = [
        "<h1>Latency of background responses</h1>", f'<p class="soft">{_when(summary)}</p>', _lead(summary, whole),
        "<h2>What these figures show, and what they do not</h2>", _words(summary, foreground),
        "<h2>The spans of a job</h2>", _figure(_spans_plot(whole), "Dots: median, 95 % and 99 %. Bars: their 95 % "
        "confidence intervals; dashed where the sample is too small for an upper bound."),
        _definitions(), _table([whole], "All jobs"),
        "<h2>Run time by model</h2>", _figure(_models_plot(rows), "Share of responses that still run, by age "
        "(Kaplan-Meier: responses without a known end count for as long as they were seen to run)."),
        _table([group for group in summary.groups if group.by == "model"], "Model"),
        "<h2>Run time by the hour</h2>", _figure(_hours_plot(rows), "Median and 95 % of the run time by the time of "
        "acceptance, with 95 % confidence intervals. Slots with fewer ends than 5 are left out."),
        _table([group for group in summary.groups if group.by == "hour"], "Hour (UTC)"),
        "<h2>Run time by service tier</h2>", _table([g for g in summary.groups if g.by == "tier"], "Tier"),
        "<h2>Webhooks</h2>", _misses(summary), _figure(_webhook_plot(rows), "Share of ended responses whose webhook "
        "has come, by the time since the end. What is missing at the right end is lost or late."),
        "" if foreground is None else foreground_section(foreground),
    ]  # fmt: skip
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Latency report</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _when(summary: Summary) -> str:
    return (
        f"Jobs submitted from {_time(summary.first_ms)} to {_time(min(summary.until_ms, summary.end_ms))} (UTC); facts "
        f"up to {_time(summary.end_ms)}. {summary.jobs} jobs, {summary.responses} responses, "
        f"{summary.open_jobs} jobs still open."
    )


def _time(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1_000, UTC):%Y-%m-%d %H:%M:%S}"


def _lead(summary: Summary, whole: LatencyGroup) -> str:
    run, lag, total = whole.stages["run"], whole.stages["webhook"], whole.stages["total"]
    lost = summary.control if summary.control.ends else summary.others
    tail = next((f", {name} ran {_text(each)} or less" for name, each in (("99 %", run.p99), ("95 %", run.p95))
                 if each.value is not None), "")  # fmt: skip
    return (
        f"<p>Half of the responses ran {_text(run.p50)} or less{tail}. Half of the "
        f"webhooks came {_text(lag.p50)} after the end or sooner. {_share_text(lost.share)} of the ends brought no "
        f"webhook within {MISSED_AFTER_MS // 1_000} s. From submission to result half of the jobs took "
        f"{_text(total.p50)} or less.</p>"
    )


def _words(summary: Summary, foreground: ForegroundFigures | None) -> str:
    control = (
        f"{summary.control.ends} ends belong to a control group: jobs chosen by a hash of their id alone, and polled "
        "as if no webhook came. Their ends are known without the webhook, so their share of lost webhooks is unbiased. "
        "Polls may still make a control job's end known sooner; the share does not depend on that."
        if summary.control.ends
        else "There is no control group in this range, so an end whose webhook is lost is known only once a scheduled "
        "poll has found it. Ends that were lost and not found yet are missing: the share may be too small."
    )
    compared = (
        "whether the same requests would run faster in the foreground, as no foreground request was made for comparison"
        if foreground is None
        else "whether background and foreground differ at other hours than those of the sample at the end of this page"
    )
    return (
        "<p>Shown: how long responses ran by the provider's own stamps (created_at and completed_at), how long jobs "
        "waited before, when webhooks arrived, and when ends became known, for real jobs as they came. "
        f"{control} All intervals hold with 95 % confidence, each for itself, if jobs are independent; jobs of one "
        "incident are not, so intervals of single hours are too narrow. "
        f"Groups with fewer than {FEW} ends are grey: read them as examples. Responses that still run, or that were "
        "cancelled, count as running at least as long as seen.</p>"
        f"<p>Not shown: {compared}. Requests are not assigned to models, tiers or hours by chance, so differences "
        "between those groups may come from the requests. The provider's stamps are whole seconds: run times, webhook "
        "lag and detection are known to a second. How long a response waits inside the provider before it begins is "
        "part of the run time, as the provider tells no time for it.</p>"
    )


def _definitions() -> str:
    items = "".join(f"<li><b>{name}</b>: {escape(text)}</li>" for name, text in STAGES.items())
    return f"<ul>{items}</ul>"


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _table(groups: Sequence[LatencyGroup], head: str) -> str:
    lines = []
    for group in groups:
        for name, stage in group.stages.items():
            first = f'<td class="l">{escape(group.name)} ({group.jobs} jobs)</td>' if name == "queue" else "<td></td>"
            few = ' class="few"' if stage.few else ""
            lines.append(
                f'<tr{few}>{first}<td class="l">{name}</td><td>{stage.ended}</td><td>{stage.open or ""}</td>'
                f"{_cell(stage.p50)}{_cell(stage.p95)}{_cell(stage.p99)}</tr>"
            )
    return (
        f'<div class="wide"><table><thead><tr><th>{head}</th><th class="l">span</th><th>ended</th><th>open</th>'
        f"<th>50 %</th><th>95 %</th><th>99 %</th></tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(interval: Interval) -> str:
    if interval.value is None:
        return "<td>not known</td>"
    return f"<td>{_text(interval)}<small>{_bounds(interval)}</small></td>"


def _text(interval: Interval) -> str:
    return "an unknown time" if interval.value is None else plots.seconds(interval.value / 1_000)


def _bounds(interval: Interval) -> str:
    low = "?" if interval.low is None else plots.seconds(interval.low / 1_000)
    return f"{low} – {'?' if interval.high is None else plots.seconds(interval.high / 1_000)}"


def _share_text(interval: Interval) -> str:
    if interval.value is None or interval.low is None or interval.high is None:
        return "An unknown share"
    return f"{plots.percent(interval.value)} ({plots.percent(interval.low)} to {plots.percent(interval.high)})"


def _misses(summary: Summary) -> str:
    def row(name: str, misses: Misses) -> str:
        few = ' class="few"' if misses.ends < FEW else ""
        text = _share_text(misses.share) if misses.ends else "no ends"
        return f'<tr{few}><td class="l">{name}</td><td>{misses.ends}</td><td>{misses.missed}</td><td>{text}</td></tr>'

    return (
        "<table><thead><tr><th>Group</th><th>ends</th><th>without a webhook</th><th>share (95 % interval)</th></tr>"
        f"</thead><tbody>{row('control group', summary.control)}{row('all others', summary.others)}</tbody></table>"
        f'<p class="soft">An end counts {MISSED_AFTER_MS // 1_000} s after it. {summary.late} of the webhooks that '
        "count as missing came later than that.</p>"
    )


def _spans_plot(whole: LatencyGroup) -> str:
    rows = [(name, _of(stage)) for name, stage in whole.stages.items() if stage.ended]
    known = [each.value for _, values in rows for each in values if each is not None]
    axis = plots.Axis(
        "time (log scale)", max(0.001, min(known, default=0.01) / 2), max(known, default=10) * 3, log=True
    )
    return plots.ranges("Median, 95 % and 99 % of each span", rows, axis, ("median", "95 %", "99 %"))


def _of(stage: Stage) -> list[plots.Range | None]:
    def seconds(ms: float | None) -> float | None:
        return None if ms is None else ms / 1_000

    return [
        None
        if each.value is None
        else plots.Range(max(0.001, each.value / 1_000), seconds(each.low), seconds(each.high))
        for each in (stage.p50, stage.p95, stage.p99)
    ]


def _models_plot(rows: LatencyRows) -> str:
    runs = list(rows.runs.values())
    models = [model for model, _ in Counter(run.model for run in runs).most_common(plots.SERIES_MAX)]
    series = []
    for model in models:
        samples = _samples(run for run in runs if run.model == model)
        curve = survival(samples)
        points = [(max(0.1, point.ms / 1_000), point.share) for point in curve]
        series.append(plots.Series(f"{model} ({len(samples)} responses)", _thin([(0.1, 1.0), *points])))
    longest = max([x for each in series for x, _ in each.points], default=10)
    shortest = min([x for each in series for x, _ in each.points[1:]], default=0.5)
    x = plots.Axis("age (log scale)", max(0.1, shortest / 2), longest * 1.2, log=True)
    return plots.lines("Share of responses that still run", series, x, plots.Axis("", 0, 1), steps=True)


def _samples(runs: Iterable[ResponseRun]) -> list[Sample]:
    return [Sample(run.seen_ms if run.run_ms is None else run.run_ms, run.run_ms is not None) for run in runs]


def _hours_plot(rows: LatencyRows) -> str:
    runs = sorted(rows.runs.values(), key=lambda run: run.accepted_ms)
    first, last = (runs[0].accepted_ms, runs[-1].accepted_ms) if runs else (0, 1)
    slot_ms = next((each for each in SLOTS_MS if (last - first) / each <= SLOTS_MAX), SLOTS_MS[-1])
    found: dict[str, list[tuple[float, Interval]]] = {"median": [], "95 %": []}
    start_ms = first // slot_ms * slot_ms
    for at_ms in range(start_ms, last + 1, slot_ms):
        mine = _samples(run for run in runs if at_ms <= run.accepted_ms < at_ms + slot_ms)
        if sum(sample.ended for sample in mine) >= 5:
            for name, interval in zip(found, quantiles(mine, (0.5, 0.95)), strict=True):
                if interval.value is not None:
                    found[name].append((float(at_ms + slot_ms // 2), interval))
    known = [each for points in found.values() for _, each in points]
    most = max([each.high or each.value or 0 for each in known], default=1_000) / 1_000
    series = [
        plots.Series(
            name, [(at, (each.value or 0) / 1_000) for at, each in points],
            [(at, (each.low or 0) / 1_000, most if each.high is None else each.high / 1_000) for at, each in points],
        )
        for name, points in found.items()
    ]  # fmt: skip
    x = plots.Axis(f"time of acceptance (UTC), slots of {plots.seconds(slot_ms / 1_000)}", first, max(last, first + 1))
    marks = [first + number * (last - first) / 5 for number in range(6)]
    labels = [(at, f"{datetime.fromtimestamp(at / 1_000, UTC):{_form(slot_ms)}}") for at in marks]
    return plots.lines("Run time by time of acceptance", series, x, plots.Axis("", 0, most * 1.05), x_labels=labels,
                       y_text=True)  # fmt: skip


def _form(slot_ms: int) -> str:
    if slot_ms < 60_000:
        return "%H:%M:%S"
    return "%H:%M" if slot_ms < 3_600_000 else "%m-%d %H:%M"


def _webhook_plot(rows: LatencyRows) -> str:
    most_s = MISSED_AFTER_MS / 1_000
    series = []
    for name, control in (("control group", True), ("all others", False)):
        judged = [
            run for run in rows.runs.values()
            if run.control is control and run.end_ms is not None and run.end_ms + MISSED_AFTER_MS <= rows.end_ms
        ]  # fmt: skip
        if not judged:
            continue
        lags = sorted(
            max(0, run.webhook_ms - run.end_ms) / 1_000
            for run in judged
            if not missed(run) and run.webhook_ms is not None and run.end_ms is not None
        )
        points = [(lag, (number + 1) / len(judged)) for number, lag in enumerate(lags)]
        series.append(plots.Series(f"{name} ({len(judged)} ends)", _thin([(0.0, 0.0), *points, (
            most_s, len(lags) / len(judged)
        )])))  # fmt: skip
    x = plots.Axis("since the end", 0, most_s)
    return plots.lines("Share of ends whose webhook has come", series, x, plots.Axis("", 0, 1), steps=True)


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    step = max(1, len(points) // POINTS_MAX)
    return [*points[::step], points[-1]]
