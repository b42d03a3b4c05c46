"""The recorded facts of the jobs of a range, by id, without bodies, and what they tell of each response. Pure.

A range holds the jobs that were submitted in it, as a whole: with all their facts, those after its end too. Jobs whose
first retained fact is not their beginning are left out, and counted.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from backstop.audit.refold import FOLDS
from backstop.runtime.records import Record
from schemas.base import Body, InlineBody, Message
from schemas.codec import PoisonError, decode
from schemas.hedges import HedgePermit, acts, unhedgeable
from schemas.jobs import AttemptAccepted, JobRefused, JobSubmitted, ResponseAdopted, UsageBooked
from schemas.responses import (
    ResponseClaimed,
    ResponseObserved,
    ResponseReleased,
    ResponseTimerFired,
    WebhookReceived,
)
from schemas.results import RESULT, JobResult

JOBS_MAX: Final = 200_000
FACTS_MAX: Final = 3_000_000
"""About 1 KiB of memory each."""

OPEN_OUTCOMES: Final = ("running", "missing", "odd")
NO_BODY: Final = InlineBody(value=None)


class ReplayRangeError(Exception):
    """The range can't be replayed; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Noted:
    """A fact, and its place in the order of the log."""

    fact: Message
    log_ms: int
    """The time of its record; never less than that of a record before it in the partition."""
    place: tuple[int, int]
    """Partition and offset."""


@dataclass(slots=True)
class Truth:
    """What is known of a response, as ages since its acceptance in ms."""

    job_id: str
    attempt: int
    tenant: str
    accepted_ms: int
    end_age_ms: int | None = None
    """None: its end is not in the log, or it ended because it was cancelled."""
    seen_age_ms: int = 0
    """The age at which it was last known to run."""
    final: ResponseObserved | None = None
    latency_class: tuple[str, ...] = ()
    cancelled: bool = False
    """Backstop's own cancel ended it: without that it would have run on."""
    never: bool = False
    """It was never created: all of it is an estimate."""


@dataclass(slots=True)
class Recorded:
    """The facts of a range."""

    since_ms: int
    until_ms: int
    by_id: dict[str, list[Noted]] = field(default_factory=dict)
    begins: list[Noted] = field(default_factory=list)
    """Facts without a cause in the log: submissions, cancels, webhooks of responses that no create made."""
    webhooks: dict[str, list[Noted]] = field(default_factory=lambda: defaultdict(list))
    """By response, where a create made it; with the usage that its stream showed, which no other fact causes either."""
    truths: dict[str, Truth] = field(default_factory=dict)
    results: dict[str, JobResult] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    """By job: those of the range."""
    left_out: Counter[str] = field(default_factory=Counter)
    hedgeable: set[str] = field(default_factory=set)
    """Jobs whose request two attempts can do without harm. One in the blob store is not read, and is taken for none."""
    permits: dict[str, HedgePermit] = field(default_factory=dict)
    """By response: the permission for a hedge beside it."""
    end_ms: int = 0
    """The time of the last record that was read."""
    gaps: list[str] = field(default_factory=list)
    facts: int = 0


BEGINNINGS = (JobSubmitted, ResponseAdopted, JobRefused)


class RangeReading:
    """Takes the records of `jobs`, then those of `responses` and `results`."""

    def __init__(self, since_ms: int, until_ms: int, *, whole: bool = True) -> None:
        """:param whole: the source has all records of its partitions, so a missing offset is a gap."""
        self.found = Recorded(since_ms, until_ms)
        self._whole = whole
        self._newest_ms: dict[tuple[str, int], int] = {}
        self._next: dict[tuple[str, int], int] = {}
        self._owners: dict[str, tuple[str, int]] = {}
        """The job and attempt of each response; attempt 0: an application created it."""
        self._strangers: set[str] = set()

    def take(self, batch: Sequence[Record]) -> None:
        """Take records of one partition, in offset order. All of `jobs` come first.

        :raises ReplayRangeError: the range is too large.
        """
        for record in batch:
            log_ms = self._order(record)
            if record.topic == "results":
                self._result(record)
            elif record.topic in FOLDS and record.value is not None:
                self._fact(record, log_ms)

    def done(self) -> Recorded:
        """:raises ReplayRangeError: no job was submitted in the range."""
        found = self.found
        if not found.models:
            why = f"; {sum(found.left_out.values())} jobs are left out" if found.left_out else ""
            raise ReplayRangeError(f"no job was submitted in the range{why}: name another --since or --until")
        _tell_truths(found)
        return found

    def _order(self, record: Record) -> int:
        at = (record.topic, record.partition)
        expected = self._next.get(at)
        if self._whole and expected is not None and record.offset > expected and record.topic in FOLDS:
            self.found.gaps.append(f"{at[0]}:{at[1]} has no records from {expected} to {record.offset - 1}")
        self._next[at] = record.offset + 1
        newest_ms = self._newest_ms[at] = max(self._newest_ms.get(at, 0), record.timestamp_ms)
        self.found.end_ms = max(self.found.end_ms, newest_ms)
        return newest_ms

    def _result(self, record: Record) -> None:
        try:
            result = decode(RESULT, record.value)
        except PoisonError:
            return
        if result.job_id in self.found.models:
            self.found.results.setdefault(result.job_id, result.model_copy(update={"response": None}))

    def _fact(self, record: Record, log_ms: int) -> None:
        try:
            fact = decode(FOLDS[record.topic].facts, record.value)
        except PoisonError:
            return
        if record.key != fact.key.encode():
            return
        mine = self._job_fact(fact) if record.topic == "jobs" else fact.response_id in self._owners
        if not mine:
            return
        self.found.facts += 1
        if self.found.facts > FACTS_MAX or len(self.found.models) > JOBS_MAX:
            raise ReplayRangeError(
                f"the range has more than {JOBS_MAX} jobs or {FACTS_MAX} facts: name a later --since or an --until"
            )
        noted = Noted(_lean(fact), log_ms, (record.partition, record.offset))
        self.found.by_id.setdefault(fact.id, []).append(noted)
        if isinstance(fact, ResponseTimerFired) and fact.permit is not None:
            self.found.permits.setdefault(fact.response_id, fact.permit)
        streamed = isinstance(fact, UsageBooked) and fact.estimated
        if streamed or (isinstance(fact, WebhookReceived) and self._owners[fact.response_id][1]):
            self.found.webhooks[fact.response_id].append(noted)
        elif isinstance(fact, WebhookReceived | JobSubmitted | ResponseAdopted | JobRefused) or (
            fact.type == "cancel_requested"
        ):
            self.found.begins.append(noted)

    def _job_fact(self, fact: Any) -> bool:
        """Whether the fact belongs to a job of the range."""
        found, job_id = self.found, fact.job_id
        if job_id not in found.models:
            if job_id in self._strangers:
                return False
            if not isinstance(fact, BEGINNINGS) or not found.since_ms <= fact.at_ms < found.until_ms:
                self._strangers.add(job_id)
                if not isinstance(fact, BEGINNINGS):
                    found.left_out["their first fact is older than the log, or than the range"] += 1
                return False
            found.models[job_id] = getattr(fact, "model", "")
            if isinstance(fact, JobSubmitted) and _harmless(fact.request):
                found.hedgeable.add(job_id)
        if isinstance(fact, AttemptAccepted):
            self._owners.setdefault(fact.response_id, (job_id, fact.attempt))
        elif isinstance(fact, ResponseAdopted):
            self._owners.setdefault(fact.response_id, (job_id, 0))
        return True


