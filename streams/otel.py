"""Sends the spans of jobs to an OpenTelemetry collector (OTLP over HTTP). The only code that knows OpenTelemetry.

The SDK's own queue and thread send them. A collector that is slow or away costs spans and nothing else: the queue is
bounded (2,048 spans by default), and what does not fit is dropped.
"""

from threading import Thread
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from backstop.runtime.release import release
from streams.fold.batch import Folded
from streams.spans import SCHEMA_URL, JobSpan, spans_of

_KINDS: Final = {"internal": SpanKind.INTERNAL, "client": SpanKind.CLIENT, "producer": SpanKind.PRODUCER}
_NS_PER_MS: Final = 1_000_000

CLOSE_S: Final = 5.0
"""A worker that stops waits no longer for the collector, and drops the spans that are left."""


class SpanExport:
    """Takes the batches of the job fold. `close` sends what is queued, and blocks meanwhile, at most `CLOSE_S`."""

    def __init__(self, endpoint: str, results_topic: str) -> None:
        """:param endpoint: of the collector, without a path: `http://collector:4318`."""
        self._topic = results_topic
        self._processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces"))
        self._resource = Resource.create({"service.name": "backstop", "service.version": release()})
        self._scope = InstrumentationScope("backstop", release(), SCHEMA_URL)

    def taken(self, _partition: int, folded: Folded[Any]) -> None:
        for span in spans_of(folded, self._topic):
            self._processor.on_end(self._readable(span))

    def close(self) -> None:
        # The SDK waits 30 s for a collector that does not answer. The end of the process ends a daemon's wait.
        closing = Thread(target=self._processor.shutdown, name="close-spans", daemon=True)
        closing.start()
        closing.join(CLOSE_S)

    def _readable(self, span: JobSpan) -> ReadableSpan:
        failed = {} if span.error is None else {"error.type": span.error}
        return ReadableSpan(
            span.name,
            context=_context(span.trace_id, span.span_id),
            parent=None if span.parent_id is None else _context(span.trace_id, span.parent_id),
            resource=self._resource,
            attributes=span.attributes | failed,
            kind=_KINDS[span.kind],
            status=Status(StatusCode.UNSET if span.error is None else StatusCode.ERROR),
            start_time=span.start_ms * _NS_PER_MS,
            end_time=span.end_ms * _NS_PER_MS,
            instrumentation_scope=self._scope,
        )


def _context(trace_id: str, span_id: str) -> SpanContext:
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
