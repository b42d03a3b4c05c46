"""The world, driven by Hypothesis: each rule is an event that can happen next."""

import os
from typing import ClassVar, get_args

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from schemas.statuses import ObservedOutcome as Outcome
from streams.fold import job, response
from tests.properties.coverage import Coverage
from tests.properties.model import ADOPTING, TENANTS, CreateFate, JobStep, LogName, Made, PollFate, ResponseStep
from tests.properties.world import World
from tests.support import builders as build

EXAMPLES = int(os.environ.get("BACKSTOP_EXAMPLES", "500"))
"""Default 500, from fixed seeds. If the variable is set (20,000 a night), each run draws anew."""

STEPS = 50
FOREIGN_MAX = 3
PICK = st.integers(0, 2**16)
JOBS = st.sampled_from(sorted(TENANTS.keys() - {ADOPTING}))
CREATE_FATES = st.one_of(st.just("accept"), st.sampled_from(get_args(CreateFate)))
POLL_FATES = st.one_of(st.just("truth"), st.sampled_from(get_args(PollFate)))
ENDS = st.sampled_from([status for status in get_args(Outcome) if status not in {"running", "missing"}])


class Machine(RuleBasedStateMachine):
    """A subclass names the folds under test."""

    job_step: ClassVar[JobStep]
    response_step: ClassVar[ResponseStep]
    coverage: ClassVar[Coverage]

    def __init__(self) -> None:
        super().__init__()
        kind = type(self)
        self.world = World(kind.coverage, kind.__dict__["job_step"], kind.__dict__["response_step"])

    @initialize(job_id=st.sampled_from(["job_a", "job_c"]), stage=st.integers(0, 4), fate=CREATE_FATES)
    def first_job(self, job_id: str, stage: int, fate: CreateFate) -> None:
        """Some runs begin at a later stage, where most of the rare states are."""
        self.world.submit(job_id)
        self.world.deliver(0, copy=False)
        if stage == 1:
            self._flow_all(fate, "truth")
        if stage == 4:  # A hedge runs beside the first attempt; for a job that may not have one, a poll has come.
            self._flow_all("accept", "truth")
            for _ in range(2):
                self.world.fire("responses", self._made(0).response_id)
                self._flow_all("accept", "truth")
            return
        if stage >= 2:  # The provider accepted, and no report came: the attempt is abandoned, a retry is granted.
            self.world.deliver(0, copy=False, create="accept silent")
            self.world.fire("jobs", job_id)
            self.world.fire("jobs", job_id)
        if stage == 3:  # The abandoned response is discovered while its successor runs.
            self.world.fire("jobs", job_id)
            self._flow_all(fate, "truth")
            self.world.discover(self._made(0))
            self._flow_all(fate, "truth")

    @rule(job_id=JOBS, kind=st.sampled_from(["new", "again", "conflict", "other tenant", "refused"]))
    def submit(self, job_id: str, kind: str) -> None:
        if kind == "refused":
            self.world.refuse(job_id)
        else:
            tenant = "brick" if TENANTS[job_id] == "acme" else "acme"
            # Another tenant's job of that name cannot be the first: the ingress derives the id under the tenant.
            known = job_id in self.world.taken
            self.world.submit(
                job_id,
                "sha-2" if kind == "conflict" and known else "sha-1",
                tenant if kind == "other tenant" and known else None,
            )

    @rule(job_id=JOBS, mine=st.booleans())
    def cancel(self, job_id: str, mine: bool) -> None:
        self.world.request_cancel(job_id, TENANTS[job_id] if mine else "crow")

    @precondition(lambda self: self.world.in_flight)
    @rule(count=st.integers(1, 6), create=CREATE_FATES, poll=POLL_FATES)
    def flow(self, count: int, create: CreateFate, poll: PollFate) -> None:
        """Some records arrive in the order in which they were sent."""
        for _ in range(min(count, len(self.world.in_flight))):
            self.world.deliver(0, copy=False, create=create, poll=poll)

    @precondition(lambda self: self.world.in_flight)
    @rule(status=ENDS, create=CREATE_FATES, poll=POLL_FATES, webhooks=st.integers(0, 2))
    def busy_minute(self, status: Outcome, create: CreateFate, poll: PollFate, webhooks: int) -> None:
        """Deliver all records in flight and let the provider proceed. This reaches deep states."""
        self._flow_all(create, poll)
        for made in list(self.world.provider.values()):
            if made.status == "running":
                self.world.end(made, status, webhooks)
        self._flow_all(create, poll)

    @precondition(lambda self: self.world.in_flight)
    @rule(pick=PICK, copy=st.booleans(), create=CREATE_FATES, poll=POLL_FATES)
    def arrive(self, pick: int, copy: bool, create: CreateFate, poll: PollFate) -> None:
        """Any record arrives, out of turn and perhaps not for the last time."""
        self.world.deliver(pick % len(self.world.in_flight), copy=copy, create=create, poll=poll)

    @precondition(lambda self: self.world.creates)
    @rule(pick=PICK, says=st.sampled_from(["nothing", "answered", "taken", "refused", "held"]))
    def report_is_late(self, pick: int, says: str) -> None:
        """A submitter that was away tells what became of a create, after the timer of its attempt."""
        job_id, attempt = list(self.world.creates)[pick % len(self.world.creates)]
        at_ms, told = self.world.now_ms, {"answered": says == "answered" or None, "taken": says == "taken" or None}
        if says in ("refused", "held"):
            if self.world.not_refused(job_id, attempt):
                return
            self.world.held[job_id] += says == "held"
            cause = "held" if says == "held" else "overloaded"
            self.world.append(build.rejected(at_ms, attempt, job_id=job_id, cause=cause))
        else:
            self.world.append(build.unknown(at_ms, attempt, job_id=job_id, **told))

    @precondition(lambda self: self.world.provider)
    @rule(pick=PICK, status=ENDS, webhooks=st.integers(0, 2))
    def provider_ends(self, pick: int, status: Outcome, webhooks: int) -> None:
        self.world.end(self._made(pick), status, webhooks)

    @precondition(lambda self: self.world.provider)
    @rule(status=ENDS)
    def provider_ends_all(self, status: Outcome) -> None:
        """End a response with every webhook lost: only polls can find the end."""
        for made in self.world.provider.values():
            self.world.end(made, status, webhooks=0)

    @precondition(lambda self: self.world.provider)
    @rule(pick=PICK, times=st.integers(1, 2))
    def webhook(self, pick: int, times: int) -> None:
        """A webhook at any time: early for a running response, late for an ended one."""
        self.world.webhook(self._made(pick), times)

    @precondition(lambda self: self.world.provider)
    @rule(pick=PICK)
    def discover(self, pick: int) -> None:
        self.world.discover(self._made(pick))

    @precondition(lambda self: sum(key.startswith("foreign") for key in self.world.provider) < FOREIGN_MAX)
    @rule(
        job_id=JOBS, attempt=st.sampled_from([1, 1, 2, 3]), whose=st.sampled_from(["no job", "another tenant", "ours"])
    )
    def foreign(self, job_id: str, attempt: int, whose: str) -> None:
        tenant = TENANTS[job_id] if whose == "ours" else "crow"
        made = self.world.make_foreign(None if whose == "no job" else job_id, attempt, tenant)
        self.world.discover(made)

    @rule(pick=PICK, ours=st.booleans())
    def adopt(self, pick: int, ours: bool) -> None:
        """Adopt a response that a job of ours created, reported or not, or a response made elsewhere."""
        if self.world.adopted is None:
            world = self.world
            unreported = [
                made for made in world.provider.values() if ("responses", made.response_id) not in world.books
            ]
            known = unreported or list(world.provider.values())
            made = known[pick % len(known)] if ours and known else world.make_foreign(None, 1, "crow")
            self.world.adopted = made.response_id
        self.world.adopt(self.world.adopted)

    @rule(mine=st.booleans())
    def cancel_adopted(self, mine: bool) -> None:
        self.world.request_cancel(ADOPTING, TENANTS[ADOPTING] if mine else "crow")

    @precondition(lambda self: self.world.books)
    @rule(nth=st.sampled_from([0, 0, 0, 1, 2]))
    def timer(self, nth: int) -> None:
        self.world.fire_next(nth)

    @precondition(lambda self: self.world.books)
    @rule(pick=PICK, nth=PICK)
    def stale_timer(self, pick: int, nth: int) -> None:
        log, key = self._key(pick)
        dues_ms = self.world.books[log, key].dues_ms
        past_ms = [due for due in dues_ms if due <= self.world.now_ms]
        if past_ms:
            self.world.fire(log, key, due_ms=past_ms[nth % len(past_ms)])

    @precondition(lambda self: self.world.books)
    @rule(pick=PICK, nth=PICK)
    def crash(self, pick: int, nth: int) -> None:
        self.world.crash(*self._key(pick), nth)

    @rule(ms=st.sampled_from([1, 5_000, 45_000]))
    def time_passes(self, ms: int) -> None:
        self.world.now_ms += ms

    @invariant()
    def table_is_refold(self) -> None:
        for log, key in self.world.touched:
            self.world.refold(log, key)
        self.world.touched.clear()

    def teardown(self) -> None:
        self.world.drain()

    def _flow_all(self, create: CreateFate, poll: PollFate) -> None:
        for _ in range(len(self.world.in_flight) + 6):
            if self.world.in_flight:
                self.world.deliver(0, copy=False, create=create, poll=poll)

    def _made(self, pick: int) -> Made:
        made = list(self.world.provider.values())
        return made[pick % len(made)]

    def _key(self, pick: int) -> tuple[LogName, str]:
        keys = list(self.world.books)
        return keys[pick % len(keys)]


def run(
    coverage: Coverage,
    job_step: JobStep = job.step,
    response_step: ResponseStep = response.step,
    *,
    examples: int = EXAMPLES,
    nth: int = 0,
    shrink: bool = True,
    machine: type[Machine] = Machine,
) -> None:
    """Run the machine against these folds. The seed is `nth`; with `BACKSTOP_EXAMPLES` set, each run draws anew.

    :raises AssertionError: an invariant does not hold. Its message holds the steps that lead there.
    """

    class Run(machine):  # type: ignore[misc, valid-type]  # a class that is handed in
        pass

    Run.job_step, Run.response_step, Run.coverage = job_step, response_step, coverage
    chosen = settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        derandomize=False,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
    )
    seeded = Run if "BACKSTOP_EXAMPLES" in os.environ else seed(nth)(Run)
    run_state_machine_as_test(seeded, settings=chosen)
