"""Writes deploy/grafana/backstop.json, the dashboard: `python deploy/dashboard.py > deploy/grafana/backstop.json`.

Rows follow the questions of an operator: is work done, how late, what does the provider say, what does it cost, who
holds what. A test compares the file with what this writes, and each expression with the metrics that exist.
"""

import json
import sys
from dataclasses import dataclass
from typing import Any, Literal

WIDTH = 24
HEIGHT = 8
TILE_HEIGHT = 4
WINDOW = "$__rate_interval"


@dataclass(frozen=True, slots=True)
class Panel:
    """`exprs`: legend → expression. `unit`: a unit of Grafana. `width` of 24 columns."""

    title: str
    exprs: dict[str, str]
    unit: str = "short"
    width: int = 8
    kind: Literal["timeseries", "stat"] = "timeseries"
    stacked: bool = False
    alarm_above: float | None = None


def rate(metric: str, by: str = "", where: str = "") -> str:
    grouped = f" by ({by})" if by else ""
    return (
        f"sum{grouped} (rate({metric}{{{where}}}[{WINDOW}]))" if where else f"sum{grouped} (rate({metric}[{WINDOW}]))"
    )


def share_within(metric: str, share: float, where: str = "") -> str:
    return f"histogram_quantile({share}, {rate(metric + '_bucket', 'le', where)})"


def tile(title: str, expr: str, *, alarm_above: float | None = 0, unit: str = "short") -> Panel:
    return Panel(title, {"": expr}, unit=unit, width=4, kind="stat", alarm_above=alarm_above)


def spread(metric: str, where: str = "") -> dict[str, str]:
    return {"p50": share_within(metric, 0.5, where), "p95": share_within(metric, 0.95, where)} | {
        "p99": share_within(metric, 0.99, where)
    }


ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    ("Now", (
        tile("Partitions without a reader", "sum(max by (group, topic, partition) (backstop_partition_unassigned))"),
        tile("Longest stand-still", "max(backstop_partition_still_seconds)", alarm_above=60, unit="s"),
        tile("Lanes closed", "count(max by (model) (backstop_lane_closed)) or vector(0)"),
        tile("Overdue jobs", "max(backstop_jobs_overdue)"),
        tile("Pauses", "max(backstop_pauses)"),
        tile("Read model behind", "max(backstop_readmodel_lag_seconds)", alarm_above=30, unit="s"),
    )),
    ("Work", (
        Panel("Submitted and ended, a minute", {
            "submitted {{ingress}}": f"60 * {rate('backstop_jobs_submitted_total', 'ingress')}",
            "ended {{outcome}}": f"60 * {rate('backstop_jobs_ended_total', 'outcome')}",
        }),
        Panel("Open jobs", {"{{state}}": "max by (state) (backstop_jobs_open)"}, stacked=True),
        Panel("Failures, a minute", {
            "{{model}} {{code}}": "60 * " + rate(
                "backstop_jobs_ended_total", "model, code", 'outcome=~"failed|expired|rejected"'),
        }),
        Panel("Oldest open job", {"{{state}}": "max by (state) (backstop_job_oldest_age_seconds)"}, unit="s"),
        Panel("Ends found by", {"{{found_by}}": rate("backstop_readmodel_finished_total", "found_by")}, stacked=True),
        Panel("Dead letters, a minute", {
            "{{topic}} {{reason}}": f"60 * {rate('backstop_dead_letters_total', 'topic, reason')}"}),
    )),
    ("How late", (
        Panel("Provider's end → webhook", spread("backstop_webhook_lag_seconds"), unit="s"),
        Panel("Create command → POST", spread("backstop_submission_pickup_seconds"), unit="s"),
        Panel("Result → readable", spread("backstop_readmodel_delay_seconds", 'topic=~".*results"'), unit="s"),
        Panel("Timers late", spread("backstop_scheduler_lateness_seconds"), unit="s"),
        Panel("Records that wait", {
            "{{group}} {{topic}}": "sum by (group, topic) (max by (group, topic, partition) "
                                   "(backstop_partition_lag_records))"}),
        Panel("Oldest batch of a fold", {"{{instance}}": "max by (instance) (backstop_oldest_batch_seconds)"},
              unit="s"),
    )),
    ("The provider", (
        Panel("Creates by outcome", {"{{result}}": rate("backstop_attempts_total", "result")}, unit="reqps"),
        Panel("Calls by status", {
            "{{operation}} {{status_class}}": rate("backstop_openai_requests_total", "operation, status_class"),
        }, unit="reqps"),
        Panel("Duration of calls, p95", {
            "{{operation}}": "histogram_quantile(0.95, "
                             + rate("backstop_openai_request_duration_seconds_bucket", "le, operation") + ")"},
              unit="s"),
        Panel("Polls: limit and done", {
            "limit": "sum(backstop_poll_rate_limit)", "done": rate("backstop_polls_total"),
        }, unit="reqps"),
        Panel("Learned run times", {"{{model}} {{share}}": "max by (model, share) (backstop_latency_seconds)"},
              unit="s"),
        Panel("Webhooks", {"{{result}}": rate("backstop_webhooks_received_total", "result")}, unit="reqps"),
    )),
    ("Cost", (
        Panel("Dollars an hour", {"{{model}}": f"3600 * {rate('backstop_cost_usd_total', 'model')}"},
              unit="currencyUSD"),
        Panel("Tokens a minute", {"{{kind}}": f"60 * {rate('backstop_cost_tokens_total', 'kind')}"}),
        Panel("Budgets used", {"{{tenant}} {{per}}": "max by (tenant, per) (backstop_budget_used_ratio)"},
              unit="percentunit", alarm_above=1),
    )),
    ("Callers", (
        Panel("Answers by status", {
            "{{status_class}}": rate("backstop_http_request_duration_seconds_count", "status_class")}, unit="reqps"),
        Panel("Duration of answers, p99", {
            "{{route}}": "histogram_quantile(0.99, "
                         + rate("backstop_http_request_duration_seconds_bucket", "le, route") + ")"}, unit="s"),
        Panel("Deliveries to endpoints", {"{{result}}": rate("backstop_outgoing_attempts_total", "result")},
              unit="reqps"),
    )),
)  # fmt: skip


