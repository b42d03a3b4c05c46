"""What the client of the provider counts, as a protocol: the worker declares the metrics, and hands them in."""

from typing import Literal, Protocol

Operation = Literal["create", "retrieve", "cancel"]
Alarm = Literal[
    "blob_missing",
    "blob_store",
    "blob_not_stored",
    "credentials",
    "quota",
    "redirect",
    "proxy",
    "unknown_code",
    "unknown_status",
    "unusable_answer",
]


class CallMetrics(Protocol):
    """Counts of HTTP calls to the provider. Labels are of closed sets."""

    def request(self, operation: Operation, status_class: str, seconds: float) -> None:
        """One call: `status_class` is `2xx` to `5xx`, or the kind of the fault."""

    def alarm(self, kind: Alarm) -> None:
        """An answer on which a person must act, or one of a kind that is not known."""
