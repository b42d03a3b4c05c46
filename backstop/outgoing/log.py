"""PURE: one partition of `deliveries`, folded in memory, and the offset from which to fold it again.

Each record carries its whole delivery, so the last records of the open deliveries suffice, and the fold may begin at
the oldest of these. That offset is committed to the group: a restart reads the open deliveries, not a month of history.
"""

from dataclasses import dataclass, field

from backstop.outgoing.fold import DeliveryEnded, Ignored, NoDelivery, Pending, step
from schemas.deliveries import DeliveryFact, ResendAsked, ResendDone

ENDED_REMEMBERED_MAX = 20_000
"""Per partition, so that a result read again does not restart its
delivery. Beyond it one is sent twice, under one id.
"""


@dataclass(slots=True)
class PartitionLog:
    open: dict[str, tuple[Pending, int]] = field(default_factory=dict)
    """Each with the offset of its last record, in the order of these offsets."""
    resends: dict[str, tuple[ResendAsked, int]] = field(default_factory=dict)
    _ended: dict[str, DeliveryEnded] = field(default_factory=dict)

    def take(self, fact: DeliveryFact, offset: int) -> Ignored | None:
        """Fold one fact. Returns why it was ignored, or None; the new state is in `open`."""
        delivery_id = fact.delivery_id
        known = self.open.get(delivery_id)
        done = step(known[0] if known else self._ended.get(delivery_id, NoDelivery()), fact)
        if done.ignored is not None:
            return done.ignored
        self.open.pop(delivery_id, None)
        self._ended.pop(delivery_id, None)
        match done.state:
            case Pending():
                self.open[delivery_id] = (done.state, offset)
            case DeliveryEnded():
                self._ended[delivery_id] = done.state
                while len(self._ended) > ENDED_REMEMBERED_MAX:
                    del self._ended[next(iter(self._ended))]
            case NoDelivery():
                raise AssertionError("a fact that was not ignored left no state")
        return None

    def take_resend(self, record: ResendAsked | ResendDone, offset: int) -> None:
        match record:
            case ResendAsked():
                self.resends.setdefault(record.id, (record, offset))
            case ResendDone():
                self.resends.pop(record.resend_id, None)

    def checkpoint(self, position: int) -> int:
        """The offset from which a fold knows everything that is open now; `position` if nothing is open."""
        first_open = next(iter(self.open.values()), None)
        first_resend = next(iter(self.resends.values()), None)
        return min([position, *(found[1] for found in (first_open, first_resend) if found is not None)])
