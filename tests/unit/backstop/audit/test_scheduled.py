"""The proof on a schedule: its end becomes metrics, and a run that crashes, hangs or is stopped is a failed run."""

import asyncio
import sys
from pathlib import Path

import orjson
import pytest
from prometheus_client import CollectorRegistry

from backstop.audit.report import PartitionReport, Report
from backstop.audit.scheduled import AuditMetrics, AuditRun, run_once, tell, watch
from backstop.cli.times import span_ms
from backstop.runtime.errors import ConfigurationError

PROVED = Report(
    (PartitionReport("jobs", 0, 0, 9, 7, 2, 0, "a", "a"),), {"results": {"matched": 2, "repeats": 0}}, 2, {}, (),
    {"job": 3}, (), 1, 1.5,
)  # fmt: skip
DIFFERS = Report(
    PROVED.partitions, PROVED.outputs, 2, {"table differs": 2, "result missing": 1}, (), {}, (), 1, 2.5
)  # fmt: skip


def prints(folder: Path, report: Report, code: int) -> list[str]:
    (folder / "report.json").write_bytes(orjson.dumps(report.as_json()))
    program = f"import sys; sys.stdout.write(open({str(folder / 'report.json')!r}).read()); sys.exit({code})"
    return [sys.executable, "-c", program]


def once(command: list[str], within_s: float = 60.0) -> AuditRun:
    async def run() -> AuditRun:
        return await run_once(command, within_s, asyncio.Event())

    return asyncio.run(run())


def told(*runs: AuditRun) -> CollectorRegistry:
    registry = CollectorRegistry()
    metrics = AuditMetrics(registry)
    for number, run in enumerate(runs, 1):
        tell(metrics, run, 100.0 * number)
    return registry


def test_a_proof_is_told_with_its_time(tmp_path):
    run = once(prints(tmp_path, PROVED, 0))
    assert run.outcome == "proved"
    registry = told(run)
    assert registry.get_sample_value("backstop_audit_proved_at_seconds") == 100.0
    assert registry.get_sample_value("backstop_audit_records") == 7
    assert registry.get_sample_value("backstop_audit_not_covered") == 3
    assert registry.get_sample_value("backstop_audit_runs_total", {"outcome": "proved"}) == 1


def test_differences_are_told_by_kind_and_go_away_with_the_next_proof(tmp_path):
    differs, proved = once(prints(tmp_path, DIFFERS, 1)), once(prints(tmp_path, PROVED, 0))
    registry = told(proved, differs)
    assert registry.get_sample_value("backstop_audit_differences", {"kind": "table differs"}) == 2
    assert registry.get_sample_value("backstop_audit_proved_at_seconds") == 100.0, "of the run before"
    registry = told(differs, proved)
    assert registry.get_sample_value("backstop_audit_differences", {"kind": "table differs"}) is None
    assert registry.get_sample_value("backstop_audit_proved_at_seconds") == 200.0


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("import sys; print('backstop: no broker answers at x:1', file=sys.stderr); sys.exit(2)", "no broker answers"),
        ("import os; os.abort()", "it ended with code -6"),
        ("print('not json')", "its report is not JSON"),
        ("import time; time.sleep(600)", "it did not end within 0.5 s"),
    ],
)
def test_a_run_that_gives_no_report_has_failed_and_says_why(program, why):
    run = once([sys.executable, "-c", program], within_s=0.5 if "sleep" in program else 60.0)
    assert (run.outcome, why in run.why) == ("failed", True), run.why
    registry = told(run)
    assert registry.get_sample_value("backstop_audit_runs_total", {"outcome": "failed"}) == 1
    assert registry.get_sample_value("backstop_audit_proved_at_seconds") == 0


def test_it_runs_again_and_again_until_it_is_stopped(tmp_path):
    async def scenario() -> int:
        stop, registry = asyncio.Event(), CollectorRegistry()
        metrics = AuditMetrics(registry)
        times = iter(range(1, 100))

        def now_s() -> float:
            at = next(times)
            if at == 3:
                stop.set()
            return float(at)

        command = prints(tmp_path, PROVED, 0)
        await asyncio.wait_for(watch(lambda: run_once(command, 60.0, stop), 0.01, metrics, now_s, stop), 60)
        return int(registry.get_sample_value("backstop_audit_proved_at_seconds") or 0)

    assert asyncio.run(scenario()) == 3


def test_a_length_of_time_is_read_and_all_else_is_refused():
    assert [span_ms(text) for text in ("90s", "5m", "6h", "1d", "0.5h")] == [
        90_000, 300_000, 21_600_000, 86_400_000, 1_800_000,
    ]  # fmt: skip
    for wrong in ("", "0s", "5", "-1h", "soon", "2026-01-01"):
        with pytest.raises(ConfigurationError, match="is not a length of time"):
            span_ms(wrong)
