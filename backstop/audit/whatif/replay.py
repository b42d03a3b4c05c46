"""Plays a recorded range again by cause and effect, with another policy. Pure and dry: nothing can be sent from here.

A recorded fact enters where its cause happens in the replay too, at its recorded place, moved by as much as its cause.
What the range does not hold is derived: a timer that was never due fires after the usual delay; a poll that was never
made sees what the response was at that time, from its recorded end; a create that was never sent is assumed
(`backstop.audit.whatif.guesses`), and counted. The folds are the product's own.

A job or response is *on the path* while each of its facts, and what it led to, is as recorded. There, what the range
does not hold did not happen: a poll that was answered together with another one, a timer of a worker that was down.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from backstop.audit.refold import FOLDS
from backstop.audit.whatif.figures import ReplayTally, end_of
from backstop.audit.whatif.guesses import Guesses
from backstop.audit.whatif.hedges import HedgeDesk, asks_only, planned_ms
from backstop.audit.whatif.links import Links, Played
from backstop.audit.whatif.policy import AS_IT_WAS, Policy
from backstop.audit.whatif.recorded import Noted, Recorded, Truth
from backstop.audit.whatif.stamps import Stamps
from backstop.audit.whatif.turns import FactTurns
from backstop.audit.whatif.unseen import of_a_cancel, seen_at, webhook_of
from schemas.base import Message
from schemas.commands import CancelResponse, CreateResponse, RetrieveResponse
from schemas.jobs import (
    AttemptAccepted,
    AttemptSettled,
    JobSubmitted,
    JobTimerFired,
    ResponseAdopted,
)
from schemas.responses import PollFailed, ResponseObserved, ResponseTimerFired
from schemas.results import JobResult
from streams.fold import job, response
from streams.fold.step import Ignored, Step

STEPS_PER_FACT_MAX: Final = 200
"""A replay that takes more steps than this for each recorded fact is stopped: the policy polls without end."""

Key = tuple[str, str]
"""Log and key."""
Command = RetrieveResponse | CancelResponse


class EndlessError(Exception):
    """The policy makes far more facts than the range has."""


@dataclass(slots=True)
class _Entry:
    log_ms: int
    fact: Message | None = None
    noted: Noted | None = None
    moved_ms: int | None = None
    """By how much it is later than recorded; None: it is not recorded."""
    command: CreateResponse | Command | None = None
    """For a report: what it reports of."""
    timer: tuple[Key, int] | None = None
    """A timer that may fire: its key and due time."""

    @property
    def as_recorded(self) -> bool:
        return self.noted is not None and self.moved_ms == 0


class Replay:
    """One pass over a range. `links` None: the pass that learns them, and changes nothing."""

    def __init__(
        self, recorded: Recorded, policy: Policy = AS_IT_WAS, links: Links | None = None,
        guesses: Guesses | None = None,
    ) -> None:  # fmt: skip
        self._recorded = recorded
        self._policy = policy
        self._learning = links is None
        self._links = links or Links()
        self._guesses = guesses
        self._stamps = Stamps(policy.polling)
        self._desk = HedgeDesk(policy.hedging, recorded)
        self._tally = ReplayTally(recorded.models)
        self._truths = {response_id: replace(truth) for response_id, truth in recorded.truths.items()}
        self._moved: dict[str, int] = {}
        self._cancelled: set[str] = set()
        self._made: dict[tuple[str, int], list[str]] = {}
        self._first_of: dict[str, Truth] = {}
        for response_id, truth in recorded.truths.items():
            self._first_of.setdefault(truth.job_id, truth)
            self._made.setdefault((truth.job_id, truth.attempt), []).append(response_id)
        self._states: dict[Key, Any] = {}
        self._last_place: dict[Key, tuple[str, tuple[int, int]]] = {}
        self._off: set[Key] = set()
        self._fired: dict[str, set[tuple[int, int]]] = {"jobs": set(), "responses": set()}
        """The places of the recorded timers that have their turn."""
        self._turns = FactTurns(recorded) if self._learning else None
        self._heap: list[tuple[int, int, int, int, int, _Entry]] = []
        self._pushed = 0
        self._last_end_ms: int | None = None
        self._estimated_polls = self._moved_creates = 0
        self._never: set[str] = set()

    def run(self) -> Played:
        """:raises EndlessError: the policy makes facts without end."""
        for noted in self._recorded.begins:
            self._push(_Entry(noted.log_ms, noted.fact, noted, 0))
        steps, most = 0, STEPS_PER_FACT_MAX * max(1_000, self._recorded.facts)
        while self._heap:
            entry = heapq.heappop(self._heap)[-1]
            if entry.log_ms > self._recorded.end_ms and self._open_in_log(entry):
                continue
            steps += 1
            if steps > most:
                raise EndlessError(f"more than {most} steps, and the range has {self._recorded.facts} facts")
            if entry.timer is not None:
                self._may_fire(entry, *entry.timer)
            elif self._has_its_turn(entry):
                self._take(entry)
            if self._turns is not None:
                for each in self._turns.ready(idle=not self._heap):
                    self._push(each)
        used = self._guesses.used if self._guesses is not None else set()
        return Played(
            self._tally.done(), self._links, self._estimated_polls, self._moved_creates, len(self._never),
            len(used - self._never),
        )  # fmt: skip

    def _has_its_turn(self, entry: _Entry) -> bool:
        if self._turns is None or entry.fact is None or entry.noted is None:
            return True
        return self._turns.come((entry.fact.topic, entry.fact.key), entry.noted.place, entry)

    def _open_in_log(self, entry: _Entry) -> bool:
        """Whether the entry's job was open at the end of the log: what would have come later is not compared."""
        fact = entry.fact or entry.command
        topic, name = entry.timer[0] if entry.timer is not None else (fact.topic, fact.key)  # type: ignore[union-attr]
        truth = self._truths.get(name)
        job_id = name if topic in ("jobs", "submissions") else truth.job_id if truth is not None else ""
        return job_id not in self._links.finished

    # -- facts

    def _take(self, entry: _Entry) -> None:
        fact = self._stamped(entry)
        if fact is None:
            return
        fold = FOLDS[fact.topic]
        key: Key = (fact.topic, fact.key)
        step: Step[Any] = fold.step(self._states.get(key, fold.absent), fact)
        if step.ignored is None:
            self._states[key] = step.state
        if fact.topic == "responses":
            self._stamps.took((fact,), fact.at_ms, folded=step.ignored in (None, Ignored.LATE))
        self._count(fact)
        if step.ignored is None:
            self._desk.took(fact)
        due_ms = fold.due_ms(step.state)
        self._follow(entry, key, planned_ms(step.state, due_ms), step.outputs)
        for output in step.outputs:
            self._caused(entry, output)
        if step.ignored is None and due_ms is not None:
            self._expect(entry, key, step.state, due_ms)

    def _stamped(self, entry: _Entry) -> Message | None:
        """The fact of an entry, with the times that the policy gives it."""
        fact, recorded = entry.fact, entry.noted is not None
        match fact, entry.command:
            case None, RetrieveResponse() | CancelResponse():
                seen = self._sees(entry.command, entry.log_ms)
                return None if seen is None else self._stamps.reported(entry.command, seen, recorded=False)
            case ((ResponseObserved() | PollFailed()), (RetrieveResponse() | CancelResponse())):
                return self._stamps.reported(entry.command, fact, recorded=recorded)
            case AttemptAccepted(), CreateResponse():
                moved_ms = entry.moved_ms or 0
                may = entry.command.hedge is True
                fact = self._desk.accepted(fact, may=may, recorded=recorded, moved_ms=moved_ms)
                return self._stamps.accepted(fact, recorded=recorded, moved_ms=moved_ms)
            case ResponseTimerFired(), None:
                state = self._states.get(("responses", fact.key), response.AbsentResponse())
                given = fact if recorded else None
                stamped = self._stamps.timer(fact.response_id, state, fact.due_ms, fact.at_ms, given)
                return self._desk.timer(stamped, fact, state, recorded=recorded)
            case ((JobSubmitted() | ResponseAdopted()), None):
                if self._policy.retry is not None:
                    fact = fact.model_copy(update={"policy": self._policy.retry.of(fact.policy)})
                return self._desk.submitted(fact) if isinstance(fact, JobSubmitted) else fact
            case _:
                return fact

    def _count(self, fact: Message) -> None:
        end_ms = None
        if isinstance(fact, AttemptSettled):
            self._last_end_ms = fact.at_ms
            truth = self._truths.get(fact.response_id)
            end_ms = None if truth is None else end_of(truth, self._moved.get(fact.response_id, 0))
        self._tally.took(fact, end_ms)

    def _follow(self, entry: _Entry, key: Key, due_ms: int | None, outputs: Iterable[Message]) -> None:
        """Learn the links, or see whether the key left the path."""
        place = None if entry.noted is None else (key[0], entry.noted.place)
        led_to = due_ms, tuple(output.id for output in outputs)
        if self._learning:
            assert place is not None, "the learning pass takes recorded facts only"
            if key in self._last_place:
                self._links.following[self._last_place[key]] = entry.log_ms
            self._links.after[place] = led_to
        elif place is None or not entry.as_recorded or self._links.after.get(place) != led_to:
            self._off.add(key)
        if place is not None:
            self._last_place[key] = place

    # -- effects

    def _caused(self, entry: _Entry, output: Message) -> None:
        known_ms = self._links.outputs.get(output.id)
        if self._learning:
            self._links.outputs.setdefault(output.id, output.at_ms)
            known_ms = output.at_ms
        moved_ms = None if known_ms is None else output.at_ms - known_ms
        match output:
            case JobResult():
                self._tally.result(output)
                self._desk.ended(output)
                if self._learning:
                    self._links.finished.add(output.job_id)
            case CreateResponse():
                self._create(output, moved_ms)
            case RetrieveResponse() | CancelResponse():
                self._poll(entry, output, moved_ms)
            case _:
                recorded = self._recorded.by_id.get(output.id, [])
                if recorded and moved_ms is not None:
                    for noted in recorded:
                        self._push(_Entry(noted.log_ms + moved_ms, output, noted, moved_ms))
                elif not self._learning:
                    self._push(_Entry(entry.log_ms, output))

    def _create(self, command: CreateResponse, moved_ms: int | None) -> None:
        if moved_ms is None:
            self._never_created(command)
            return
        self._moved_creates += moved_ms != 0
        for how in ("accepted", "rejected", "unknown"):
            for noted in self._recorded.by_id.get(f"{command.id}/{how}", ()):
                self._push(_moved(noted, moved_ms, command))
        for response_id in self._made.get((command.job_id, command.attempt), ()):
            self._moved[response_id] = moved_ms
            for noted in self._recorded.webhooks.get(response_id, ()):
                if not of_a_cancel(noted.fact):
                    self._push(_moved(noted, moved_ms))

    def _never_created(self, command: CreateResponse) -> None:
        guesses = self._guesses
        assert guesses is not None, "the learning pass makes no command that was not made"
        at_ms = command.at_ms + guesses.delays.create
        model = self._recorded.models.get(command.job_id, "")
        response_id, truth = guesses.never_created(command.job_id, command.attempt, command.tenant, model, at_ms)
        self._never.add(response_id)
        before = self._first_of.get(command.job_id)
        self._truths[response_id] = truth
        accepted = AttemptAccepted(
            id=f"{command.id}/accepted", at_ms=at_ms, job_id=command.job_id, attempt=command.attempt,
            tenant=command.tenant, response_id=response_id, status="queued", sent_at_ms=command.at_ms,
            poll_at_ms=at_ms, latency_class=before.latency_class if before is not None else None,
        )  # fmt: skip
        self._push(_Entry(at_ms, accepted, command=command))
        age_ms = truth.end_age_ms
        heard_ms = None if age_ms is None else guesses.webhook_age_ms(response_id, age_ms)
        if age_ms is None or heard_ms is None or truth.final is None:
            return
        heard = webhook_of(response_id, truth.final.outcome, at_ms + heard_ms, at_ms + age_ms)
        self._push(_Entry(heard.at_ms, heard))

    def _poll(self, entry: _Entry, command: Command, moved_ms: int | None) -> None:
        if isinstance(command, CancelResponse) and command.response_id not in self._cancelled:
            self._cancelled.add(command.response_id)
            if moved_ms is not None:
                for noted in self._recorded.webhooks.get(command.response_id, ()):
                    if of_a_cancel(noted.fact):
                        self._push(_moved(noted, moved_ms))
        reports = [
            noted
            for how in ("observed", "failed")
            for noted in self._recorded.by_id.get(f"{command.id}/{how}", ())
        ]  # fmt: skip
        if moved_ms == 0 and (reports or self._learning or ("responses", command.key) not in self._off):
            for noted in reports:
                self._push(_moved(noted, 0, command))
        elif self._guesses is not None:
            self._push(_Entry(entry.log_ms + self._guesses.delays.poll, command=command))

    def _sees(self, command: Command, at_ms: int) -> ResponseObserved | None:
        """What a poll or a cancel that was never made would have seen."""
        response_id, truth = command.response_id, self._truths.get(command.response_id)
        if truth is None:
            return None
        self._estimated_polls += 1
        age_ms = at_ms - truth.accepted_ms - self._moved.get(response_id, 0)
        if truth.end_age_ms is None and age_ms > truth.seen_age_ms and self._guesses is not None:
            model = self._recorded.models.get(truth.job_id, "")
            truth.end_age_ms = self._guesses.unknown_end_age_ms(response_id, model, truth.seen_age_ms)
        in_full = self._guesses is not None and self._guesses.way != "best"
        return seen_at(truth, command, at_ms, age_ms, self._last_end_ms, in_full=in_full)

    # -- timers

    def _expect(self, entry: _Entry, key: Key, state: Any, due_ms: int) -> None:
        """Let the next timer of a key fire: as recorded, or after the usual delay."""
        recorded = self._timers(key, state, due_ms)
        if isinstance(state, job.Finished | response.Ended) and not recorded:
            return  # It is only forgotten then.
        if isinstance(state, job.Waiting):
            for how in ("admitted", "too_late"):
                for noted in self._recorded.by_id.get(f"{key[1]}/{how}", ()):
                    self._push(_Entry(noted.log_ms, noted.fact, noted, 0))
        if recorded and (self._learning or recorded[0].log_ms >= entry.log_ms):
            for noted in recorded:
                if noted.place not in self._fired[key[0]]:
                    self._fired[key[0]].add(noted.place)
                    self._push(_Entry(noted.log_ms, noted.fact, noted, 0))
            if f"{key[1]}/timer/{due_ms}" in self._recorded.by_id or not asks_only(state, due_ms):
                return
        if self._guesses is not None:
            at_ms = max(due_ms, entry.log_ms) + self._guesses.delays.timer
            self._push(_Entry(at_ms, timer=(key, due_ms)))

    def _timers(self, key: Key, state: Any, due_ms: int) -> list[Noted]:
        """The recorded timers that the state expects. One that asks for a hedge in vain leaves no fact: then the next
        one is that of the poll.
        """
        dues_ms = {due_ms, state.poll_at_ms} if isinstance(state, response.RunningResponse) else {due_ms}
        return [noted for each in sorted(dues_ms) for noted in self._recorded.by_id.get(f"{key[1]}/timer/{each}", ())]

    def _may_fire(self, entry: _Entry, key: Key, due_ms: int) -> None:
        """Fire a timer that is not recorded, if its key still expects it and has left the path."""
        fold = FOLDS[key[0]]
        state = self._states.get(key, fold.absent)
        if fold.due_ms(state) != due_ms:
            return
        asks = asks_only(state, entry.log_ms)
        if key not in self._off and not asks:
            next_ms = self._links.following.get(self._last_place[key])
            if next_ms is None:
                return
            if next_ms >= entry.log_ms:
                self._push(_Entry(next_ms + 1, timer=(key, due_ms)))
                return
            self._off.add(key)  # What came next in the log did not come here.
        at_ms = entry.log_ms
        if key[0] == "jobs":
            name = f"{key[1]}/timer/{due_ms}"
            self._take(_Entry(at_ms, JobTimerFired(id=name, at_ms=at_ms, job_id=key[1], due_ms=due_ms)))
            return
        permit, ask_at_ms = self._desk.ask(key[1], state, at_ms)
        if asks and permit is None:
            self._ask_again(key, state, due_ms, max(at_ms + 1, ask_at_ms or state.poll_at_ms))
            return
        if isinstance(state, response.RunningResponse) and not asks:
            due_ms = state.poll_at_ms  # A hedge may have been asked for earlier, and in vain.
        self._take(_Entry(at_ms, ResponseTimerFired(
            id=f"{key[1]}/timer/{due_ms}", at_ms=at_ms, response_id=key[1], due_ms=due_ms, next_poll_at_ms=at_ms,
            hedge_at_ms=ask_at_ms, permit=permit,
        )))  # fmt: skip

    def _ask_again(self, key: Key, state: response.RunningResponse, due_ms: int, ask_at_ms: int) -> None:
        """A hedge was asked for in vain, which writes no fact: ask again, or with the next poll."""
        if ask_at_ms < state.poll_at_ms:
            self._push(_Entry(ask_at_ms, timer=(key, due_ms)))
        elif f"{key[1]}/timer/{state.poll_at_ms}" not in self._recorded.by_id and self._guesses is not None:
            self._push(_Entry(state.poll_at_ms + self._guesses.delays.timer, timer=(key, due_ms)))

    def _push(self, entry: _Entry) -> None:
        self._pushed += 1
        place = entry.noted.place if entry.noted is not None else (0, 0)
        unrecorded = int(entry.noted is None)
        heapq.heappush(self._heap, (entry.log_ms, unrecorded, *place, self._pushed, entry))


def _moved(noted: Noted, moved_ms: int, command: CreateResponse | Command | None = None) -> _Entry:
    """A recorded fact, later or earlier by as much as its cause."""
    fact = noted.fact
    if moved_ms:
        changes: dict[str, Any] = {"at_ms": fact.at_ms + moved_ms}
        for name in ("sent_at_ms", "ended_at_ms", "claim_by_ms"):
            if getattr(fact, name, None) is not None:
                changes[name] = getattr(fact, name) + moved_ms
        fact = fact.model_copy(update=changes)
    return _Entry(noted.log_ms + moved_ms, fact, noted, moved_ms, command)
