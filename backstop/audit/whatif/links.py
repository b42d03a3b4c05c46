"""Causes and effects of a range, as a replay without a change finds them. Pure."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Links:
    """Causes and effects of the range, learned by a replay that changes nothing."""

    outputs: dict[str, int] = field(default_factory=dict)
    """When each output of a fold was made, by id."""
    after: dict[tuple[str, tuple[int, int]], tuple[int | None, tuple[str, ...]]] = field(default_factory=dict)
    """By a fact's place: the next due time of its key after it, and the ids of its outputs."""
    following: dict[tuple[str, tuple[int, int]], int] = field(default_factory=dict)
    """By a fact's place: when the next fact of the same key comes."""
    finished: set[str] = field(default_factory=set)
    """Jobs that ended in the log."""
