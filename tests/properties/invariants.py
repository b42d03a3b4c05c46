"""Invariants of the folds after each fact and of the world at rest. A breach raises an AssertionError with its name."""

from collections import Counter
from typing import Any

from schemas.base import Message
from schemas.codec import encode
from schemas.commands import CancelResponse, CreateResponse
from schemas.jobs import (
    AdoptionRefused,
    AttemptAccepted,
    AttemptRejected,
    AttemptSettled,
    AttemptUnknown,
    HedgePermitted,
    JobChanged,
    JobTimerFired,
)
from schemas.responses import ResponseClaimed, ResponseObserved, ResponseReleased, ResponseTimerFired
from schemas.results import JobResult
from streams.fold import job
from streams.fold.step import Step
from tests.properties.coverage import Coverage
from tests.properties.model import (
    ADOPTING,
    POLICIES,
    TENANTS,
    TIMERS_TO_THE_END_MAX,
    Book,
    JobStep,
    LogName,
    Made,
    ResponseStep,
    decode_state,
    due_of,
    encode_state,
)
from tests.support import builders as build


class Invariants:
    """The counts for I1 to I5 and I9, and their checks."""

    def __init__(self, coverage: Coverage, job_step: JobStep, response_step: ResponseStep) -> None:
        self.coverage = coverage
        self.job_step = job_step
        self.response_step = response_step
        self.provider: dict[str, Made] = {}
        self.creates: dict[tuple[str, int], bytes] = {}
        self.accepts: Counter[str] = Counter()
        self.accepts_allowed: Counter[str] = Counter()
        self.hedges: dict[str, str] = {}
        """Job → the permission from which its hedge began."""
        self.held: Counter[str] = Counter()
        """Creates that a closed lane held back: they count nowhere."""
        self.taken: set[str] = set()
        self.surely: set[tuple[str, int]] = set()
        """Attempts that the provider took, whose response is not known."""
        self.forgotten: set[str] = set()
        self.results: dict[str, list[JobResult]] = {}
        self.settled: Counter[tuple[str, str]] = Counter()
        """By response and job."""

    def check(self, log: LogName, book: Book, before: Any, event: Message, done: Step[Any]) -> None:
        state, nothing = done.state, done.state == before and not done.outputs
        assert (done.ignored is not None) == nothing, f"ignored is {done.ignored}, and nothing happened is {nothing}"
        assert decode_state(log, encode_state(log, state)) == state, "a row does not come back"
        due = due_of(state)
        assert (due is None) == (state.kind == "absent"), f"{state.kind} is due at {due}"
        if due is not None:
            book.dues_ms.append(due)
        if isinstance(event, JobTimerFired | ResponseTimerFired) and done.ignored is None:
            expected = due_of(before)
            assert expected is not None
            assert event.at_ms >= expected, "something happened before its time"
        self._note_taken(event, done)
        for output in done.outputs:
            self._check_output(output, before, event)
        if isinstance(event, HedgePermitted) and done.ignored is None:
            self._check_hedge(event, before)
        if isinstance(event, AttemptSettled) and state.kind == "finished" and before.kind == "active":
            self._check_end(event, before)
        if log == "jobs":
            self._check_job(event.key, before, state)
        elif state.kind == "absent" and before.kind != "absent":
            for whose in [whose for whose in self.settled if whose[0] == event.key]:
                del self.settled[whose]

    def _note_taken(self, event: Message, done: Step[Any]) -> None:
        if isinstance(event, AttemptUnknown) and event.taken and done.ignored is None:
            self.surely.add((event.job_id, event.attempt))
        if isinstance(event, AttemptAccepted | AttemptRejected):
            self.surely.discard((event.job_id, event.attempt))

    def _check_not_repeated(self, job_id: str, before: Any) -> None:
        hedge = before.attempts.hedge if before.kind in ("active", "backing_off") else None
        held = {number for whose, number in self.surely if whose == job_id} - {hedge.number if hedge else 0}
        assert not held, f"I3: attempts {held} were taken, and another one begins"

    def _check_job(self, job_id: str, before: Any, state: Any) -> None:
        if before.kind == "absent" and state.kind != "absent":
            self.taken.add(job_id)
        if before.kind == "finished" and state.kind == "absent":
            self.forgotten.add(job_id)
        if isinstance(state, job.Waiting | job.Active | job.BackingOff):
            attempts = state.attempts
            assert attempts.retries <= POLICIES[job_id].retries_max + 1, "I3: more paid attempts than the policy grants"
            live = sum(item.kind in ("submitting", "outcome_unknown", "running") for item in attempts.items)
            spent = attempts.hedge is not None and attempts.hedge.spent
            allowed = attempts.retries + attempts.unpaid_ends + attempts.doubts + spent + live
            self.accepts_allowed[job_id] = max(self.accepts_allowed[job_id], allowed)
            self.check_spend(job_id)
            dies_in_time(state, self.job_step)
        if state.kind == "finished":
            assert len(self.results.get(job_id, [])) == 1, "I1: a job is finished without a result"

    def _check_hedge(self, event: HedgePermitted, before: Any) -> None:
        assert POLICIES[event.job_id].hedge, "I3: a job is hedged that did not ask for it"
        assert self.hedges.setdefault(event.job_id, event.id) == event.id, "I3: a job has two hedges"
        live = [item for item in before.attempts.items if item.kind in ("submitting", "outcome_unknown", "running")]
        assert [item.kind for item in live] == ["running"], "I3: a hedge begins beside what does not run alone"

    def _check_end(self, event: AttemptSettled, before: Any) -> None:
        """While one of two attempts lives, only a completed or an incomplete answer of the other ends a hedged job."""
        others = [item for item in before.attempts.items if getattr(item, "response_id", "") != event.response_id]
        live = any(item.kind in ("submitting", "outcome_unknown", "running") for item in others)
        answers = event.status in ("completed", "incomplete")
        assert answers or before.attempts.hedge is None or not live, "a failure ends a job whose other attempt lives"

    def check_spend(self, job_id: str) -> None:
        allowed = self.accepts_allowed[job_id]
        assert self.accepts[job_id] <= allowed, f"I3: {self.accepts[job_id]} creates accepted, {allowed} granted"

    def _check_output(self, output: Message, before: Any, event: Message) -> None:
        match output:
            case JobResult():
                self._check_result(output, before, event)
            case CreateResponse():
                self._check_not_repeated(output.job_id, before)
                known = self.creates.setdefault((output.job_id, output.attempt), encode(output))
                assert known == encode(output), "I3: one attempt has two commands"
                policy = POLICIES[output.job_id]
                most = policy.retries_max + policy.rejections_max + policy.unpaid_ends_max + policy.doubts_max
                held = self.held[output.job_id]
                assert output.attempt <= 1 + most + held + (policy.hedge is True), "I3: an attempt that was not granted"
            case AttemptSettled(status="missing" | "stuck"):
                pass  # Told once while it runs; its end may be told after all.
            case AttemptSettled():
                whose = (output.response_id, output.job_id)
                self.settled[whose] += 1
                assert self.settled[whose] == 1, "a response is settled twice"
                named = self.provider[output.response_id].job_id
                assert named in (None, output.job_id), "I9: a job is told the end of another's response"
            case HedgePermitted():
                runs = isinstance(event, ResponseObserved) and event.outcome == "running"
                assert runs, "I3: a hedge without a poll that shows that the response runs"
            case CancelResponse():
                named = self.provider[output.response_id].job_id
                takes_over = isinstance(event, ResponseClaimed)  # then the cancel is the creating job's
                adopted = before.kind == "running" and before.claim.made_elsewhere and not takes_over
                assert not adopted or named is None, "the adopting job cancels a response of another job"
            case ResponseClaimed(made_elsewhere=True):
                assert output.job_id == ADOPTING
            case ResponseClaimed():
                made = self.provider[output.response_id]
                assert made.tenant == output.tenant == TENANTS[output.job_id], (
                    "I9: a response of another tenant is claimed"
                )
                assert (made.job_id, made.attempt) == (output.job_id, output.attempt)
            case _:
                pass

    def _check_result(self, result: JobResult, before: Any, event: Message) -> None:
        told = self.results.setdefault(result.job_id, [])
        told.append(result)
        assert len(told) == 1, f"I2: {len(told)} results of {result.job_id}"
        assert result.tenant == TENANTS[result.job_id], "I9: the result goes to another tenant"
        if result.outcome == "expired":
            moved_ms = event.deadline_at_ms if isinstance(event, JobChanged) else None
            deadline_ms = before.spec.deadline_at_ms if moved_ms is None else moved_ms
            assert event.at_ms >= deadline_ms, "a job expired before its deadline"
        if result.outcome == "completed":
            assert result.response is not None
            won = [brief.response_id for brief in result.attempts if brief.outcome == "completed"]
            truth = [made for made in self.provider.values() if made.response_id in won and "completed" in made.ever]
            whose = (None, "crow") if result.job_id == ADOPTING else (result.job_id, result.tenant)
            assert [(made.job_id, made.tenant) for made in truth] == [whose], "not what happened"


def check_repeat(again: Step[Any], state: Any) -> None:
    """Check a step over a record that is published twice in a row.

    The state stays. Only a claim, its refusal, a release, a cancel or an acceptance may be sent again.
    """
    assert again.state == state, "a repeat changes the state"
    harmless = ResponseClaimed | ResponseReleased | CancelResponse | AttemptAccepted | AdoptionRefused
    assert all(isinstance(out, harmless) for out in again.outputs), f"a repeat sends {again.outputs}"


def dies_in_time(state: Any, step: JobStep) -> None:
    """I5: with a dead provider, timers alone end the job, in a bounded number, by its deadline."""
    deadline_at_ms = state.spec.deadline_at_ms
    for _ in range(TIMERS_TO_THE_END_MAX):
        due = job.due_ms(state)
        assert due is not None
        done = step(state, build.job_timer(due))
        assert done.ignored is None, "I5: a timer that was due did nothing"
        state = done.state
        if isinstance(state, job.Finished):
            assert state.finished_at_ms <= deadline_at_ms, "I5: the job outlives its deadline"
            return
    raise AssertionError(f"I5: not ended after {TIMERS_TO_THE_END_MAX} timers: {state}")
