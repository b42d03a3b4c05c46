"""How the body of a submission is read."""

from dataclasses import dataclass

from receiver.access.quotas import Quotas
from receiver.bodies import BodyMemory
from receiver.ingress.previous import PreviousResponses


@dataclass(frozen=True, slots=True)
class SubmittedBodies:
    """A body is read within the memory of all bodies and the tenant's quota, and names only what the tenant may use."""

    memory: BodyMemory
    quotas: Quotas
    previous: PreviousResponses
