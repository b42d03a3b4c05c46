"""PURE: the evidence of a run, judged by the invariants (I1 to I7)."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backstop.audit.report import Report
from tests.torture.driver import Submitted
from tests.torture.evidence import Evidence, by_job
from tests.torture.plan import BOUND_S, DRAIN_S_MAX

EXAMPLES_MAX = 8


@dataclass(frozen=True, slots=True)
class Violation:
    """`examples` name the jobs, a few of them."""

    invariant: str
    sentence: str
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.invariant}: {self.count} {self.sentence}: {', '.join(self.examples)}"


@dataclass(slots=True)
class Verdict:
    """`counts` holds what was counted for each invariant, 0 where it held."""

    violations: list[Violation] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    overshoot_max_ms: int = 0
    rebuild: str = ""

    def add(self, invariant: str, sentence: str, found: Sequence[str]) -> None:
        self.counts[f"{invariant} {sentence}"] = len(found)
        if found:
            self.violations.append(Violation(invariant, sentence, len(found), tuple(found[:EXAMPLES_MAX])))


def judge(
    submitted: Submitted, evidence: Evidence, audit: Report, drains_s: Sequence[float], rebuild: str
) -> Verdict:  # fmt: skip
    """`rebuild`: what the rebuild of the read model said at the end; empty where it was equal."""
    verdict = Verdict(rebuild=rebuild)
    acknowledged = {known.job_id for known in submitted.acknowledged}
    results, jobs = evidence.results, evidence.jobs
    verdict.add("I1", "acknowledged jobs without a result", sorted(acknowledged - results.count.keys()))
    verdict.add("I1", "submissions refused for good", submitted.refused)
    verdict.add("I2", "jobs with more than one committed result", [j for j, n in results.count.items() if n > 1])
    verdict.add("I2", "results of jobs that were not submitted", sorted(results.count.keys() - jobs.states.keys()))
    _creates(verdict, evidence)
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
    wrong = [
        f"{job_id} (row {evidence.rows.get(job_id)}, result {result.outcome})"
        for job_id, result in results.first.items()
        if evidence.rows.get(job_id) != result.outcome
    ]
    verdict.add("I6", "rows that differ from their result", wrong)
    verdict.add("I6", "rebuilds of the read model that differ", [rebuild] if rebuild else [])
    _webhooks(verdict, evidence)
    worse, repeats = evidence.decay.found()
    verdict.add("decay", "share of expired jobs that grew under faults", worse)
    verdict.add("decay", "share of polls that were answered twice", repeats)
    missing = submitted.poisons - len(evidence.poisoned)
    verdict.add("I1", "poisoned records without a dead letter", [str(missing)] if missing > 0 else [])
    return verdict


def _creates(verdict: Verdict, evidence: Evidence) -> None:
    repeated: list[str] = []
    unasked: list[str] = []
    too_many: list[str] = []
    for job_id, creates in by_job(evidence.creates).items():
        attempts = Counter(str(create["attempt"]) for create in creates)
        repeated += [f"{job_id} attempt {attempt} ({n} times)" for attempt, n in attempts.items() if n > 1]
        unasked += [
            f"{job_id} attempt {attempt}"
            for attempt in attempts
            if f"{job_id}/{attempt}/create" not in evidence.commands
        ]
        granted = evidence.jobs.granted[job_id]
        if len(creates) > granted:
            too_many.append(f"{job_id} ({len(creates)} accepted, {granted} granted)")
    verdict.add("I3", "attempts that the provider accepted twice", repeated)
    verdict.add("I3", "accepted creates without a command", unasked)
    verdict.add("I3", "jobs with more accepted creates than granted", too_many)


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


def _webhooks(verdict: Verdict, evidence: Evidence) -> None:
    # Events of other kinds are answered, counted and dropped.
    delivered = {
        str(line["webhook_id"])
        for line in evidence.deliveries
        if _is_2xx(line) and line["authentic"] and str(line.get("type", "response.")).startswith("response.")
    }
    lost = sorted(webhook for webhook in delivered if webhook not in evidence.webhooks)
    verdict.add("I7", "webhooks answered 2xx and in no log", lost)
    forged = [line for line in evidence.deliveries if not line["authentic"]]
    verdict.add("I7", "forged webhooks answered 2xx", list(_named(forged, 200, 299)))
    verdict.add("I7", "forged webhooks in a log", sorted({str(line["webhook_id"]) for line in forged} & _own(evidence)))
    verdict.add("I7", "forged webhooks answered 5xx", list(_named(forged, 500, 599)))


def _own(evidence: Evidence) -> set[str]:
    """Ids of the kept webhooks, except those that a genuine delivery has as well."""
    true = {str(line["webhook_id"]) for line in evidence.deliveries if line["authentic"]}
    return evidence.webhooks - true


def _named(lines: Sequence[Mapping[str, Any]], low: int, high: int) -> Iterator[str]:
    return (f"{line['webhook_id']} ({line['status']})" for line in lines if low <= (line["status"] or 0) <= high)


def _is_2xx(line: Mapping[str, Any]) -> bool:
    return 200 <= (line["status"] or 0) < 300
