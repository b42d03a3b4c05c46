"""The metrics of provider calls, as a protocol: the worker declares the metrics and passes them to the client."""

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
    """Counts HTTP calls to the provider. Labels have closed sets of values."""

    def request(self, operation: Operation, status_class: str, seconds: float) -> None:
        """Count one call. `status_class` is `2xx` to `5xx`, or the kind of the fault."""

    def alarm(self, kind: Alarm) -> None:
        """Count an answer that needs an operator, or that this release does not know."""
