"""The judge of a torture run: each kind of evidence against an invariant is seen, and good evidence is not."""

from collections.abc import Callable
from typing import Any

import pytest

from backstop.audit.report import Report
from backstop.dev.invariants import Create, ProviderDelivery
from schemas.results import AttemptBrief, HedgeBrief, JobResult, Timings
from streams.fold import job
from tests.torture.driver import Acknowledged, Submitted
from tests.torture.evidence import Evidence
from tests.torture.hedges import GrantedHedge, Races
from tests.torture.judge import Verdict, judge

CLEAN = Report(
    partitions=(), outputs={}, read_model_rows=1, counts={}, differences=(), not_covered={}, warnings=(), rounds=1,
    took_s=0.1,
)  # fmt: skip
DEADLINE_MS = 1_000_000


def _create(attempt: int = 1, job_id: str = "a") -> Create:
    return Create("resp_1", job_id, attempt, 0)


def _webhook(webhook_id: str = "wh_1", status: int = 200, *, authentic: bool = True) -> ProviderDelivery:
    return ProviderDelivery(webhook_id, status, authentic)


class World:
    """A run of one job in which all went well."""

    def __init__(self) -> None:
        self.submitted = Submitted(acknowledged=[Acknowledged("a", "kafka", 0)])
        self.evidence = Evidence()
        result = JobResult(
            id="a/result", at_ms=5, job_id="a", tenant="default", outcome="completed",
            timings=Timings(submitted_at_ms=0, finished_at_ms=5),
        )  # fmt: skip
        self.evidence.results.count["a"] = 1
        self.evidence.results.first["a"] = result
        self.evidence.results.seen_ms["a"] = 6
        self.evidence.jobs.states["a"] = job.Absent()
        self.evidence.jobs.deadlines_ms["a"] = DEADLINE_MS
        self.evidence.jobs.granted["a"] = 1
        self.evidence.rows["a"] = "completed"
        self.evidence.commands = {"a/1/create"}
        self.evidence.jobs.granted["a"] = 1
        self.evidence.creates = [_create()]
        self.evidence.webhooks = {"wh_1"}
        self.evidence.deliveries = [_webhook(), _webhook("wh_2", 503), _webhook("wh_3", 401, authentic=False)]
        self.audit = CLEAN
        self.drains_s = [3.0]
        self.rebuild = ""

    def verdict(self) -> Verdict:
        return judge(self.submitted, self.evidence, self.audit, self.drains_s, self.rebuild)


def test_a_run_in_which_all_went_well_is_accepted() -> None:
    verdict = World().verdict()
    assert verdict.violations == []
    assert set(verdict.counts.values()) == {0}


def _lose(world: World) -> None:
    world.submitted.acknowledged.append(Acknowledged("b", "http", 0))


def _refuse(world: World) -> None:
    world.submitted.refused.append("torture-2: 409 job_id_taken")


def _poison(world: World) -> None:
    world.submitted.poisons = 1


def _publish_twice(world: World) -> None:
    world.evidence.results.count["a"] = 2


def _publish_an_unknown_job(world: World) -> None:
    world.evidence.results.count["unknown"] = 1


def _create_twice(world: World) -> None:
    world.evidence.creates.append(_create())
    world.evidence.jobs.granted["a"] = 5


def _create_unasked(world: World) -> None:
    world.evidence.creates = [_create(2)]


def _create_beyond_what_was_granted(world: World) -> None:
    world.evidence.creates.append(_create(2))
    world.evidence.commands.add("a/2/create")


def _differ(world: World) -> None:
    world.audit = Report(**{**_fields(CLEAN), "counts": {"table differs": 2}})


def _differ_in_the_read_model(world: World) -> None:
    world.audit = Report(**{**_fields(CLEAN), "counts": {"read_model missing": 2}})


def _stay_open(world: World) -> None:
    world.evidence.jobs.open.add("a")


def _end_late(world: World) -> None:
    world.evidence.results.seen_ms["a"] = DEADLINE_MS + 90_001


