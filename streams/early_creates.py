"""Creates whose commands are written beside their grants, and not after them.

A job whose lane is open is granted in the turn that folds its submission. Its `JobAdmitted` goes into the log, and its
create command beside it: both are acknowledged at one time, and the job waits for no further record. Kafka writes the
two to different partitions, so a crash may leave either one alone. What holds:

1. Only the process that wrote both performs such a command, and only when it knows that the fold of the grant begins
   the attempt: so no create is made that a refold would not ask for.
2. It knows that when the grant is acknowledged at a place where no other record of the job can stand between it and the
   batch that it was decided from: each record between is one that this process wrote, of another job. Else it waits
   until it has folded the grant.
3. A command whose grant is not known is reported as not sent (`held`): the job goes on with its next attempt. The id of
   a command is used up wherever it was taken, as the submitter's memory has it.
4. The fold of the grant makes the same command, with the same id. It is written only if the first one is not in its
   topic.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from backstop.runtime.records import Record
from schemas.base import Message
from schemas.commands import CreateResponse
from schemas.jobs import JobAdmitted

GRANT_WAIT_S = 5.0
"""How long a create waits until its grant is folded. A fold that lags writes no early commands."""
UNDECIDED_MAX = 16
"""Early commands that may wait for their grant at a time: each takes a slot of the submitter."""
KNOWN_MAX = 4_096
"""Early commands that are remembered until they are performed and their grant is folded."""
OWN_MAX = 256
"""Records of a partition that are remembered as this process's own."""

GRANT_MARK = b'"type":"job_admitted"'
EARLY_MARK = b'"beside_grant":true'
"""How `schemas.codec.encode` writes the two."""


class FoldedFacts(Protocol):
    """The facts that changed a state (`streams.fold.batch.Folded`)."""

    facts: list[tuple[bytes, Any]]


@dataclass(slots=True)
class _Early:
    command_id: str
    partition: int
    key: bytes
    after_offset: int
    begins: "asyncio.Future[bool]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    written: bool = False
    """Its command is acknowledged."""
    performed: bool = False
    folded: bool = False


class EarlyCreates:
    """Those of one process."""

    def __init__(self) -> None:
        self.performs: Callable[[int], bool] = lambda _partition: False
        """Whether this process performs the commands of a partition. Else nothing is gained by an early one."""
        self._known: dict[bytes, _Early] = {}
        """By job, oldest first."""
        self._undecided = 0
        self._own: dict[int, deque[tuple[int, bytes | None]]] = {}
        """By partition of `jobs`: offset and key of what this process wrote last."""

    def may_begin(self, partition: int) -> bool:
        return self.performs(partition) and self._undecided < UNDECIDED_MAX

    def begin(self, partition: int, command: CreateResponse, after_offset: int) -> None:
        """`command` is about to be written beside its grant.

        :param after_offset: of the last record of the batch that the grant was decided from.
        """
        key = command.key.encode()
        oldest = next(iter(self._known)) if len(self._known) >= KNOWN_MAX else key
        for known in (key, oldest):
            if (former := self._known.pop(known, None)) is not None:
                self._decide(former, begins=False)
        self._known[key] = _Early(command.id, partition, key, after_offset)
        self._undecided += 1

    def landed(self, record: Record) -> None:
        """A record of `jobs` that this process wrote is acknowledged."""
        own = self._own.get(record.partition)
        if own is None:
            own = self._own[record.partition] = deque(maxlen=OWN_MAX)
        own.append((record.offset, record.key))
        early = self._known.get(record.key or b"")
        if early is None or early.begins.done() or GRANT_MARK not in (record.value or b""):
            return
        between = range(early.after_offset + 1, record.offset)
        others = {offset for offset, key in own if key != early.key}
        if len(between) < OWN_MAX and others.issuperset(between):
            self._decide(early, begins=True)

    def written(self, record: Record) -> None:
        """A record of `submissions` that this process wrote is acknowledged."""
        early = self._known.get(record.key or b"")
        if early is not None and EARLY_MARK in (record.value or b""):
            early.written = True

    def needed(self, outputs: Iterable[Message]) -> list[Message]:
        """The outputs of a fold without the commands that are in their topic already."""
        return [output for output in outputs if not (isinstance(output, CreateResponse) and self._is_there(output))]

    def folded(self, partition: int, records: Iterable[Record], folded: FoldedFacts) -> None:
        """A batch of `jobs` was folded, and its outputs are acknowledged."""
        if not self._known:
            return
        began = {key for key, fact in folded.facts if isinstance(fact, JobAdmitted)}
        for record in records:
            early = self._known.get(record.key or b"")
            if early is None or early.partition != partition or GRANT_MARK not in (record.value or b""):
                continue
            self._decide(early, begins=early.key in began)
            early.folded = True
            self._forget_if_over(early)

    def own(self, partitions: Collection[int]) -> None:
        """After a rebalance: what is not decided by now may be folded by another worker."""
        self._own = {partition: own for partition, own in self._own.items() if partition in partitions}
        for early in list(self._known.values()):
            self._decide(early, begins=False)

    async def granted(self, command: CreateResponse) -> bool:
        """Whether an early command may be performed: its grant is in the log, and begins the attempt."""
        early = self._known.get(command.key.encode())
        if early is None or early.command_id != command.id:
            return False
        try:
            async with asyncio.timeout(GRANT_WAIT_S):
                return await asyncio.shield(early.begins)
        except TimeoutError:
            self._decide(early, begins=False)
            return early.begins.result()
        finally:
            early.performed = True
            self._forget_if_over(early)

    def _decide(self, early: _Early, *, begins: bool) -> None:
        if not early.begins.done():
            early.begins.set_result(begins)
            self._undecided -= 1

    def _is_there(self, command: CreateResponse) -> bool:
        early = self._known.get(command.key.encode())
        return early is not None and early.command_id == command.id and early.written

    def _forget_if_over(self, early: _Early) -> None:
        if early.performed and early.folded and self._known.get(early.key) is early:
            del self._known[early.key]
