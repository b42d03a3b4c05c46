"""One job from its submission to its result, through both folds. Faults of its attempts are given, costs are counted.

The folds alone decide. A `Day` says what the provider does to the current attempt, and timers fire when they are due.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from schemas.base import Cause, Message, Usage
from schemas.commands import CancelResponse, CreateResponse, RetrieveResponse
from schemas.jobs import AttemptSettled, JobPolicy, UsageBooked
from schemas.responses import ResponseClaimed, ResponseReleased
from schemas.results import JobResult
from streams.fold import job, response
from tests.support import builders as build

Place = Literal["create", "doubt", "unknown", "end", "paid end", "poll", "gone", "stuck"]
"""Where the attempt meets its fault.

"create": the create is refused. "doubt": a 5xx answers the create, which proves nothing. "unknown": no report comes.
"end", "paid end": the response fails without usage, with usage. "poll": polls fail for a while, then the response
completes. "gone": each poll is answered with 404. "stuck": the response stays queued.
"""

RUN_MS = 30_000
POLL_MS = 15_000
POLLS_MAX = 60
TIMERS_MAX = 200


@dataclass(frozen=True, slots=True)
class Day:
    place: Place
    cause: Cause = "faulty"
    told_ms: int = 0


@dataclass(slots=True)
class Life:
    """`spent` counts attempts by their cost. `waits_ms` holds the told wait and the actual wait of each
    back-off; half of the time that was left, where the told wait reached the deadline.
    """

    policy: JobPolicy
    now_ms: int = build.T0
    state: Any = field(default_factory=job.Absent)
    responses: dict[str, Any] = field(default_factory=dict)
    results: list[JobResult] = field(default_factory=list)
    command: CreateResponse | None = None
    spent: Counter[str] = field(default_factory=Counter)
    causes: list[Cause] = field(default_factory=list)
    waits_ms: list[tuple[int, int]] = field(default_factory=list)

    def begin(self) -> None:
        self.take(build.submitted(self.now_ms, policy=self.policy))

    @property
    def over(self) -> bool:
        return bool(self.results)

    def take(self, *facts: Message) -> None:
        """Fold facts of the job's log or a response's, and the facts that come out. Commands are kept or ignored."""
        step: Any
        for fact in facts:
            if fact.topic == ResponseClaimed.topic:
                before = self.responses.get(fact.key, response.AbsentResponse())
                step = response.step(before, fact)  # type: ignore[arg-type]
                self.responses[fact.key] = step.state
            else:
                step = job.step(self.state, fact)  # type: ignore[arg-type]
                self.state = step.state
            for output in step.outputs:
                self._output(output)

    def _output(self, output: Message) -> None:
        match output:
            case JobResult():
                self.results.append(output)
            case CreateResponse():
                self.command = output
            case RetrieveResponse() | CancelResponse():
                pass
            case ResponseClaimed() | ResponseReleased() | AttemptSettled() | UsageBooked():
                self.take(output)
            case _:
                raise AssertionError(f"nothing here makes {output}")

    def pass_time(self, until_ms: int) -> None:
        """Fire the job's timers that are due by `until_ms`."""
        for _ in range(TIMERS_MAX):
            due_ms = job.due_ms(self.state)
            if self.over or due_ms is None or due_ms > until_ms:
                self.now_ms = max(self.now_ms, until_ms)
                return
            self.now_ms = max(self.now_ms, due_ms)
            self.take(build.job_timer(due_ms, self.now_ms))
        raise AssertionError("I5: the job does not come to rest")

    def live(self, day: Day) -> None:
        """The current attempt meets the day's fault. Then the job waits for its next attempt, if it has one."""
        command, self.command = self.command, None
        assert command is not None, "an open job without an attempt or a time for the next"
        number = command.attempt
        match day.place:
            case "create":
                self._spend("refused", day.cause)
                self.take(build.rejected(self.now_ms, number, cause=day.cause, wait_ms=day.told_ms))
            case "doubt" | "unknown":
                self._spend("doubtful" if day.place == "doubt" else "paid", "faulty")
                self.take(build.unknown(self.now_ms, number, answered=day.place == "doubt" or None))
                self.pass_time(self.now_ms + self.policy.adoption_grace_ms)
            case "end" | "paid end":
                self._spend("unpaid" if day.place == "end" else "paid", day.cause)
                self._accept(number)
                self.pass_time(self.now_ms + RUN_MS)
                usage = None if day.place == "end" else Usage(output_tokens=5, total_tokens=5)
                self._see(number, "failed", raw_status="failed", cause=day.cause, wait_ms=day.told_ms, usage=usage)
            case "poll" | "gone" | "stuck":
                self._poll(day, number)
        self._wait(day.told_ms if day.place in ("create", "end", "paid end") else 0)

    def complete(self) -> None:
        """The provider has recovered: the current attempt completes."""
        assert self.command is not None
        number = self.command.attempt
        self._accept(number)
        self.pass_time(self.now_ms + RUN_MS)
        self._see(number, "completed", raw_status="completed", usage=Usage(output_tokens=5, total_tokens=5))

    def _spend(self, what: str, cause: Cause) -> None:
        self.spent[what] += 1
        self.causes.append(cause)

    def _accept(self, number: int) -> None:
        self.take(build.accepted(self.now_ms, number, f"resp_{number}"))

    def _see(self, number: int, outcome: Any, **seen: Any) -> None:
        self.take(build.observed(self.now_ms, outcome, f"resp_{number}", id=f"resp_{number}/{self.now_ms}", **seen))

    def _poll(self, day: Day, number: int) -> None:
        """Poll until the job gives the response up, or `POLLS_MAX` polls were made; then the response completes."""
        self._accept(number)
        before = self.state.attempts.retries
        for _ in range(POLLS_MAX):
            self.pass_time(self.now_ms + max(POLL_MS, day.told_ms if day.place == "poll" else 0))
            if self.over:
                return
            match day.place:
                case "gone":
                    self._see(number, "missing")
                case "stuck":
                    self._see(number, "running", raw_status="queued", others_ended_at_ms=self.now_ms)
                case _:
                    name = f"resp_{number}"
                    self.take(build.poll_failed(self.now_ms, name, id=f"{name}/{self.now_ms}", reason=day.cause))
            if self.over or self.state.attempts.retries > before:  # given up
                self._spend("paid", "faulty")
                return
        self._see(number, "completed", raw_status="completed")

    def _wait(self, told_ms: int) -> None:
        if isinstance(self.state, job.BackingOff):
            due_ms = job.due_ms(self.state)
            assert due_ms is not None
            left_ms = self.state.spec.deadline_at_ms - self.now_ms
            if due_ms - self.now_ms < left_ms:
                self.waits_ms.append((told_ms if told_ms < left_ms else left_ms // 2, due_ms - self.now_ms))
            self.pass_time(due_ms)
