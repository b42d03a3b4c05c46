"""What admission learns from the rows and facts of the jobs log, for the partitions of this worker.

Nothing is stored: after a restart or a rebalance the rows tell which attempts run and which jobs wait, and what was
learned begins anew.
"""

from collections.abc import Collection, Iterable
from typing import Any

from pydantic import ValidationError

from backstop.runtime.process.clock import NowMs
from schemas.base import Priority
from schemas.jobs import AttemptAccepted, AttemptRejected, AttemptSettled, Turn
from schemas.told_limits import ToldLimits
from streams.fold import job
from streams.fold.attempts import OutcomeUnknown, Running, Submitting
from streams.fold.batch import JOB_FOLD, Folded
from streams.fold.rows import decode_row
from streams.policy.admission import Admission
from streams.policy.rates import LimitsTold
from streams.policy.shared_limits import SharedLimits
from streams.policy.sizes import Asked, asked_for
from streams.policy.waiting import Place, Waiter

REQUEST_BYTES_UNKNOWN = 2_000
"""Of a request whose submission has no stamp."""

_ACTIVE = b'"kind":"active"'


class Admissions:
    """Keeps `admission` in step with the log. A `RowWatch`."""

    def __init__(
        self, admission: Admission, now_ms: NowMs, partitions: int, limits: SharedLimits | None = None
    ) -> None:  # fmt: skip
        """:param limits: what workers tell each other of limits."""
        self._admission = admission
        self._limits = limits
        self._now_ms = now_ms
        self._partitions = partitions
        self._hedges: dict[Place, int] = {}
        """The number of each hedge that is counted, by the place of its job."""

    def own(self, partitions: Collection[int]) -> None:
        """Forget the jobs of all partitions but these."""
        self._hedges = {place: number for place, number in self._hedges.items() if place[0] in partitions}
        if self._limits is not None:
            self._limits.own(partitions)
        self._admission.own(partitions, len(partitions) / self._partitions, self._now_ms())

    def opened(self, partition: int) -> None:
        """Nothing to forget: `own` is called after each rebalance."""

    def saw(self, partition: int, rows: Collection[tuple[bytes, bytes | None]]) -> None:
        """Count the attempts of rows that a recovery shows. Batches come to `taken`. Without limits none is counted."""
        if not self._admission.limited:
            return
        for key, row in rows:
            if row is None or _ACTIVE not in row:
                self._over((partition, key), self._now_ms())
                continue
            try:
                state = JOB_FOLD.decode_state(decode_row(row)[0])
            except ValidationError:
                continue  # A newer release wrote it; `IndexedRows` counts it.
            self._began(partition, key, state)

    def taken(self, partition: int, folded: Folded[Any]) -> None:
        """The facts and new states of a batch."""
        now_ms, admission = self._now_ms(), self._admission
        for key, fact in folded.facts:
            place = (partition, key)
            if isinstance(fact, AttemptAccepted | AttemptRejected | AttemptSettled):
                place = self._place(place, fact.attempt, folded.states.get(key))
            match fact:
                case AttemptAccepted():
                    admission.accepted(place, now_ms, told_of(fact.limits), now_ms - fact.at_ms)
                case AttemptRejected():
                    told, limited = told_of(fact.limits), fact.cause == "limited"
                    age_ms = now_ms - fact.at_ms
                    admission.refused(place, now_ms, told, age_ms, limited=limited, told_ms=fact.wait_ms)
                case AttemptSettled():
                    usage = fact.usage
                    known = None if usage is None else (usage.input_tokens, usage.output_tokens)
                    admission.ended(place, known, now_ms, ran=fact.status == "completed")
                case _:
                    pass
        for key, state in folded.states.items():
            self._became(partition, key, state, now_ms)

    def _became(self, partition: int, key: bytes, state: job.JobState, now_ms: int) -> None:
        place = (partition, key)
        if isinstance(state, job.Active):
            self._began(partition, key, state)
            return
        if not isinstance(state, job.Waiting):  # What a waiting job holds is a grant on its way into the log.
            self._over(place, now_ms)
        if isinstance(state, job.Waiting | job.BackingOff):
            self._admission.changed(place, asked_of(state.spec)[1], state.spec.deadline_at_ms)
        else:
            self._admission.drop(place)

    def _began(self, partition: int, key: bytes, state: job.JobState) -> None:
        if not isinstance(state, job.Active) or state.spec.request is None:
            return
        place, hedge = (partition, key), state.attempts.hedge
        asked, priority = asked_of(state.spec)
        live = [item for item in state.attempts.items if isinstance(item, Submitting | OutcomeUnknown | Running)]
        hedges = [item for item in live if hedge is not None and item.number == hedge.number]
        others = [item for item in live if item not in hedges]
        now_ms = self._now_ms()
        if others or not hedges:
            self._admission.began(place, asked, priority, now_ms, accepted_at_ms=_accepted_at_ms(others))
        if hedges:
            self._hedges[place] = hedges[0].number
            self._admission.began(_beside(place), asked, priority, now_ms, accepted_at_ms=_accepted_at_ms(hedges))

    def _over(self, place: Place, now_ms: int) -> None:
        """No attempt of the job is live."""
        self._admission.ended(place, None, now_ms)
        if self._hedges.pop(place, None) is not None:
            self._admission.ended(_beside(place), None, now_ms)

    def _place(self, place: Place, number: int, state: job.JobState | None) -> Place:
        """Under which place an attempt is counted: a hedge has its own."""
        hedge = state.attempts.hedge if isinstance(state, job.Active | job.BackingOff) else None
        known = hedge.number if hedge is not None else self._hedges.get(place)
        return _beside(place) if number == known else place

    def room(self, model: str, tenant: str) -> bool:
        """Whether a hedge could begin now, under the limits."""
        if not self._admission.limited:
            return True
        return self._admission.room(Asked(tenant, model, REQUEST_BYTES_UNKNOWN, None), self._now_ms())


def _accepted_at_ms(live: Iterable[Submitting | OutcomeUnknown | Running]) -> int:
    """When the first of these that runs was accepted; 0 if none runs."""
    return next((item.accepted_at_ms for item in live if isinstance(item, Running)), 0)


def _beside(place: Place) -> Place:
    """The place of a hedge. No job id contains the mark."""
    return (place[0], place[1] + b"\0hedge")


def asked_of(spec: job.Spec) -> tuple[Asked, Priority]:
    """What is known of the job's size, and its class."""
    turn = spec.turn or Turn()
    size_bytes = turn.request_bytes
    if not size_bytes:
        size_bytes = spec.request.size_bytes if spec.request and spec.request.kind == "blob" else REQUEST_BYTES_UNKNOWN
    return asked_for(spec.tenant, spec.model, size_bytes, turn.output_tokens_max), turn.priority


def told_of(limits: ToldLimits | None) -> LimitsTold | None:
    return None if limits is None else LimitsTold(**limits.model_dump())


def waiter_of(partition: int, key: bytes, state: job.Waiting | job.BackingOff) -> Waiter:
    """The job as it waits for its turn."""
    asked, priority = asked_of(state.spec)
    retry = isinstance(state, job.BackingOff)
    return Waiter(partition, key, asked, state.spec.deadline_at_ms, priority, retry)
