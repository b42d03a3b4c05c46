"""The rules for Prometheus: promtool reads them, each alert fires for its own fault, and none in a calm system."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from backstop.audit.scheduled import AuditMetrics
from backstop.outgoing.metrics import OutgoingMetrics
from backstop.readmodel.metrics import ProjectionMetrics
from receiver.metrics import ReceiverMetrics
from receiver.reads.status import SystemMetrics
from streams import metrics as stream_metrics
from streams.workers.metrics import WorkerMetrics
from tests.unit.deploy.cases import CALM, CASES, Case

ROOT = Path(__file__).resolve().parents[3]
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "backstop.json"
RUNBOOKS = ROOT / "docs" / "runbooks.md"


@cache
def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def exported() -> set[str]:
    """The names under which the processes show their metrics, as a scrape reads them."""
    registry = CollectorRegistry()
    for family in (ReceiverMetrics, ProjectionMetrics, WorkerMetrics, OutgoingMetrics, SystemMetrics, AuditMetrics):
        family(registry)
    collectors = [one for one in vars(stream_metrics).values() if isinstance(one, MetricWrapperBase)]
    families = [*registry.collect(), *(one for collector in collectors for one in collector.collect())]
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}
    return {f"{family.name}{ending}" for family in families for ending in endings[family.type]}


@pytest.fixture(scope="module")
def promtool() -> str:
    command = shutil.which("promtool")
    if command is None:
        pytest.skip("ALERTS NOT TRIED: promtool is not installed on this machine (Debian: prometheus)")
    return command


def run(promtool: str, folder: Path, tests: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    """YAML contains JSON, so a file of tests needs no writer of its own."""
    path = folder / "tests.yml"
    path.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    return subprocess.run(
        [promtool, "test", "rules", str(path)], capture_output=True, text=True, check=False, timeout=120
    )


def firing(alert: str) -> str:
    return f'ALERTS{{alertname="{alert}",alertstate="firing"}}'


def tried(case: Case) -> dict[str, Any]:
    rule = next(rule for rule in alerts() if rule["alert"] == case.alert)
    labels = {"alertname": case.alert, "alertstate": "firing", **rule["labels"], **case.labels}
    sample = "ALERTS{" + ",".join(f"{name}={json.dumps(value)}" for name, value in labels.items()) + "}"
    return {
        "name": case.alert,
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "promql_expr_test": [
            {"expr": firing(case.alert), "eval_time": case.at, "exp_samples": [{"labels": sample, "value": 1}]}
        ],
    }


def test_each_alert_has_a_case() -> None:
    assert [case.alert for case in CASES] == [rule["alert"] for rule in alerts()]


def test_each_alert_says_how_grave_it_is_and_where_its_runbook_is() -> None:
    headings = set(re.findall(r"^### (\w+)$", RUNBOOKS.read_text(), re.MULTILINE))
    for rule in alerts():
        assert rule["labels"]["severity"] in {"page", "ticket", "info"}
        assert rule["annotations"]["summary"]
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert page == "docs/runbooks.md"
        assert anchor in {heading.lower() for heading in headings}, anchor
    anchors = {rule["annotations"]["runbook"].partition("#")[2] for rule in alerts()}
    assert {heading.lower() for heading in headings} == anchors


def names_in(expression: str) -> Iterator[str]:
    return (found.group() for found in re.finditer(r"\bbackstop_\w+", expression))


def test_the_dashboard_is_the_one_that_its_script_writes() -> None:
    written = subprocess.run(
        [sys.executable, ROOT / "deploy" / "dashboard.py"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert DASHBOARD.read_text() == written


def test_panels_ask_for_metrics_that_exist() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = {name for panel in panels for one in panel.get("targets", ()) for name in names_in(one["expr"])}
    assert len(asked) > 30
    assert asked - exported() == set()


def test_panels_do_not_overlap_and_fill_no_more_than_the_width() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_prometheus_reads_the_panels_and_the_configuration(promtool: str, tmp_path: Path) -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = [one["expr"].replace("$__rate_interval", "1m") for panel in panels for one in panel.get("targets", ())]
    rules = [{"record": f"panel:number:{number}", "expr": expr} for number, expr in enumerate(asked)]
    path = tmp_path / "panels.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    for check in (("rules", path), ("config", RULES.parent / "prometheus.yml")):
        done = subprocess.run([promtool, "check", *check], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_rules_ask_for_metrics_that_exist() -> None:
    known = exported()
    assert len(known) > 80
    asked = {name for rule in rules() for name in names_in(rule["expr"])}
    assert asked - known == set()
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    assert {name for rule in alerts() for name in re.findall(r"backstop:\w+:\w+", rule["expr"])} <= recorded


@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.long)])
def test_each_alert_fires_for_its_fault(promtool: str, tmp_path: Path, every: int) -> None:
    """promtool takes most of a second of CPU for each case."""
    done = run(promtool, tmp_path, [tried(case) for case in CASES[::every]])
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_alert_that_does_not_fire_is_noticed(promtool: str, tmp_path: Path) -> None:
    """The check above can fail: without its fault, a case does."""
    calm = [Case(case.alert, case.at, CALM, case.labels) for case in CASES[:3]]
    done = run(promtool, tmp_path, [tried(case) for case in calm])
    assert done.returncode == 1
    assert all(case.alert in done.stdout + done.stderr for case in calm)


def test_no_alert_fires_in_a_calm_system(promtool: str, tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = [
        {"expr": firing(rule["alert"]), "eval_time": at, "exp_samples": []}
        for rule in alerts()
        for at in ("4m", "60m", "390m")
    ]
    series = [{"series": name, "values": values} for name, values in CALM.items()]
    done = run(promtool, tmp_path, [{"interval": "1m", "input_series": series, "promql_expr_test": asked}])
    assert done.returncode == 0, done.stdout + done.stderr
