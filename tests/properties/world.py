"""A small world around both folds: upstream, provider, receiver, submitter, caller, scheduler, and records in flight.

It does what the shell may do and what a bad day brings: any order, duplicates, crashes that send outputs again, lost
calls, provider faults. Calls may be lost, records in a log never. After each fact it checks the invariants of the folds
(`_check`), so that a failure stands at the fact that caused it.
"""

from typing import Any

from schemas.base import InlineBody, Message, Usage
from schemas.commands import CancelResponse, CreateResponse, RetrieveResponse
from schemas.jobs import JobRefused, JobSubmitted, ResponseAdopted, Turn
from schemas.responses import ResponseClaimed
from schemas.results import JobResult
from schemas.statuses import ObservedOutcome as Outcome
from streams.fold import job, response
from streams.fold.step import Step
from tests.properties.coverage import Coverage
from tests.properties.invariants import Invariants, check_repeat
from tests.properties.model import (
    ADOPTING,
    FORGET_AFTER_MS,
    HEDGE_AFTER_MS,
    NEXT_POLL_MS,
    POLICIES,
    SOON_MS,
    START_MS,
    TENANTS,
    TIMEOUT_MS,
    WAITS,
    Book,
    CreateFate,
    JobStep,
    LogName,
    Made,
    PollFate,
    ResponseStep,
    due_of,
    encode_state,
)
from tests.support import builders as build