def targets(panel: Panel) -> list[dict[str, Any]]:
    return [
        {"refId": chr(ord("A") + number), "expr": expr, "legendFormat": legend or "__auto"}
        for number, (legend, expr) in enumerate(panel.exprs.items())
    ]


def rendered(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.alarm_above is not None:
        steps.append({"color": "red", "value": panel.alarm_above + 1e-9})
    custom = {"stacking": {"mode": "normal" if panel.stacked else "none"}, "fillOpacity": 30 if panel.stacked else 0}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": TILE_HEIGHT if panel.kind == "stat" else HEIGHT},
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "custom": custom, "thresholds": {"mode": "absolute", "steps": steps}},
            "overrides": [],
        },
        "options": {"colorMode": "background"} if panel.kind == "stat" else {"tooltip": {"mode": "multi"}},
        "targets": targets(panel),
    }


def placed() -> list[dict[str, Any]]:
    """All panels, in rows of `WIDTH` columns below a heading each."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS:
        heading = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "gridPos": heading})
        x, y = 0, y + 1
        height = 0
        for panel in row:
            if x + panel.width > WIDTH:
                x, y = 0, y + height
            panels.append(rendered(panel, len(panels) + 1, x, y))
            height = panels[-1]["gridPos"]["h"]
            x += panel.width
        y += height
    return panels


def dashboard() -> dict[str, Any]:
    source = {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    return {
        "uid": "backstop",
        "title": "Backstop",
        "tags": ["backstop"],
        "schemaVersion": 39,
        "timezone": "utc",
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [source]},
        "panels": placed(),
    }


if __name__ == "__main__":
    json.dump(dashboard(), sys.stdout, indent=1)
    sys.stdout.write("\n")
