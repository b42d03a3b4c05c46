"""PURE: the evidence of a run, judged by the invariants (I1 to I7)."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from backstop.audit.report import Report
from backstop.dev.invariants import (
    Breach,
    Causes,
    Invariant,
    mismatched,
    repeated,
    unanswered,
    uncaused,
    unsubmitted,
    webhooks,
)
from tests.torture.driver import Submitted
from tests.torture.evidence import Evidence
from tests.torture.hedges import hedge_breaches
from tests.torture.plan import BOUND_S, DRAIN_S_MAX


@dataclass(slots=True)
class Verdict:
    """`counts` holds what was counted for each invariant, 0 where it held."""

    violations: list[Breach] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    overshoot_max_ms: int = 0
    rebuild: str = ""

    def add(self, invariant: Invariant, sentence: str, found: Sequence[str]) -> None:
        self.take(Breach(invariant, sentence, found))

    def take(self, *findings: Breach) -> None:
        for finding in findings:
            self.counts[f"{finding.invariant} {finding.sentence}"] = finding.count
            if finding.examples:
                self.violations.append(finding)


def judge(
    submitted: Submitted, evidence: Evidence, audit: Report, drains_s: Sequence[float], rebuild: str
) -> Verdict:  # fmt: skip
    """`rebuild`: what the rebuild of the read model said at the end; empty where it was equal."""
    verdict = Verdict(rebuild=rebuild)
    acknowledged = {known.job_id for known in submitted.acknowledged}
    results, jobs = evidence.results, evidence.jobs
    verdict.take(
        unanswered(sorted(acknowledged), results.count), repeated(results.count),
        unsubmitted(results.count, jobs.states), uncaused(evidence.creates, _causes(evidence), "log"),
        mismatched({job_id: result.outcome for job_id, result in results.first.items()}, evidence.rows),
        *webhooks(evidence.deliveries, evidence.webhooks), *hedge_breaches(evidence.jobs.hedges, results.first),
    )  # fmt: skip
    verdict.add("I1", "submissions refused for good", submitted.refused)
    _audit(verdict, audit)
    verdict.add("I5", "jobs open after everything should have ended", sorted(jobs.open))
    past_ms = {
        job_id: results.seen_ms[job_id] - deadline_ms
        for job_id, deadline_ms in jobs.deadlines_ms.items()
        if job_id in results.seen_ms
    }
    verdict.overshoot_max_ms = max(0, *past_ms.values()) if past_ms else 0
    # While processes die faster than they start no bound holds: the time counts from the last fault.
    late = [
        f"{job_id} ({results.seen_ms[job_id] - due_ms} ms)"
        for job_id, deadline_ms in jobs.deadlines_ms.items()
        if job_id in results.seen_ms
        and results.seen_ms[job_id] - (due_ms := max(deadline_ms, evidence.healed_at_ms)) > BOUND_S * 1000
    ]
    verdict.add("I5", f"results later than {BOUND_S:g} s after the deadline and the last fault", late)
    verdict.add(
        "I5", "drains longer than allowed", [f"{drain_s:.1f} s" for drain_s in drains_s if drain_s > DRAIN_S_MAX]
    )
    verdict.add("I6", "rebuilds of the read model that differ", [rebuild] if rebuild else [])
    worse, repeats = evidence.decay.found()
    verdict.add("decay", "share of expired jobs that grew under faults", worse)
    verdict.add("decay", "share of polls that were answered twice", repeats)
    missing = submitted.poisons - len(evidence.poisoned)
    verdict.add("I1", "poisoned records without a dead letter", [str(missing)] if missing > 0 else [])
    return verdict


def _causes(evidence: Evidence) -> dict[str, Causes]:
    commanded: dict[str, set[int]] = defaultdict(set)
    for command in evidence.commands:
        job_id, _, attempt = command.removesuffix("/create").rpartition("/")
        if attempt.isdecimal():
            commanded[job_id].add(int(attempt))
    jobs = evidence.jobs
    return {job_id: Causes(jobs.granted[job_id], commanded[job_id]) for job_id in jobs.states}


def _audit(verdict: Verdict, audit: Report) -> None:
    named: dict[str, list[str]] = {}
    for difference in audit.differences:
        named.setdefault(difference.check, []).append(str(difference))
    counts: Mapping[str, int] = audit.counts
    tables = [f"{name}: {count}" for name, count in counts.items() if not name.startswith("read_model")]
    rows = [f"{name}: {count}" for name, count in counts.items() if name.startswith("read_model")]
    examples = [text for texts in named.values() for text in texts[:3]]
    verdict.add("I4", "differences between logs, tables and outputs", [*tables, *(examples if tables else [])])
    verdict.add("I6", "differences between fold and read model", [*rows, *(examples if rows else [])])