class World(Invariants):
    def __init__(
        self, coverage: Coverage, job_step: JobStep = job.step, response_step: ResponseStep = response.step
    ) -> None:
        super().__init__(coverage, job_step, response_step)
        self.now_ms = START_MS
        self.books: dict[tuple[LogName, str], Book] = {}
        self.touched: set[tuple[LogName, str]] = set()
        self.in_flight: list[Message] = []
        self.commands_seen: set[str] = set()
        self.ids = 0
        self.adopted: str | None = None
        self.failed = False
        """A check is under way, or did not pass: what a broken world does next proves nothing."""

    # ---- what happens

    def next_id(self, what: str) -> str:
        self.ids += 1
        return f"{what}_{self.ids}"

    def send(self, *messages: Message) -> None:
        self.in_flight.extend(messages)

    def submit(self, job_id: str, sha: str = "sha-1", tenant: str | None = None) -> None:
        self.send(
            build.submitted(
                self.now_ms, job_id=job_id, tenant=tenant or TENANTS[job_id], request_sha256=sha,
                deadline_at_ms=self.now_ms + TIMEOUT_MS, policy=POLICIES[job_id],
                turn=Turn(waits=True) if job_id == WAITS else None,
            )
        )  # fmt: skip

    def adopt(self, response_id: str) -> None:
        """Always the same response: the ingress derives the job's id from it."""
        self.send(
            build.adopted(
                self.now_ms, response_id, job_id=ADOPTING, tenant=TENANTS[ADOPTING], request_sha256="adopted",
                deadline_at_ms=self.now_ms + TIMEOUT_MS, policy=POLICIES[ADOPTING],
            )
        )  # fmt: skip

    def refuse(self, job_id: str) -> None:
        tenant = TENANTS[job_id]
        self.send(build.refused(self.now_ms, job_id=job_id, tenant=tenant, forget_after_ms=FORGET_AFTER_MS))

    def request_cancel(self, job_id: str, tenant: str) -> None:
        self.send(build.cancel_requested(self.now_ms, job_id=job_id, tenant=tenant))

    def deliver(self, index: int, *, copy: bool, create: CreateFate = "accept", poll: PollFate = "truth") -> None:
        """One record in flight arrives; as a copy it is still in flight, and arrives again."""
        message = self.in_flight[index] if copy else self.in_flight.pop(index)
        match message:
            case CreateResponse():
                self._create(message, create)
            case RetrieveResponse():
                self._poll(message, poll)
            case CancelResponse():
                self._cancel(message, poll)
            case JobSubmitted() | JobRefused() | ResponseAdopted() if message.job_id in self.forgotten:
                pass  # Repeats are expected within the window only: so long is a job remembered.
            case _:
                self.append(message)

    def _create(self, command: CreateResponse, fate: CreateFate) -> None:
        """The submitter: at most once, and not after its time."""
        if command.id in self.commands_seen:
            return
        self.commands_seen.add(command.id)
        told: dict[str, Any] = {"job_id": command.job_id, "attempt": command.attempt}
        if self.now_ms > command.not_after_ms:
            self.send(build.rejected(self.now_ms, cause="faulty", code="not_sent", **told))
            return
        if fate.startswith("reject"):
            wait_ms = 30_000 if fate == "reject limited" else 0
            cause = fate.split()[1]
            self.held[command.job_id] += cause == "held"
            self.send(build.rejected(self.now_ms, cause=cause, wait_ms=wait_ms, **told))
            return
        if fate.startswith("accept"):
            made = Made(self.next_id("resp"), command.job_id, command.attempt, command.tenant)
            self.provider[made.response_id] = made
            if fate == "accept refused":  # The provider's own word is wrong, so nothing bounds its cost.
                self.send(build.rejected(self.now_ms, cause="overloaded", code="slow_down", **told))
                return
            self.accepts[command.job_id] += 1
            self.check_spend(command.job_id)
            if fate == "accept taken":
                self.send(build.unknown(self.now_ms, taken=True, message="{}", **told))
            if fate == "accept":
                hedge_at_ms = self.now_ms + HEDGE_AFTER_MS if command.hedge else None
                told |= {"response_id": made.response_id, "tenant": command.tenant, "hedge_at_ms": hedge_at_ms}
                self.send(build.accepted(self.now_ms, **told))
        if fate.endswith("unknown"):
            answered = True if fate.startswith("answered") else None
            self.send(build.unknown(self.now_ms, answered=answered, **told))

    def not_refused(self, job_id: str, attempt: int) -> bool:
        """A worker tells no refusal of a create that was accepted, or is still to be performed."""
        accepted = {(made.job_id, made.attempt) for made in self.provider.values()}
        coming = {
            (each.job_id, each.attempt)
            for each in self.in_flight
            if isinstance(each, CreateResponse) and each.id not in self.commands_seen
        }
        return (job_id, attempt) in accepted | coming

    def _poll(self, command: RetrieveResponse, fate: PollFate) -> None:
        made = self.provider.get(command.response_id)
        if fate == "lost":
            return
        if fate == "failed":
            self.send(build.poll_failed(self.now_ms, command.response_id, next_poll_at_ms=self.now_ms + SOON_MS))
            return
        if made is None or fate == "missing":
            self._observe(command, "missing", None)
        elif fate == "odd":
            self._observe(command, "odd", made, soon=True)
        else:
            self._observe(command, "running" if fate == "regress" else made.status, made, soon=fate == "regress")

    def _cancel(self, command: CancelResponse, fate: PollFate) -> None:
        made = self.provider.get(command.response_id)
        if fate == "lost" or made is None:
            return
        if made.status == "running":
            made.become("cancelled")
        self._observe(command, made.status, made)
        if fate == "cancelled then completed" and made.status == "cancelled":
            made.become("completed")

    def _observe(
        self, command: RetrieveResponse | CancelResponse, outcome: Outcome, made: Made | None, *, soon: bool = False
    ) -> None:
        whose: dict[str, Any] = {}
        if made is not None and made.job_id is not None:
            whose = {"job_id": made.job_id, "attempt": made.attempt, "tenant": made.tenant}
        self.send(
            build.observed(
                self.now_ms, outcome, command.response_id, command_id=command.id, raw_status=outcome,
                id=self.next_id("observed"), cause="faulty" if outcome == "failed" else None,
                response=InlineBody(value={"id": command.response_id}), **whose,
                usage=Usage(total_tokens=3) if outcome == "completed" or self.ids % 2 else None,
                next_poll_at_ms=self.now_ms + (SOON_MS if soon else NEXT_POLL_MS),
            )
        )  # fmt: skip

    def make_foreign(self, job_id: str | None, attempt: int, tenant: str) -> Made:
        """A response that no submitter of ours made, whatever its metadata say."""
        made = Made(self.next_id("foreign"), job_id, attempt, tenant)
        self.provider[made.response_id] = made
        return made

    def end(self, made: Made, status: Outcome, webhooks: int) -> None:
        if made.status == "running":
            made.become(status)
        for _ in range(webhooks):
            self.webhook(made)

    def webhook(self, made: Made, times: int = 1) -> None:
        """One event, delivered so often."""
        webhook = build.webhook(self.now_ms, self.next_id("wh"), made.response_id, forget_after_ms=FORGET_AFTER_MS)
        self.send(*(webhook for _ in range(times)))

    def discover(self, made: Made) -> None:
        """A webhook arrives for an unclaimed response. Its timer fires, and a poll returns its metadata."""
        self.append(build.webhook(self.now_ms, self.next_id("wh"), made.response_id, forget_after_ms=FORGET_AFTER_MS))
        if self.books["responses", made.response_id].state.kind == "unclaimed":
            self.fire("responses", made.response_id)
            if self.in_flight and self._is_poll_at(made, self.in_flight[-1]):
                self.deliver(len(self.in_flight) - 1, copy=False)
                self.deliver(len(self.in_flight) - 1, copy=False)

    @staticmethod
    def _is_poll_at(made: Made, message: Message) -> bool:
        return isinstance(message, RetrieveResponse) and message.response_id == made.response_id

    def fire(self, log: LogName, key: str, *, due_ms: int | None = None) -> None:
        """The scheduler writes the timer of this key: the one it waits for, or (`due_ms`) an older one."""
        due = due_of(self.books[log, key].state) if due_ms is None else due_ms
        if due is None:
            return
        self.now_ms = max(self.now_ms, due)
        state = self.books[log, key].state
        if isinstance(state, job.Waiting) and due_ms is None and self.now_ms < state.spec.deadline_at_ms:
            self.append(build.admitted(self.now_ms, key))
        else:
            self.append(_timer(log, key, due, self.now_ms, state))

    def fire_next(self, nth: int) -> None:
        """One of the timers that are due first, so that time does not run ahead of what else may happen."""
        dues = sorted((due, *at) for at, book in self.books.items() if (due := due_of(book.state)) is not None)
        if dues:
            _, log, key = dues[nth % len(dues)]
            self.fire(log, key)

    def crash(self, log: LogName, key: str, nth: int) -> None:
        """Outputs were sent, and the process died before it wrote the row: they are sent again, the same ones."""
        steps = self.books[log, key].steps
        if steps:
            self.send(*(out for out in steps[nth % len(steps)].outputs if not isinstance(out, JobResult)))

    # ---- the folds

    def append(self, event: Message) -> Step[Any]:
        """A fact stands on its log; its fold takes it, and what comes out is in flight."""
        self.failed = True
        log: LogName = "responses" if event.topic == ResponseClaimed.topic else "jobs"
        book = self.books.get((log, event.key))
        if book is None:
            absent = response.AbsentResponse() if log == "responses" else job.Absent()
            book = self.books[log, event.key] = Book(absent)
        before, step = book.state, self.response_step if log == "responses" else self.job_step
        done = step(before, event)
        book.state = done.state
        book.facts.append(event)
        book.steps.append(done)
        self.touched.add((log, event.key))
        self.coverage.record(log, before, event, done)
        self.send(*(out for out in done.outputs if not isinstance(out, JobResult)))
        assert step(before, event) == done, "the same state and fact gave another step"
        check_repeat(step(done.state, event), done.state)
        self.check(log, book, before, event, done)
        self.failed = False
        return done

    def refold(self, log: LogName, key: str) -> None:
        """I4: the log folded from the beginning gives the same bytes and the same outputs."""
        book = self.books[log, key]
        state: Any = response.AbsentResponse() if log == "responses" else job.Absent()
        step = self.response_step if log == "responses" else self.job_step
        for fact, done in zip(book.facts, book.steps, strict=True):
            again = step(state, fact)
            assert again.outputs == done.outputs, f"{log} {key}: a refold gives other outputs at {fact.id}"
            state = again.state
        assert encode_state(log, state) == encode_state(log, book.state), f"{log} {key}: a refold gives another row"

    # ---- how it ends

    def drain(self) -> None:
        """I1: every fault is over, every record arrives, timers fire: each job that was taken ends, with one result."""
        if self.failed:
            return
        over_ms = self.now_ms + TIMEOUT_MS
        for _ in range(2_000):
            if self.in_flight:
                self.deliver(0, copy=False)
                continue
            waiting = [
                (due, log, key)
                for (log, key), book in self.books.items()
                if book.state.kind in {"active", "backing_off", "running", "waiting"}
                if (due := due_of(book.state)) is not None and due <= over_ms
            ]
            if not waiting:
                break
            _, log, key = min(waiting)
            self.fire(log, key)
        else:
            raise AssertionError("I5: the world does not come to rest")
        ended = {job_id for job_id, told in self.results.items() if len(told) == 1}
        assert ended == self.taken, f"I1: taken {sorted(self.taken)}, ended {sorted(ended)}"


def _timer(log: LogName, key: str, due_ms: int, at_ms: int, state: Any) -> Message:
    """A timer that asks for a hedge has the permission. Any other one says when to ask."""
    if log == "jobs":
        return build.job_timer(due_ms, at_ms, key)
    hedge = state.hedge if isinstance(state, response.RunningResponse) else None
    stamp: dict[str, Any] = {}
    if hedge is not None:
        asks = hedge.ask_at_ms is not None and hedge.ask_at_ms <= at_ms
        stamp = {"permit": build.PERMIT} if asks else {"hedge_at_ms": at_ms + HEDGE_AFTER_MS}
    return build.response_timer(due_ms, at_ms, key, next_poll_at_ms=at_ms + NEXT_POLL_MS, **stamp)
