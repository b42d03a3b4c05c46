"""Background against foreground: which requests of a range are asked again, and what the pairs of answers show. Pure.

A pair is one request that is sent twice at the same moment: once in the background, once in the foreground. So the
requests are the same, and so is the provider's load. The sample is drawn by a hash of the job's id alone.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappush, heappushpop
from typing import Any, Final

from backstop.audit.latency.statistics import Interval, Sample, proportion, quantiles
from backstop.runtime.records import Record
from schemas.base import InlineBody, Usage
from schemas.codec import PoisonError, decode
from schemas.hedges import acts, unhedgeable
from schemas.jobs import JOB_FACT, JobSubmitted
from schemas.results import RESULT

PAIRS_MAX: Final = 200
"""Each pair costs two answers."""

LOGS: Final = ("jobs", "results")
"""The order in which they must be taken."""


@dataclass(slots=True)
class SampledRequest:
    """A request to be asked again."""

    job_id: str
    model: str
    body: Mapping[str, Any] = field(repr=False)
    usage: Usage | None = None
    """What the recorded job used; None if that is not known."""


class SampleReading:
    """Draws the sample from the records of `LOGS`, one topic after the other."""

    def __init__(self, since_ms: int, until_ms: int, pairs: int) -> None:
        self._since_ms, self._until_ms, self._pairs = since_ms, until_ms, pairs
        self._heap: list[tuple[int, str]] = []
        self._found: dict[str, SampledRequest] = {}
        self.left_out: Counter[str] = Counter()
        """Jobs that are never asked again, by the reason."""

    def take(self, batch: Sequence[Record]) -> None:
        for record in batch:
            adapter: Any = JOB_FACT if record.topic == "jobs" else RESULT
            try:
                fact = decode(adapter, record.value)
            except PoisonError:
                continue
            if isinstance(fact, JobSubmitted) and self._since_ms <= fact.at_ms < self._until_ms:
                self._draw(fact)
            elif record.topic == "results" and (known := self._found.get(fact.job_id)) is not None:
                known.usage = fact.usage

    def done(self) -> list[SampledRequest]:
        return [self._found[job_id] for _, job_id in sorted(self._heap, reverse=True)]

    def _draw(self, fact: JobSubmitted) -> None:
        body = fact.request.value if isinstance(fact.request, InlineBody) else None
        if not isinstance(body, dict):
            self.left_out["their request is in the blob store"] += 1
            return
        if (why := _unasked(body)) is not None:
            self.left_out[why] += 1
            return
        if fact.job_id in self._found:
            return
        self._found[fact.job_id] = SampledRequest(fact.job_id, fact.model, body)
        drawn = (-int.from_bytes(hashlib.blake2b(fact.job_id.encode(), digest_size=8).digest()), fact.job_id)
        if len(self._heap) < self._pairs:
            heappush(self._heap, drawn)
        else:
            del self._found[heappushpop(self._heap, drawn)[1]]


def _unasked(body: Mapping[str, Any]) -> str | None:
    """Why a request is not asked again; None if it may be."""
    if acts(body):
        return "they have a tool that may act"
    return "they stream, write to a conversation or have a completion window" if unhedgeable(body) else None


@dataclass(frozen=True, slots=True)
class TimedAnswer:
    """One of the two answers of a pair."""

    end: str
    """`completed`, another status, or why there is none."""
    took_ms: int | None = None
    """From sending to the known end, by Backstop's clock."""
    run_ms: int | None = None
    """From `created_at` to `completed_at`, by the provider's clock: whole seconds."""


@dataclass(frozen=True, slots=True)
class AnswerPair:
    model: str
    foreground: TimedAnswer
    background: TimedAnswer


@dataclass(frozen=True, slots=True)
class PairedSpan:
    """One span of the pairs of which both sides have it."""

    pairs: int
    foreground: Interval
    """The median, in ms."""
    background: Interval
    longer: Interval
    """By how much the background took longer, pair by pair: the median, in ms; negative where it was shorter."""
    slower: Interval
    """The share of pairs with a difference in which the background took longer."""


@dataclass(frozen=True, slots=True)
class ForegroundFigures:
    asked: int
    ends: Mapping[str, Mapping[str, int]]
    """By side: how many ended how."""
    took: PairedSpan
    run: PairedSpan
    models: Mapping[str, PairedSpan]
    """`run` of each model."""


def foreground_figures(pairs: Sequence[AnswerPair]) -> ForegroundFigures:
    """What the pairs show. Only pairs of which both sides completed are compared."""
    both = [pair for pair in pairs if pair.foreground.end == pair.background.end == "completed"]
    of: dict[str, list[AnswerPair]] = defaultdict(list)
    for pair in both:
        of[pair.model].append(pair)
    return ForegroundFigures(
        asked=len(pairs),
        ends={
            "foreground": dict(sorted(Counter(pair.foreground.end for pair in pairs).items())),
            "background": dict(sorted(Counter(pair.background.end for pair in pairs).items())),
        },
        took=_paired((pair.foreground.took_ms, pair.background.took_ms) for pair in both),
        run=_runs(both),
        models={model: _runs(mine) for model, mine in sorted(of.items())},
    )


def _runs(pairs: Iterable[AnswerPair]) -> PairedSpan:
    return _paired((pair.foreground.run_ms, pair.background.run_ms) for pair in pairs)


def _paired(spans: Iterable[tuple[int | None, int | None]]) -> PairedSpan:
    known = [(here, there) for here, there in spans if here is not None and there is not None]
    differences = [there - here for here, there in known]
    unequal = [each for each in differences if each]
    return PairedSpan(
        len(known),
        _median(here for here, _ in known),
        _median(there for _, there in known),
        _median(differences),
        proportion(sum(each > 0 for each in unequal), len(unequal)),
    )


def _median(spans: Iterable[int]) -> Interval:
    return quantiles([Sample(ms) for ms in spans], (0.5,))[0]
