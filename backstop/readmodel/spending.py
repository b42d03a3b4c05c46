"""The cost ledger: what each attempt that reached the provider used, and sums of that. Pure.

Rules:
- A *spend* is one response of a job, or one attempt of unknown outcome. It counts from the fact that the provider may
  have taken the attempt, under the day (UTC) of its first fact; a refused create counts nothing.
- Facts about one spend are merged so that neither their order nor their repetition matters: the provider's own figures
  replace an estimate, an end replaces "running", the greater of two figures stays.
- An attempt of unknown outcome counts as `unknown`. Its response replaces that, and a refusal removes it.
- Sums are kept by all that decides a price and all that a question may group by, and change by the difference between
  a spend before and after a fact. A spend without usage counts as an attempt, and not as measured.
- Sums by minute are for the course over time; they are kept for some days (`backstop.readmodel.minutes`).
- Prices are not part of the ledger: they apply when it is read (`streams.policy.prices`).
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Final, Literal, NamedTuple, assert_never, get_args

from schemas.base import Terms, Usage
from schemas.jobs import (
    AdoptionRefused,
    AttemptAccepted,
    AttemptRejected,
    AttemptSettled,
    JobFact,
    ResponseAdopted,
    UsageBooked,
)
from schemas.statuses import SettledStatus
from streams.fold.attempts import Abandoned, Attempts, OutcomeUnknown, Submitting
from streams.fold.job import Active, BackingOff, Finished, JobState
from streams.fold.job_fallbacks import model_of_attempt
from streams.fold.job_states import Spec
from streams.policy.prices import LONG_INPUT_TOKENS, Used

DAY_MS: Final = 86_400_000
MINUTE_MS: Final = 60_000
NAME_CHARS_MAX: Final = 200
NO_USAGE: Final = Usage()
NO_TERMS: Final = Terms()

SpendOutcome = Literal["unknown", "running", SettledStatus]
"""`unknown`: nothing is known but that the create may have been taken. `running`: no end is known."""
SPEND_OUTCOMES: Final[tuple[SpendOutcome, ...]] = get_args(SpendOutcome)
RANK: Final[dict[SpendOutcome, int]] = {
    "unknown": 0, "running": 1, "missing": 2, "stuck": 3, "cancelled": 4, "failed": 5, "incomplete": 6, "completed": 7,
}  # fmt: skip

About = Literal["all", "tag", "cache_key", "minute"]
"""Sums of all spends; sums by tag, in which a job counts once for each of its tags; sums by `prompt_cache_key`; sums by
the minute of the first fact.
"""


@dataclass(frozen=True, slots=True)
class SpendCounts(Used):
    """The amounts of a spend, or their sums."""

    attempts: int = 0
    measured: int = 0
    """Attempts whose usage is known."""
    estimated: int = 0
    """Of them, those whose usage is an estimate."""


COUNTS: Final = tuple(each.name for each in fields(SpendCounts))


@dataclass(frozen=True, slots=True)
class Spend:
    """One response of a job; `response_id` is empty for an attempt of unknown outcome."""

    job_id: str
    attempt: int
    response_id: str
    minute: int
    """Of the first fact: minutes since 1970-01-01."""
    outcome: SpendOutcome
    reported: int = 0
    """0: no usage is known; 1: an estimate; 2: the provider's figures."""
    usage: Usage = NO_USAGE
    terms: Terms = NO_TERMS
    model: str = ""
    """The model of a fallback, where the attempt asked for one."""

    @property
    def key(self) -> tuple[int, str]:
        return self.attempt, self.response_id

    @property
    def day(self) -> int:
        """Days since 1970-01-01, UTC."""
        return self.minute * MINUTE_MS // DAY_MS

    @property
    def measured(self) -> bool:
        """Whether the cost can be known. A failure without usage costs nothing, as for retries; an end of any other
        kind without input and output tokens tells nothing, whatever the total says.
        """
        usage = self.usage
        return usage.input_tokens + usage.output_tokens > 0 or (self.outcome == "failed" and not usage.total_tokens)


@dataclass(frozen=True, slots=True)
class SpendOwner:
    """The fields of a job by which its spends are summed."""

    tenant: str
    model: str = ""
    tags: tuple[str, ...] = ()
    cache_policy: str = ""
    """Empty for a job without a `prompt_cache_key`."""
    cache_key: str = ""
    """As the submission named it."""


class Group(NamedTuple):
    """The key of a sum. A tuple, as the projection makes and hashes several for each attempt."""

    about: About
    name: str
    """The tag, the `prompt_cache_key` or the minute (`minute_name`); empty for all, and for jobs without one."""
    tenant: str
    day: int
    model: str
    served: str
    """The model that ran, if it is not the one of the submission or a dated version of it: that of a fallback, or the
    one that the response names.
    """
    tier: str
    window: str
    long: int
    outcome: SpendOutcome
    cache_policy: str


GROUP: Final = Group._fields
SpendKey = tuple[int, str]
"""Attempt and response id within a job."""
Sums = dict[Group, Counter[str]]


