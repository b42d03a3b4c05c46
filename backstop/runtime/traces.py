"""The `traceparent` of the request or record that the calling code works for, for code too deep to be handed it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from schemas.traces import TRACEPARENT, parse_traceparent

_NOW: ContextVar[str | None] = ContextVar("traceparent", default=None)


def traceparent_now() -> str | None:
    return _NOW.get()


@contextmanager
def within_trace(traceparent: str | None) -> Iterator[None]:
    token = _NOW.set(traceparent)
    try:
        yield
    finally:
        _NOW.reset(token)


def traceparent_in(values: Iterable[str]) -> str | None:
    """Of the values of the header. Several contradict each other, and count as none."""
    found = list(values)
    return parse_traceparent(found[0]) if len(found) == 1 else None


def traceparent_of_record(headers: Iterable[tuple[str, bytes | None]]) -> str | None:
    return traceparent_in((value or b"").decode(errors="replace") for name, value in headers if name == TRACEPARENT)
