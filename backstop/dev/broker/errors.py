"""What can go wrong between wanting a broker and having one. The developer who runs the command must act on both."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Missing:
    """Why a way to a broker is closed, and what would open it."""

    way: str
    reason: str
    remedy: str


class BrokerError(Exception):
    """A broker could not be had, started or stopped; the message is a sentence for the developer."""


class BrokerFailedError(BrokerError):
    """A broker that should have started did not; the message ends with what it said last."""


class NoBrokerError(BrokerError):
    """No way to a broker is open. Says each way that was tried, why it failed, and what to install."""

    def __init__(self, tried: Sequence[Missing]) -> None:
        self.tried = tuple(tried)
        lines = [f"  {number}. {one.way}: {one.reason}" for number, one in enumerate(self.tried, start=1)]
        remedies = [f"  - {one.remedy}" for one in self.tried]
        super().__init__(
            "\n".join(["no Kafka broker can be had. Tried:", *lines, "Any one of these helps:", *remedies])
        )