def _drain_long(world: World) -> None:
    world.drains_s.append(31.0)


def _row_of_another_outcome(world: World) -> None:
    world.evidence.rows["a"] = "finishing"


def _rebuild_differs(world: World) -> None:
    world.rebuild = "exit 1: different"


def _lose_a_webhook(world: World) -> None:
    world.evidence.deliveries.append(_webhook("wh_4"))


def _believe_a_forgery(world: World) -> None:
    world.evidence.deliveries.append(_webhook("wh_4", 200, authentic=False))


def _keep_a_forgery(world: World) -> None:
    world.evidence.webhooks.add("wh_3")


def _stumble_over_a_forgery(world: World) -> None:
    world.evidence.deliveries.append(_webhook("wh_4", 500, authentic=False))


def _hedge(world: World, told: HedgeBrief) -> None:
    """The job was hedged, both attempts were accepted, and the second one completed first by the log."""
    world.evidence.jobs.hedges.granted["a"] = [GrantedHedge(2, 1)]
    world.evidence.jobs.hedges.permits = {"p"}
    world.evidence.jobs.hedges.completed["a"] = ["resp_2", "resp_1"]
    world.evidence.jobs.granted["a"] = 2
    world.evidence.commands.add("a/2/create")
    world.evidence.creates.append(Create("resp_2", "a", 2, 1))
    world.evidence.cancelled = {"resp_1"}
    briefs = [AttemptBrief(attempt=n, outcome="completed", response_id=f"resp_{n}") for n in (1, 2)]
    result = world.evidence.results.first["a"]
    world.evidence.results.first["a"] = result.model_copy(update={"hedge": told, "attempts": tuple(briefs)})


WON = HedgeBrief(attempt=2, beside=1, begun_after_ms=5, won="hedge")


def _hedge_twice(world: World) -> None:
    _hedge(world, WON)
    world.evidence.jobs.hedges.granted["a"].append(GrantedHedge(3, 1))


def _hedge_without_a_permission(world: World) -> None:
    _hedge(world, WON)
    world.evidence.jobs.hedges.granted.clear()


def _call_the_loser_the_winner(world: World) -> None:
    _hedge(world, WON.model_copy(update={"won": "first"}))


def test_a_hedge_that_won_is_accepted_and_counted() -> None:
    world = World()
    _hedge(world, WON)
    assert world.verdict().violations == []
    assert world.evidence.races == Races(permitted=1, granted=1, raced=1, won=1, cancelled=1)
    world.evidence.creates.pop()
    assert world.evidence.races == Races(permitted=1, granted=1), "the hedge was not accepted"


@pytest.mark.parametrize(
    ("damage", "invariant"),
    [
        (_lose, "I1"), (_refuse, "I1"), (_poison, "I1"), (_publish_twice, "I2"), (_publish_an_unknown_job, "I2"),
        (_create_twice, "I3"), (_create_unasked, "I3"), (_create_beyond_what_was_granted, "I3"), (_differ, "I4"),
        (_stay_open, "I5"), (_end_late, "I5"), (_drain_long, "I5"), (_differ_in_the_read_model, "I6"),
        (_row_of_another_outcome, "I6"), (_rebuild_differs, "I6"), (_lose_a_webhook, "I7"), (_believe_a_forgery, "I7"),
        (_keep_a_forgery, "I7"), (_stumble_over_a_forgery, "I7"),
        (_hedge_twice, "I3"), (_hedge_without_a_permission, "I3"), (_call_the_loser_the_winner, "I2"),
    ],
)  # fmt: skip
def test_each_kind_of_evidence_is_seen(damage: Callable[[World], None], invariant: str) -> None:
    world = World()
    damage(world)
    violations = world.verdict().violations
    assert [violation.invariant for violation in violations] == [invariant]
    assert violations[0].count >= 1


def _fields(report: Report) -> dict[str, Any]:
    return {name: getattr(report, name) for name in Report.__dataclass_fields__}
