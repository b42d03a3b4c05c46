"""Errors of finding, starting and stopping a broker. The developer who runs the command must act on them."""

from collections.abc import Sequence
from dataclasses import dataclass

from backstop.runtime.errors import BackstopError


@dataclass(frozen=True, slots=True)
class BrokerMissing:
    """Why a way to a broker is not available, and what to do about it."""

    way: str
    reason: str
    remedy: str


class BrokerError(BackstopError):
    """A broker could not be found, started or stopped; the message is a sentence for the developer."""


class BrokerFailedError(BrokerError):
    """A broker did not start; the message ends with the end of its log."""


class NoBrokerError(BrokerError):
    """No way to a broker is available. Lists each way, why it failed, and what to install."""

    def __init__(self, tried: Sequence[BrokerMissing]) -> None:
        self.tried = tuple(tried)
        lines = [f"  {number}. {one.way}: {one.reason}" for number, one in enumerate(self.tried, start=1)]
        remedies = [f"  - {one.remedy}" for one in self.tried]
        super().__init__(
            "\n".join(["no Kafka broker is available. Tried:", *lines, "Any one of these helps:", *remedies])
        )
