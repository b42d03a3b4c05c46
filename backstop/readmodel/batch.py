"""Computes the writes of a batch of records from the rows that the database holds of their keys. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from backstop.readmodel.dead_letters import dead_letter_row
from backstop.readmodel.project import Evolved, evolve, is_erased, owner_of, settle, told_to
from backstop.readmodel.refusals import CreateRefusal, refusal_of
from backstop.readmodel.rows import DeadLetterRow, HeldResult, JobRow, Position, TimelineEntry, UnclaimedEntry
from backstop.readmodel.spending import Ledger, Spend, SpendKey, facts_spends
from backstop.readmodel.timeline import summarise
from schemas.base import Body
from schemas.codec import decode
from schemas.dead_letters import DeadLetter, DeadLetterResolved
from schemas.erasures import JobErased
from schemas.jobs import JobFact, JobSubmitted, UsageBooked
from schemas.responses import ResponseClaimed, ResponseFact
from schemas.results import RESULT, JobResult
from streams.fold.step import Ignored

Fact = JobFact | ResponseFact | JobResult | DeadLetter | DeadLetterResolved


@dataclass(frozen=True, slots=True)
class ParsedRecord:
    """A parsed record with its position and its bytes (`value`)."""

    position: Position
    fact: Fact
    value: bytes


class RecordFailedError(Exception):
    """One record could not be projected. The rest of the batch can be."""

    def __init__(self, position: Position, detail: str) -> None:
        super().__init__(f"{position.topic}/{position.partition}@{position.offset}: {detail}")
        self.position = position
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of a batch, whose rows must be loaded."""

    job_ids: tuple[str, ...]
    response_ids: tuple[str, ...]
    spenders: tuple[str, ...]
    """Of the job ids, those whose spends may change."""


@dataclass(slots=True)
class Known:
    """The database's content for those keys."""

    rows: dict[str, JobRow] = field(default_factory=dict)
    held: dict[str, HeldResult] = field(default_factory=dict)
    claims: dict[str, str] = field(default_factory=dict)
    """Response id → job id."""
    unclaimed: dict[str, list[UnclaimedEntry]] = field(default_factory=dict)
    spends: dict[str, dict[SpendKey, Spend]] = field(default_factory=dict)


