"""What a replay finds: causes and effects, where it changes nothing, and the figures. Pure."""

from dataclasses import dataclass, field

from backstop.audit.whatif.figures import Figures


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


@dataclass(frozen=True, slots=True)
class Played:
    figures: Figures
    links: Links
    estimated_polls: int
    """Polls that were never made, and were answered from the recorded end of their response."""
    moved_creates: int
    """Creates that were sent at another time, and are taken to have gone as recorded."""
    never_created: int
    unknown_ends: int
