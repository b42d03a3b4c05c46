"""The findings of `verify` as values. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from backstop.audit.differences import Difference

Verdict = Literal["proved", "differs"]

DIFFERENCES_SHOWN_MAX = 100


@dataclass(frozen=True, slots=True)
class PartitionReport:
    """One partition of one log. Under load the digests may differ, because one side has a newer row."""

    topic: str
    partition: int
    begin: int
    end: int
    facts: int
    rows: int
    poisons: int
    digest_refold: str
    digest_table: str

    @property
    def equal(self) -> bool:
        return self.digest_refold == self.digest_table


@dataclass(frozen=True, slots=True)
class Report:
    """`differences` holds the first few; `counts` counts all of them by check and kind."""

    partitions: tuple[PartitionReport, ...]
    outputs: Mapping[str, Mapping[str, int]]
    """By topic: matched, repeats."""
    read_model_rows: int | None
    """None: the read model was not checked."""
    counts: Mapping[str, int]
    differences: tuple[Difference, ...]
    not_covered: Mapping[str, int]
    """Items that retention makes impossible to check: neither proved nor different."""
    warnings: tuple[str, ...]
    rounds: int
    took_s: float
    ignored: Mapping[str, int] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        return "differs" if self.counts else "proved"

    @property
    def complete(self) -> bool:
        """Whether everything was checked."""
        return not self.not_covered and not self.warnings

    def as_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "complete": self.complete,
            **asdict(self),
            "partitions": [{**asdict(partition), "equal": partition.equal} for partition in self.partitions],
        }


def counted(differences: list[Difference]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for difference in differences:
        name = f"{difference.check} {difference.kind}"
        counts[name] = counts.get(name, 0) + 1
    return counts
