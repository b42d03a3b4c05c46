"""Logs on stderr, one line per event: JSON for machines, columns on a terminal.

Field names: `ts level event`, then those that apply of `job_id attempt response_id tenant topic partition offset
error_type`. Libraries that use `logging` (faust, mode, aiokafka, aiohttp, asyncio) are formatted the same way. Text
that looks like a secret is redacted in the finished line, tracebacks included.
"""

import io
import logging
import sys
from collections.abc import Mapping, MutableMapping
from types import TracebackType
from typing import Any, Literal, TextIO

import orjson
import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from backstop.runtime.process.redaction import REDACTED, redact
from backstop.runtime.traces import traceparent_now
from schemas.text import printable, printable_json, printable_lines
from schemas.traces import trace_id_of

LogFormat = Literal["auto", "json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]

_SECRET_FIELDS = frozenset({"authorization", "api_key", "secret", "secrets", "password", "token", "webhook_secret"})

_OF_SEVERAL_LINES = frozenset({"exception", "stack"})

LEVEL_FLOORS: Mapping[str, int] = {
    # At DEBUG faust and mode cost some 25 us a table event, and show values, which are prompts.
    # Their INFO is tables of offsets, twice a rebalance.
    "faust": logging.WARNING,
    "mode": logging.WARNING,
    "streams.faust.app": logging.WARNING,
    "aiokafka": logging.WARNING,
    "kafka": logging.WARNING,
    "aiohttp.access": logging.WARNING,
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "httpx2": logging.WARNING,
    "httpcore2": logging.WARNING,
    "openai": logging.WARNING,
    "asyncio": logging.WARNING,
}
"""The lowest level at which a library may log, whatever the configured level."""

CHATTY = ("aiokafka", "kafka")
CHATTY_EVERY_S = 5.0
"""While a broker is away aiokafka logs several times a second: each message template is logged once in this time."""


def configure(
    log_format: LogFormat = "auto", log_level: LogLevel = "info", process: str = "", stream: TextIO | None = None
) -> None:
    """Route structlog and `logging` to `stream` (None: stderr). The composition root calls it once.

    `process` names the part (`worker`, `serve`) on every line; empty adds no name.
    """
    out = stream if stream is not None else sys.stderr
    people = log_format == "console" or (log_format == "auto" and out.isatty())
    level = logging.getLevelNamesMapping()[log_level.upper()]
    shared = _shared_processors(process)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(_RedactingFormatter(shared, people=people, colors=people and out.isatty()))
    handler.addFilter(_Seldom())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name, floor in LEVEL_FLOORS.items():
        logging.getLogger(name).setLevel(max(level, floor))
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger: `log.info("webhook_refused", reason=..., webhook_id=...)`. The event is a short snake_case name."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return logger


class _Seldom(logging.Filter):
    """Passes each message template of a chatty library once in `CHATTY_EVERY_S`."""

    def __init__(self) -> None:
        super().__init__()
        self._last_s: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(CHATTY):
            return True
        key = (record.name, str(record.msg))
        if record.created - self._last_s.get(key, 0.0) < CHATTY_EVERY_S:
            return False
        self._last_s[key] = record.created
        return True


class _RedactingFormatter(structlog.stdlib.ProcessorFormatter):
    def __init__(self, shared: list[Processor], *, people: bool, colors: bool) -> None:
        renderer: Processor = (
            structlog.dev.ConsoleRenderer(
                colors=colors,
                timestamp_key="ts",
                event_key="event",
                # The default shows local variables, which are prompts and keys.
                exception_formatter=_plain_traceback,
            )
            if people
            else structlog.processors.JSONRenderer(serializer=_dumps)
        )
        self._people = people
        super().__init__(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *([] if people else [structlog.processors.format_exc_info]),
                renderer,
            ],
        )

    def format(self, record: logging.LogRecord) -> str:
        line = redact(super().format(record))
        return line if self._people else printable_json(line)


def _shared_processors(process: str) -> list[Processor]:
    def add_process(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        if process:
            event.setdefault("process", process)
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        add_process,
        _add_trace_id,
        _add_error_type,
        _hide_secret_fields,
        _print_only,
    ]


def _add_trace_id(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    traceparent = traceparent_now()
    if traceparent is not None:
        event.setdefault("trace_id", trace_id_of(traceparent, ""))
    return event


def _add_error_type(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    info = event.get("exc_info")
    error: Any = None
    if isinstance(info, BaseException):
        error = info
    elif isinstance(info, tuple):
        error = info[1]
    elif info:
        error = sys.exc_info()[1]
    if error is not None:
        event.setdefault("error_type", type(error).__name__)
    return event


def _hide_secret_fields(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    hidden: MutableMapping[str, Any] = event
    for name in _SECRET_FIELDS.intersection(event):
        hidden[name] = REDACTED
    return event


def _print_only(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """No value forges a line or moves a terminal's cursor. (Non-strings are
    written by `repr`, which escapes control characters.)
    """
    for name, value in event.items():
        if isinstance(value, str) and name not in _OF_SEVERAL_LINES:
            event[name] = printable(value)
    return event


def _plain_traceback(out: TextIO, info: ExcInfo) -> None:
    """An exception's message may quote foreign text and has several lines, so each line is made printable."""
    text = io.StringIO()
    structlog.dev.plain_traceback(text, info)
    out.write(printable_lines(text.getvalue()))


def _dumps(value: Any, **_options: Any) -> str:
    return orjson.dumps(value, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    get_logger("uncaught").error("uncaught_exception", exc_info=(kind, error, trace))
