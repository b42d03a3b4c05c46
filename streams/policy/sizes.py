"""What a job will use: learned means of input and output tokens, by tenant, model and size class. Pure.

Rules:
- A rate is reserved by the mean, not by a quantile: of `n` jobs a minute the sum has a relative error of `cv / √n`.
- Before anything is known of a class, the model's mean counts; before that, the declared limit of the output, at most
  `OUTPUT_UNKNOWN`.
- A declared limit of the output bounds the estimate.
"""

from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

K = TypeVar("K")

BYTES_PER_TOKEN = 4.0
OUTPUT_UNKNOWN = 2_000
LEARNED_MIN = 5
"""Ends after which a mean counts."""
WINDOW = 200
"""Ends that a mean remembers, about: each later end changes it by 1/200."""
OUTPUT_LEARNED_MAX = 1_000_000
"""More tokens of one output are learned as this: one usage that is far too high must not set the estimate of 200 jobs.
"""
CLASSES_MAX = 10_000
EXACT_BYTES = 1_024
KINDS_MAX = 50_000
"""Kinds of jobs of which one object is kept."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is known of a job before it runs."""

    tenant: str
    model: str
    request_bytes: int
    output_tokens_max: int | None = None

    @property
    def size_class(self) -> int:
        """Requests within a factor of four are of one class."""
        return max(0, self.request_bytes).bit_length() // 2


def asked_for(tenant: str, model: str, request_bytes: int, output_tokens_max: int | None) -> Asked:
    """What is known of a job, as one object for all jobs of its kind: a million of them may wait.

    Sizes from 1,024 bytes on are rounded to six binary digits, so to 1/64 at most, which is less than is known of them.
    """
    rough = 1 << max(0, request_bytes.bit_length() - 6) if request_bytes >= EXACT_BYTES else 1
    return _shared(tenant, model, request_bytes // rough * rough + rough // 2, output_tokens_max)


@lru_cache(maxsize=KINDS_MAX)
def _shared(tenant: str, model: str, request_bytes: int, output_tokens_max: int | None) -> Asked:
    return Asked(tenant, model, request_bytes, output_tokens_max)


@dataclass(frozen=True, slots=True)
class Estimate:
    input_tokens: float
    output_tokens: float
    learned: bool

    @property
    def tokens(self) -> float:
        return self.input_tokens + self.output_tokens


@dataclass(slots=True)
class _Mean:
    count: int = 0
    output: float = 0.0
    bytes_per_token: float = BYTES_PER_TOKEN

    def learn(self, request_bytes: int, input_tokens: int, output_tokens: int) -> None:
        self.count += 1
        part = 1 / min(self.count, WINDOW)
        self.output += (min(output_tokens, OUTPUT_LEARNED_MAX) - self.output) * part
        if input_tokens > 0 and request_bytes > 0:
            seen = min(max(request_bytes / input_tokens, 0.5), 50.0)
            self.bytes_per_token += (seen - self.bytes_per_token) * part


class Sizes:
    """What ended jobs used. Bounded; the classes not used for longest are forgotten."""

    def __init__(self) -> None:
        self._means: OrderedDict[tuple[str, str, int], _Mean] = OrderedDict()
        self._models: OrderedDict[str, _Mean] = OrderedDict()

    def estimate(self, asked: Asked) -> Estimate:
        mean = self._known(asked)
        input_tokens = asked.request_bytes / (mean.bytes_per_token if mean else BYTES_PER_TOKEN)
        output = mean.output if mean else float(OUTPUT_UNKNOWN)
        if asked.output_tokens_max is not None:
            output = min(output, asked.output_tokens_max)
        return Estimate(input_tokens, output, mean is not None)

    def learn(self, asked: Asked, input_tokens: int, output_tokens: int) -> None:
        key = (asked.tenant, asked.model, asked.size_class)
        for mean in (_of(self._means, key), _of(self._models, asked.model)):
            mean.learn(asked.request_bytes, input_tokens, output_tokens)

    def _known(self, asked: Asked) -> _Mean | None:
        mean = self._means.get((asked.tenant, asked.model, asked.size_class))
        if mean is None or mean.count < LEARNED_MIN:
            mean = self._models.get(asked.model)
        return mean if mean is not None and mean.count >= LEARNED_MIN else None


def _of(means: OrderedDict[K, _Mean], key: K) -> _Mean:
    mean = means.setdefault(key, _Mean())
    means.move_to_end(key)
    if len(means) > CLASSES_MAX:
        means.popitem(last=False)
    return mean