@dataclass(slots=True)
class Writes:
    """The writes of one transaction, and the figures to count."""

    rows: dict[str, JobRow] = field(default_factory=dict)
    """The last version of each row that changed."""
    begun: list[str] = field(default_factory=list)
    """Job ids of new rows."""
    requests: dict[str, Body] = field(default_factory=dict)
    """Job id → its request, as it is sent to the provider."""
    erased: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Job id → its tags. The row is written anew, as a terminal one can't be changed."""
    held: dict[str, HeldResult] = field(default_factory=dict)
    released: list[str] = field(default_factory=list)
    """Job ids whose held result now has its row."""
    claims: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Response id → job id, time."""
    timeline: list[TimelineEntry] = field(default_factory=list)
    unclaimed: list[UnclaimedEntry] = field(default_factory=list)
    claimed: list[str] = field(default_factory=list)
    """Response ids whose waiting entries joined a timeline."""
    ignored: Counter[Ignored] = field(default_factory=Counter)
    finished: list[JobRow] = field(default_factory=list)
    repeated_results: list[str] = field(default_factory=list)
    """Job ids with a second record on `results`."""
    booked: list[UsageBooked] = field(default_factory=list)
    ledger: Ledger = field(default_factory=lambda: Ledger({}))
    refusals: Counter[CreateRefusal] = field(default_factory=Counter)
    letters: list[DeadLetterRow] = field(default_factory=list)
    resolved: list[DeadLetterResolved] = field(default_factory=list)
    """Each follows its dead letter in the same partition, so the row exists."""


def keys_of(records: Iterable[ParsedRecord]) -> Keys:
    jobs: dict[str, None] = {}
    responses: dict[str, None] = {}
    spenders: dict[str, None] = {}
    for record in records:
        topic, key = record.position.topic, record.fact.key
        if topic != "dead-letters":
            (responses if topic == "responses" else jobs)[key] = None
        if topic == "jobs" and not isinstance(record.fact, JobSubmitted):
            spenders[key] = None
    return Keys(tuple(jobs), tuple(responses), tuple(spenders))


def project(records: Sequence[ParsedRecord], known: Known) -> Writes:
    """Take all records in order; changes `known`.

    :raises RecordFailedError: the fold raised, which is a bug; the other records can be taken without this one.
    """
    work = _Projection(known)
    for record in records:
        try:
            work.take(record)
        except Exception as error:  # the fold is total, so any exception is a bug that this record triggers
            raise RecordFailedError(record.position, f"{type(error).__name__}") from error
    return work.writes


class _Projection:
    def __init__(self, known: Known) -> None:
        self._known = known
        self.writes = Writes(ledger=Ledger(known.spends))

    def take(self, record: ParsedRecord) -> None:
        fact = record.fact
        if isinstance(fact, DeadLetter):
            self.writes.letters.append(dead_letter_row(fact, record.position))
        elif isinstance(fact, DeadLetterResolved):
            self.writes.resolved.append(fact)
        elif isinstance(fact, JobResult):
            self._result(record, fact)
        elif record.position.topic == "responses":
            self._response(record, fact)  # type: ignore[arg-type]  # the topic was parsed as such
        else:
            self._job(record, fact)  # type: ignore[arg-type]  # as above

    def _job(self, record: ParsedRecord, fact: JobFact) -> None:
        job_id = fact.job_id
        if isinstance(fact, UsageBooked):
            if not (fact.estimated and self._is_counted(fact)):
                self.writes.booked.append(fact)
            self._spend(fact, Evolved(self._known.rows.get(job_id), Ignored.DUPLICATE))
            self._note(job_id, record.position, fact, None)
            return
        before = self._known.rows.get(job_id)
        evolved = evolve(before, fact, record.position)
        if evolved.ignored is not None:
            self.writes.ignored[evolved.ignored] += 1
        self._spend(fact, evolved)
        refusal = refusal_of(evolved, fact)
        if refusal is not None:
            self.writes.refusals[refusal] += 1
        self._note(job_id, record.position, fact, evolved.ignored)
        row = evolved.row
        if row is None or row is before:
            return
        if before is not None and isinstance(fact, JobErased):
            self.writes.requests.pop(job_id, None)
            self.writes.erased[job_id] = before.tags
            self.writes.ledger.move(job_id, owner_of(before, fact), owner_of(row, fact))
        if before is None:
            self.writes.begun.append(job_id)
            if isinstance(fact, JobSubmitted):
                self.writes.requests[job_id] = fact.request
        self._put(row)
        held = self._known.held.pop(job_id, None)
        if held is None:
            return
        if not row.ended:
            self._known.held[job_id] = held
            return
        if self.writes.held.pop(job_id, None) is None:
            self.writes.released.append(job_id)
        self._finish(row, held)

    def _spend(self, fact: JobFact, evolved: Evolved) -> None:
        """Count what the fact tells of the job's cost."""
        row = evolved.row
        if evolved.ignored in (Ignored.CONFLICT, Ignored.IMPOSSIBLE) or not told_to(evolved, fact):
            return
        found, none = facts_spends(
            evolved.before, evolved.after, fact, taken=evolved.ignored is None,
            attempts_seen=row.attempts if row is not None else 0,
        )  # fmt: skip
        if found or none:
            self.writes.ledger.take(fact.job_id, owner_of(row, fact), found, none)

    def _is_counted(self, fact: UsageBooked) -> bool:
        """Whether the provider reported the usage before the job's end, so that the result counts it."""
        row = self._known.rows.get(fact.job_id)
        if row is None or row.result is None:
            return False
        briefs = decode(RESULT, row.result).attempts
        return any(brief.response_id == fact.response_id and brief.usage is not None for brief in briefs)

    def _result(self, record: ParsedRecord, result: JobResult) -> None:
        job_id = result.job_id
        self._note(job_id, record.position, result, None)
        held = HeldResult(job_id, result.at_ms, record.value, record.position)
        row = self._known.rows.get(job_id)
        if (row is not None and row.terminal) or job_id in self._known.held:
            if row is None or not is_erased(row):  # its erasure may be read before its result
                self.writes.repeated_results.append(job_id)
        elif row is not None and row.ended:
            self._finish(row, held, result)
        else:
            self._known.held[job_id] = held
            self.writes.held[job_id] = held

    def _response(self, record: ParsedRecord, fact: ResponseFact) -> None:
        response_id = fact.response_id
        if isinstance(fact, ResponseClaimed) and self._is_new(fact):
            self._claim(fact)
        job_id = self._known.claims.get(response_id)
        if job_id is not None:
            self._note(job_id, record.position, fact, None)
            return
        entry = UnclaimedEntry(response_id, fact.at_ms, fact.type, summarise(fact), record.position)
        self._known.unclaimed.setdefault(response_id, []).append(entry)
        self.writes.unclaimed.append(entry)

    def _is_new(self, fact: ResponseClaimed) -> bool:
        """The first claim counts, as in the fold; a create's claim replaces an adopted one, so it is written again."""
        holder = self._known.claims.get(fact.response_id)
        return holder is None or (fact.made_elsewhere is None and holder != fact.job_id)

    def _claim(self, fact: ResponseClaimed) -> None:
        response_id = fact.response_id
        self._known.claims[response_id] = fact.job_id
        self.writes.claims[response_id] = (fact.job_id, fact.at_ms)
        waiting = self._known.unclaimed.pop(response_id, [])
        if not waiting:
            return
        self.writes.timeline += [
            TimelineEntry(fact.job_id, entry.at_ms, entry.kind, entry.summary, entry.position) for entry in waiting
        ]
        self.writes.unclaimed = [entry for entry in self.writes.unclaimed if entry.response_id != response_id]
        self.writes.claimed.append(response_id)

    def _finish(self, row: JobRow, held: HeldResult, result: JobResult | None = None) -> None:
        settled = settle(row, held, result)
        self._put(settled)
        self.writes.finished.append(settled)

    def _put(self, row: JobRow) -> None:
        self._known.rows[row.job_id] = row
        self.writes.rows[row.job_id] = row

    def _note(
        self, job_id: str, position: Position, fact: JobFact | ResponseFact | JobResult, ignored: Ignored | None
    ) -> None:
        summary = summarise(fact, ignored)
        self.writes.timeline.append(TimelineEntry(job_id, fact.at_ms, fact.type, summary, position))
