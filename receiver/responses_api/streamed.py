"""The stream of a response as OpenAI's SDKs read it. Pure.

Rules:
- A stream starts with `response.created` and ends with the terminal event; both contain Backstop's object. Between them
  are the provider's events with their own numbers, and with Backstop's response id in place of the provider's.
- After a gap only the terminal event follows, with the complete response, so a client never joins deltas across a gap.
- A terminal event whose number is not known has one beyond all others: the SDKs' `stream(response_id, starting_after)`
  reads a stream from its start and drops each event up to the number that the client has seen.
- A stream shows one attempt: the first with output. A client would join the events of two attempts into one text. If
  that attempt failed and a later one produced the result, the terminal event contains the complete result.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

import orjson

from receiver.partial_output.history import Event, JobHistory, Run
from receiver.responses_api.wire import as_open, text_of
from schemas.codec import canonical
from schemas.statuses import OPEN_RESPONSE_STATUSES, ResponseStatus

BEYOND_ALL: Final = 1_000_000_000
"""No provider numbers so many events of one response."""

_STATUS_OF: Final[Mapping[str, ResponseStatus]] = {f"response.{status}": status for status in OPEN_RESPONSE_STATUSES}


class EndedResponse(Protocol):
    @property
    def document(self) -> Mapping[str, Any]:
        """The Response object at its end, without the members in `rest`."""

    @property
    def rest(self) -> bytes:
        """The JSON object of its large members; empty if there are none."""


class ResponseView:
    """The position of one listener in the stream. `document` is the Response object, open or ended."""

    def __init__(
        self, response_id: str, document: Mapping[str, Any], after: int | None, *, obfuscated: bool = True
    ) -> None:
        self._id = response_id.encode()
        self._document = document
        self._obfuscated = obfuscated
        self._last = 0 if after is None else after
        self._resumed = after is not None

    def first(self) -> bytes:
        """The first event; empty for a resumed stream."""
        if self._resumed:
            return b""
        return _frame("response.created", 0, {"response": as_open(self._document, "queued")})

    def lacks(self, history: JobHistory | None) -> bool:
        """Whether the events after a resumed stream's position are not in memory (yet). False for a stream from its
        start.
        """
        if not self._resumed or self._last == 0 or self._last >= BEYOND_ALL:
            return False
        run = _run_of(history)
        return run is None or run.start_after > self._last

    def is_over(self, history: JobHistory | None) -> bool:
        """Whether a resumed stream starts after the terminal event."""
        if self._resumed and self._last >= BEYOND_ALL:
            return True
        run = _run_of(history)
        return self._resumed and run is not None and run.end_number is not None and self._last >= run.end_number

    def pending(self, history: JobHistory) -> Iterator[bytes]:
        run = _run_of(history)
        if run is None or run.start_after > self._last:
            return
        provider_id = run.response_id.encode()
        for event in run.after(self._last):
            self._last = event.number
            if event.kind != "response.created":
                yield self._shown(event, provider_id)

    def is_complete(self, history: JobHistory | None) -> bool:
        run = _run_of(history)
        if run is None or history is None:
            return False
        superseded = run.has_output and max(history.runs) > run.attempt
        return superseded or run.end_number is not None or run.truncated is not None or run.start_after > self._last

    def end(self, ended: EndedResponse, history: JobHistory | None) -> bytes:
        run = _run_of(history)
        document = ended.document
        kind = f"response.{document['status']}"
        held = run is not None and run.start_after <= self._last
        number = max((run and run.end_number) or 0, self._last + 1) if held else BEYOND_ALL
        if not ended.rest:
            return _frame(kind, number, {"response": document})
        head = canonical({"type": kind, "sequence_number": number})
        data = b'%b,"response":%b}' % (head[:-1], text_of(document, ended.rest))
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)

    def _shown(self, event: Event, provider_id: bytes) -> bytes:
        status = _STATUS_OF.get(event.kind)
        if status is not None:
            return _frame(event.kind, event.number, {"response": as_open(self._document, status)})
        data = event.data
        if not self._obfuscated and b'"obfuscation"' in data:
            data = canonical({name: value for name, value in orjson.loads(data).items() if name != "obfuscation"})
        data = data.replace(provider_id, self._id)
        return b"event: %b\ndata: %b\n\n" % (event.kind.encode(), data)


def _run_of(history: JobHistory | None) -> Run | None:
    """The first attempt with output; else the last attempt."""
    runs = list(history.runs.values()) if history is not None else []
    return next((run for run in runs if run.has_output), runs[-1] if runs else None)


def _frame(kind: str, number: int, told: Mapping[str, Any]) -> bytes:
    data = canonical({"type": kind, "sequence_number": number, **told})
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)
