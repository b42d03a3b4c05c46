"""`backstop audit watch`: the proof of `backstop audit verify` again and again, with its result as metrics.

Each run is a process of its own. It shares nothing with the workers but the schemas and the folds, its memory is given
back when it ends, and a run that crashes or hangs is a failed run and nothing more.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import orjson
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

from backstop.runtime.process.logs import get_logger
from schemas.text import printable

END_S: Final = 10.0
WHY_CHARS_MAX: Final = 300

log = get_logger("audit")

Outcome = Literal["proved", "differs", "failed"]


class AuditMetrics:
    """What the last runs found."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        where = REGISTRY if registry is None else registry
        self.runs = Counter(
            "backstop_audit_runs",
            "Runs of the proof, by outcome: proved, differs, failed.",
            ["outcome"],
            registry=where,
        )
        for outcome in get_args(Outcome):
            self.runs.labels(outcome)
        self.proved_at_s = Gauge(
            "backstop_audit_proved_at_seconds", "When a run last ended without a difference (Unix seconds).",
            registry=where,
        )  # fmt: skip
        self.differences = Gauge(
            "backstop_audit_differences", "Differences that the last run found, by check and kind.", ["kind"],
            registry=where,
        )  # fmt: skip
        self.not_covered = Gauge(
            "backstop_audit_not_covered", "Items that the last run could not check, as retention removed their facts.",
            registry=where,
        )  # fmt: skip
        self.took_s = Gauge("backstop_audit_seconds", "How long the last run took.", registry=where)
        self.records = Gauge("backstop_audit_records", "Facts that the last run refolded.", registry=where)


@dataclass(frozen=True, slots=True)
class AuditRun:
    """The end of a run. `report` is the report as JSON; None if the run failed, with `why`."""

    report: Mapping[str, Any] | None
    why: str = ""

    @property
    def outcome(self) -> Outcome:
        if self.report is None:
            return "failed"
        return "proved" if self.report["verdict"] == "proved" else "differs"


async def watch(
    run: Callable[[], Awaitable[AuditRun]],
    every_s: float,
    metrics: AuditMetrics,
    now_s: Callable[[], float],
    stop: asyncio.Event,
) -> None:
    """Run the proof now, and again `every_s` seconds after each end, until `stop`."""
    while not stop.is_set():
        tell(metrics, await run(), now_s())
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), every_s)


def tell(metrics: AuditMetrics, run: AuditRun, at_s: float) -> None:
    """Set the metrics, and log what an operator must see."""
    metrics.runs.labels(run.outcome).inc()
    if run.report is None:
        log.error("audit_failed", why=run.why)
        return
    report = run.report
    metrics.differences.clear()
    for kind, count in report["counts"].items():
        metrics.differences.labels(kind).set(count)
    metrics.not_covered.set(sum(report["not_covered"].values()))
    metrics.took_s.set(report["took_s"])
    metrics.records.set(sum(partition["facts"] for partition in report["partitions"]))
    if run.outcome == "proved":
        metrics.proved_at_s.set(at_s)
        log.info("audit_proved", took_s=report["took_s"], not_covered=dict(report["not_covered"]))
    else:
        first = report["differences"][0] if report["differences"] else {}
        log.error("audit_differs", counts=dict(report["counts"]), first=first)


async def run_once(command: Sequence[str], within_s: float, stop: asyncio.Event) -> AuditRun:
    """One run. It is ended when `stop` is set, or after `within_s`.

    :param command: prints the report as JSON; ends with 0 (proved) or 1 (it differs).
    """
    child = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    reading = asyncio.ensure_future(child.communicate())
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({reading, stopping}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            why = "stopped" if stop.is_set() else f"it did not end within {within_s:g} s"
            await _end(child, reading)
            return AuditRun(None, why)
        out, complaints = reading.result()
    finally:
        stopping.cancel()
    return _read(child.returncode, out, complaints)


async def _end(child: asyncio.subprocess.Process, reading: "asyncio.Future[Any]") -> None:
    child.terminate()
    try:
        await asyncio.wait_for(reading, END_S)
    except TimeoutError:
        child.kill()
        await child.wait()


def _read(code: int | None, out: bytes, complaints: bytes) -> AuditRun:
    if code not in (0, 1):
        lines = complaints.decode(errors="replace").strip().splitlines() or [f"it ended with code {code}"]
        return AuditRun(None, printable(lines[-1])[:WHY_CHARS_MAX])
    try:
        report = orjson.loads(out)
    except orjson.JSONDecodeError as error:
        return AuditRun(None, f"its report is not JSON: {error.msg}")
    return AuditRun(report)