def _harmless(request: Body) -> bool:
    asked = request.value if isinstance(request, InlineBody) else None
    return isinstance(asked, dict) and unhedgeable(asked) is None and not acts(asked)


def _lean(fact: Any) -> Any:
    """The fact without its bodies, which decide nothing."""
    if isinstance(fact, JobSubmitted):
        return fact.model_copy(update={"request": NO_BODY})
    if isinstance(fact, WebhookReceived):
        return fact.model_copy(update={"raw": ""})
    if getattr(fact, "response", None) is not None:
        return fact.model_copy(update={"response": NO_BODY})
    if isinstance(fact, AttemptAccepted) and fact.end is not None:
        return fact.model_copy(update={"end": fact.end.model_copy(update={"response": NO_BODY})})
    return fact


def _tell_truths(found: Recorded) -> None:
    observed: dict[str, list[ResponseObserved]] = defaultdict(list)
    released: dict[str, int] = {}
    for noted in _all(found):
        fact = noted.fact
        match fact:
            case AttemptAccepted():
                found.truths.setdefault(fact.response_id, Truth(
                    fact.job_id, fact.attempt, fact.tenant, fact.at_ms, latency_class=tuple(fact.latency_class or ())
                ))  # fmt: skip
            case ResponseAdopted():
                found.truths.setdefault(fact.response_id, Truth(fact.job_id, 1, fact.tenant, fact.at_ms))
            case ResponseObserved():
                observed[fact.response_id].append(fact)
            case ResponseReleased() | ResponseClaimed(released=True):
                released.setdefault(fact.response_id, fact.at_ms)
            case _:
                pass
    for response_id, truth in found.truths.items():
        _judge(truth, observed[response_id], released.get(response_id), found.webhooks.get(response_id, ()))


def _judge(truth: Truth, seen: list[ResponseObserved], released_ms: int | None, webhooks: Sequence[Noted]) -> None:
    """The age at the end: by the provider's clock, within what our own observations allow."""
    first_end = next((each for each in seen if each.outcome not in OPEN_OUTCOMES), None)
    until_ms = None if first_end is None else first_end.at_ms
    running = [each.at_ms for each in seen if each.outcome == "running" and (until_ms is None or each.at_ms < until_ms)]
    truth.seen_age_ms = max(0, max(running, default=truth.accepted_ms) - truth.accepted_ms)
    truth.final = first_end
    truth.cancelled = first_end is not None and first_end.outcome == "cancelled" and released_ms is not None
    if first_end is None or truth.cancelled:
        return
    heard = [noted.fact for noted in webhooks]
    said_ms = next((each.ended_at_ms for each in heard if isinstance(each, WebhookReceived) and each.ended_at_ms), None)
    began_ms, ended_ms = first_end.provider_created_at_ms, first_end.provider_ended_at_ms or said_ms
    least = truth.seen_age_ms
    # A webhook after which a poll still found it running came early, and says nothing of the end.
    after_ms = [
        each.at_ms for each in heard
        if isinstance(each, WebhookReceived) and each.at_ms >= truth.accepted_ms + least
    ]  # fmt: skip
    most = min([first_end.at_ms, *after_ms]) - truth.accepted_ms
    age_ms = (least + most) // 2 if began_ms is None or ended_ms is None else ended_ms - began_ms
    truth.end_age_ms = max(least, min(age_ms, most))


def _all(found: Recorded) -> Iterable[Noted]:
    for noted in found.by_id.values():
        yield from noted