def facts_spends(
    before: JobState, after: JobState, fact: JobFact, *, taken: bool, attempts_seen: int
) -> tuple[list[Spend], list[SpendKey]]:
    """The spends that a fact tells of, and the keys of those that it shows to be none.

    :param taken: the fold did not ignore the fact.
    :param attempts_seen: the highest attempt number of the job so far. A later one can't be true.
    """
    found, none = _told(before, after, fact, taken=taken, attempts_seen=attempts_seen)
    spec = next((state.spec for state in (after, before) if isinstance(state, Active | BackingOff)), None)
    if spec is None or not spec.fell:
        return found, none
    return [replace(each, model=_fell_to(spec, each.attempt)) for each in found], none


def _fell_to(spec: Spec, attempt: int) -> str:
    """The model of `Spend`."""
    model = model_of_attempt(spec, attempt)
    return "" if model == spec.fell[0].instead_of else model


def _told(
    before: JobState, after: JobState, fact: JobFact, *, taken: bool, attempts_seen: int
) -> tuple[list[Spend], list[SpendKey]]:
    match fact:
        case AttemptAccepted() | AttemptSettled() if fact.attempt > attempts_seen:
            return [], []
        case AttemptAccepted() | AttemptSettled() | UsageBooked():
            # A create that is answered with the response of an attempt before made none.
            named = _attempt_of(before, fact.response_id) if isinstance(fact, AttemptAccepted) else None
            return [_of_response(fact)] if named in (None, fact.attempt) else [], [(fact.attempt, "")]
        case AttemptRejected():
            return _outcome_unknown(before, after, fact, without=fact.attempt), [(fact.attempt, "")]
        case ResponseAdopted() if taken:
            return [Spend(fact.job_id, 1, fact.response_id, fact.at_ms // MINUTE_MS, "running")], []
        case AdoptionRefused() if taken:
            return [], [(_attempt_of(before, fact.response_id) or 1, fact.response_id)]
        case _:
            return _outcome_unknown(before, after, fact), []


def _attempt_of(state: JobState, response_id: str) -> int | None:
    """The number of the attempt that has this response, of an open job."""
    attempt = state.attempts.of_response(response_id) if isinstance(state, Active | BackingOff) else None
    return None if attempt is None else attempt.number


def _of_response(fact: AttemptAccepted | AttemptSettled | UsageBooked) -> Spend:
    match fact:
        case AttemptAccepted():
            end = fact.end
            if end is None:
                return _spend(fact, "running", None, None)
            return _spend(fact, end.status, end.usage, end.terms)
        case AttemptSettled():
            return _spend(fact, fact.status, fact.usage, fact.terms)
        case UsageBooked():
            return _spend(fact, "running", fact.usage, fact.terms, 1 if fact.estimated else 2)
        case _:
            assert_never(fact)


def _spend(
    fact: AttemptAccepted | AttemptSettled | UsageBooked, outcome: SpendOutcome, usage: Usage | None,
    terms: Terms | None, reported: int = 2,
) -> Spend:  # fmt: skip
    return Spend(
        fact.job_id, fact.attempt, fact.response_id, fact.at_ms // MINUTE_MS, outcome,
        0 if usage is None else reported, usage or NO_USAGE, terms or NO_TERMS,
    )  # fmt: skip


def _outcome_unknown(before: JobState, after: JobState, fact: JobFact, without: int | None = None) -> list[Spend]:
    """Attempts of which the job knows, or will never hear, whether the provider took them."""
    numbers: Iterable[int] = ()
    if isinstance(after, Active | BackingOff):
        numbers = _numbers(after.attempts, OutcomeUnknown, Abandoned)
    elif isinstance(after, Finished) and isinstance(before, Active | BackingOff):
        # The job ended: a report that is still missing comes late, and corrects this.
        numbers = _numbers(before.attempts, Submitting, OutcomeUnknown, Abandoned)
    minute = fact.at_ms // MINUTE_MS
    return [Spend(fact.job_id, number, "", minute, "unknown") for number in numbers if number != without]


def _numbers(attempts: Attempts, *kinds: type) -> list[int]:
    return [item.number for item in attempts.items if isinstance(item, kinds)]


def merged(one: Spend, other: Spend) -> Spend:
    """Both views of one spend, whichever came first."""
    richer = max(one, other, key=_certainty)
    return replace(
        richer,
        minute=min(one.minute, other.minute),
        outcome=max(one.outcome, other.outcome, key=RANK.__getitem__),
        terms=_merged_terms(one.terms, other.terms),
        model=max(one.model, other.model),
    )


def _certainty(spend: Spend) -> tuple[int, ...]:
    usage = spend.usage
    return (
        spend.reported, usage.total_tokens, usage.input_tokens, usage.output_tokens, usage.cached_tokens,
        usage.reasoning_tokens, -1 if usage.cache_write_tokens is None else usage.cache_write_tokens,
    )  # fmt: skip


def _merged_terms(one: Terms, other: Terms) -> Terms:
    """Field by field: what is told, and the greater of two."""
    if one is NO_TERMS or other is NO_TERMS:
        return other if one is NO_TERMS else one
    told: dict[str, str | int | None] = {}
    for name in Terms.model_fields:
        values = [value for value in (getattr(one, name), getattr(other, name)) if value is not None]
        told[name] = max(values) if values else None
    return Terms.model_validate(told)


@dataclass(slots=True)
class Ledger:
    """The spends of the jobs of a batch, and how the batch changes them and the sums."""

    known: dict[str, dict[SpendKey, Spend]]
    """By job id; the caller loads those of all jobs of the batch."""
    changed: dict[tuple[str, SpendKey], Spend | None] = field(default_factory=dict)
    """The last version of each spend that changed; None for one that is removed."""
    sums: Sums = field(default_factory=dict)
    """Differences of the sums."""

    def take(self, job_id: str, owner: SpendOwner, found: Iterable[Spend], none: Iterable[SpendKey]) -> None:
        """Take what one fact told (`facts_spends`)."""
        mine = self.known.setdefault(job_id, {})
        for spend in found:
            answered = any(attempt == spend.attempt and response_id for attempt, response_id in mine)
            if spend.response_id or not answered:
                before = mine.get(spend.key)
                after = spend if before is None else merged(before, spend)
                # A response that comes after the job's end tells no model; the attempt of unknown outcome did.
                unheard = mine.get((spend.attempt, ""))
                after = after if unheard is None else replace(after, model=max(after.model, unheard.model))
                self._put(mine, owner, before, after)
        for key in none:
            before = mine.get(key)
            if before is not None:
                self._put(mine, owner, before, None)

    def move(self, job_id: str, before: SpendOwner, after: SpendOwner) -> None:
        """Sum the job's spends as those of another owner from now on."""
        for spend in self.known.get(job_id, {}).values():
            add(self.sums, spend, before, -1)
            add(self.sums, spend, after, 1)

    def _put(
        self, mine: dict[SpendKey, Spend], owner: SpendOwner, before: Spend | None, after: Spend | None
    ) -> None:  # fmt: skip
        spend = after or before
        if before == after or spend is None:
            return
        if before is not None:
            add(self.sums, before, owner, -1)
            del mine[before.key]
        if after is not None:
            add(self.sums, after, owner, 1)
            mine[after.key] = after
        self.changed[spend.job_id, spend.key] = after


def add(sums: Sums, spend: Spend, owner: SpendOwner, sign: Literal[1, -1]) -> None:
    """Add a spend to the sums, or take it out again."""
    counts = [(name, sign * amount) for name, amount in zip(COUNTS, _amounts(spend), strict=True) if amount]
    for group in _groups(spend, owner):
        sum_of_group = sums.get(group)
        if sum_of_group is None:
            sum_of_group = sums[group] = Counter()
        for name, amount in counts:
            sum_of_group[name] = sum_of_group.get(name, 0) + amount


def _groups(spend: Spend, owner: SpendOwner) -> list[Group]:
    """The sums to which a spend belongs: of all, of its minute, of its `prompt_cache_key`, and of each tag."""
    of_all = group_of(spend, owner)
    rest = of_all[2:]
    named: list[tuple[About, str]] = [("minute", minute_name(spend.minute)), ("cache_key", _clean(owner.cache_key))]
    named += [("tag", _clean(tag)) for tag in dict.fromkeys(owner.tags) or ("",)]
    return [of_all, *(Group(about, name, *rest) for about, name in named)]


def minute_name(minute: int) -> str:
    """The name of a minute's sums: names are in the order of time until the year 2160."""
    return f"{minute:08}"


def group_of(spend: Spend, owner: SpendOwner) -> Group:
    """The sum of all spends to which a spend belongs."""
    terms, model = spend.terms, owner.model or _clean(spend.terms.model)
    asked = _clean(spend.model) or model
    served = _clean(terms.model)
    ran = asked if not served or served.startswith(f"{asked}-20") else served
    return Group(
        about="all",
        name="",
        tenant=owner.tenant,
        day=spend.day,
        model=model,
        served="" if ran == model else ran,
        tier=_clean(terms.service_tier),
        window=_clean(terms.window),
        long=int(spend.usage.input_tokens > LONG_INPUT_TOKENS),
        outcome=spend.outcome,
        cache_policy=owner.cache_policy,
    )


def counts_of(spend: Spend) -> SpendCounts:
    """The amounts of a spend."""
    return SpendCounts(*_amounts(spend))


def _amounts(spend: Spend) -> tuple[int, ...]:
    """In the order of `COUNTS`. Parts of the input are never more than the input, so that no sum is distorted."""
    usage, terms = spend.usage, spend.terms
    cached = min(usage.cached_tokens, usage.input_tokens)
    return (
        usage.input_tokens,
        cached,
        min(usage.cache_write_tokens or 0, usage.input_tokens - cached),
        usage.output_tokens,
        usage.reasoning_tokens,
        terms.web_search_calls or 0,
        terms.file_search_calls or 0,
        terms.containers or 0,
        1,
        int(spend.measured),
        int(spend.reported == 1),
    )


def _clean(text: str | None) -> str:
    """A foreign text as part of a key: bounded, and without NUL, which PostgreSQL refuses."""
    return text.replace("\x00", "\ufffd")[:NAME_CHARS_MAX] if text else ""
