"""What a part of a process reports with."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from backstop.runtime.kafka.publisher import Publisher
from backstop.runtime.process.clock import NowMs

M = TypeVar("M")
"""The metrics of the part."""


@dataclass(frozen=True, slots=True)
class Reporting(Generic[M]):
    """Facts go to the logs through `publisher`, figures to the operator through `metrics`; `now_ms` dates both."""

    publisher: Publisher
    metrics: M
    now_ms: NowMs
