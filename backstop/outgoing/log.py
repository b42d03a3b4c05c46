"""PURE: one partition of `deliveries` in memory: the fold of its records, and from where it would have to be folded again.

As each record carries its whole delivery, the last records of what is open are enough: everything before the oldest of them may be left
out the next time. That offset is what is committed to the group, so a restart reads what is open and not a month of history.
"""

from dataclasses import dataclass, field

from backstop.outgoing.fold import Absent, Ended, Ignored, Pending, step
from schemas.deliveries import DeliveryFact, ResendAsked, ResendDone

ENDED_REMEMBERED_MAX = 20_000
"""Of each partition, so that a result that is read again does not begin its delivery again. Beyond it one is sent twice, under one id."""


@dataclass(slots=True)
class PartitionLog:
    open: dict[str, tuple[Pending, int]] = field(default_factory=dict)
    """With the offset of its last record; in the order of these offsets."""
    resends: dict[str, tuple[ResendAsked, int]] = field(default_factory=dict)
    _ended: dict[str, Ended] = field(default_factory=dict)

    def take(self, fact: DeliveryFact, offset: int) -> Ignored | None:
        """Fold one fact; `open` tells what became of it."""
        delivery_id = fact.delivery_id
        known = self.open.get(delivery_id)
        done = step(known[0] if known else self._ended.get(delivery_id, Absent()), fact)
        if done.ignored is not None:
            return done.ignored
        self.open.pop(delivery_id, None)
        self._ended.pop(delivery_id, None)
        match done.state:
            case Pending():
                self.open[delivery_id] = (done.state, offset)
            case Ended():
                self._ended[delivery_id] = done.state
                while len(self._ended) > ENDED_REMEMBERED_MAX:
                    del self._ended[next(iter(self._ended))]
            case Absent():
                raise AssertionError("a fact was taken and left nothing")
        return None

    def take_resend(self, record: ResendAsked | ResendDone, offset: int) -> None:
        match record:
            case ResendAsked():
                self.resends.setdefault(record.id, (record, offset))
            case ResendDone():
                self.resends.pop(record.resend_id, None)

    def checkpoint(self, position: int) -> int:
        """Where a fold has to begin to know all that is open now; `position` where nothing is."""
        first_open = next(iter(self.open.values()), None)
        first_resend = next(iter(self.resends.values()), None)
        return min([position, *(found[1] for found in (first_open, first_resend) if found is not None)])
