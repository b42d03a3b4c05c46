"""What admission learns from the rows and facts of the jobs log, for the partitions of this worker.

Nothing is stored: after a restart or a rebalance the rows tell which attempts run and which jobs wait, and what was
learned begins anew.
"""

from collections.abc import Collection
from typing import Any

from pydantic import ValidationError

from backstop.runtime.process.clock import NowMs
from schemas.base import Priority
from schemas.jobs import AttemptAccepted, AttemptRejected, AttemptSettled, ToldLimits, Turn
from streams.fold import job
from streams.fold.attempts import Running
from streams.fold.batch import JOB_FOLD, Folded
from streams.fold.rows import decode_row
from streams.policy.admission import Admission
from streams.policy.limiter import Told
from streams.policy.sizes import Asked, asked_for
from streams.policy.waiting import Waiter

REQUEST_BYTES_UNKNOWN = 2_000
"""Of a request whose submission has no stamp."""

_ACTIVE = b'"kind":"active"'


class Admissions:
    """Keeps `admission` in step with the log. A `RowWatch`."""

    def __init__(self, admission: Admission, now_ms: NowMs, partitions: int) -> None:
        self._admission = admission
        self._now_ms = now_ms
        self._partitions = partitions

    def own(self, partitions: Collection[int]) -> None:
        """Forget the jobs of all partitions but these."""
        self._admission.own(partitions, len(partitions) / self._partitions, self._now_ms())

    def opened(self, partition: int) -> None:
        """Nothing to forget: `own` is called after each rebalance."""

    def saw(self, partition: int, rows: Collection[tuple[bytes, bytes | None]]) -> None:
        """Count the attempts of rows that a recovery shows. Batches come to `taken`. Without limits none is counted."""
        if not self._admission.limited:
            return
        for key, row in rows:
            if row is None or _ACTIVE not in row:
                self._admission.ended((partition, key), None, self._now_ms())
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
        self._admission.ended(place, None, now_ms)
        if isinstance(state, job.Waiting | job.BackingOff):
            self._admission.changed(place, asked_of(state.spec)[1], state.spec.deadline_at_ms)
        else:
            self._admission.drop(place)

    def _began(self, partition: int, key: bytes, state: job.JobState) -> None:
        if not isinstance(state, job.Active) or state.spec.request is None:
            return
        running = [item for item in state.attempts.items if isinstance(item, Running)]
        accepted_at_ms = running[0].accepted_at_ms if running else 0
        asked, priority = asked_of(state.spec)
        self._admission.began((partition, key), asked, priority, self._now_ms(), accepted_at_ms=accepted_at_ms)


def asked_of(spec: job.Spec) -> tuple[Asked, Priority]:
    """What is known of the job's size, and its class."""
    turn = spec.turn or Turn()
    size_bytes = turn.request_bytes
    if not size_bytes:
        size_bytes = spec.request.size_bytes if spec.request and spec.request.kind == "blob" else REQUEST_BYTES_UNKNOWN
    return asked_for(spec.tenant, spec.model, size_bytes, turn.output_tokens_max), turn.priority


def told_of(limits: ToldLimits | None) -> Told | None:
    return None if limits is None else Told(**limits.model_dump())


def waiter_of(partition: int, key: bytes, state: job.Waiting | job.BackingOff) -> Waiter:
    """The job as it waits for its turn."""
    asked, priority = asked_of(state.spec)
    retry = isinstance(state, job.BackingOff)
    return Waiter(partition, key, asked, state.spec.deadline_at_ms, priority, retry)
