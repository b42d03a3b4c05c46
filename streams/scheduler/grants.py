"""Grants in the turn that folds the submission, for jobs whose lane is open.

Without it such a job waits for two more records, one after the other: the grant of the next tick, and the command of
its fold. What is written here is the same grant, and beside it the command that its fold will make, so that the job
waits for one acknowledgement of both (`streams.early_creates`). The fact decides as always: a
refold needs no more than the log.
"""

from collections.abc import Sequence
from typing import Any

from backstop.runtime.process.clock import NowMs
from backstop.runtime.records import Record
from schemas.base import Message
from schemas.commands import CreateResponse
from schemas.jobs import JobAdmitted, JobSubmitted
from streams.early_creates import EarlyCreates
from streams.fold import job
from streams.fold.batch import JOB_FOLD, Folded
from streams.scheduler.job_timers import JobTimers

FRESH_MS = 500
"""A fold that lags by more writes the grant alone: other records follow, and the command would wait for them."""


class GrantsAtOnce:
    """For the job fold of one process."""

    def __init__(self, timers: JobTimers, creates: EarlyCreates, now_ms: NowMs) -> None:
        self._timers = timers
        self._creates = creates
        self._now_ms = now_ms

    def of(self, partition: int, records: Sequence[Record], folded: Folded[Any]) -> Sequence[Message]:
        """The grants of jobs that `folded` submits and that have their turn now, with the commands beside them."""
        commands: list[Message] = []
        grants: list[Message] = []
        now_ms, last = self._now_ms(), records[-1]
        for key, fact in folded.facts:
            state = folded.states.get(key)
            if not isinstance(fact, JobSubmitted) or not isinstance(state, job.Waiting):
                continue
            grant = self._timers.at_once((partition, key), state, now_ms)
            if grant is None:
                continue
            grants.append(grant)
            if now_ms - last.timestamp_ms <= FRESH_MS and self._creates.may_begin(partition):
                commands += self._command_of(partition, state, grant, last.offset)
        return (*commands, *grants)

    def needed(self, outputs: Sequence[Message]) -> list[Message]:
        return self._creates.needed(outputs)

    def folded(self, partition: int, records: Sequence[Record], folded: Folded[Any]) -> None:
        self._creates.folded(partition, records, folded)

    def _command_of(self, partition: int, state: job.Waiting, grant: JobAdmitted, after: int) -> list[Message]:
        outputs = JOB_FOLD.step(state, grant).outputs
        if len(outputs) != 1 or not isinstance(outputs[0], CreateResponse):
            return []
        command = outputs[0].model_copy(update={"beside_grant": True})
        self._creates.begin(partition, command, after)
        return [command]
