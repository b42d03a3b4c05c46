"""All faults of the simulator by name, and the syntax to ask for one.

The part of a name before the first `_` is the place where the fault strikes. At create, run, poll, stream and cancel at
most one fault strikes at a time; faults of a webhook are independent of each other.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Final, Literal

from backstop.simulator.errors import ConfigError
from backstop.simulator.replies import QUOTA_CODES, parse_code, parse_reply

Place = Literal["create", "run", "poll", "stream", "cancel", "webhook", "platform"]

# Faults of an answer, for any call. At a create and a cancel each exists twice: the call was carried out, or not.
KINDS: Final = (
    *("close", "reset", "stall", "drip", "cut", "slow", "not_http"),
    *("html_200", "empty_object", "broken_json", "null", "list", "no_content"),
    *("408", "409", "500", "502", "503", "504"),
)
_CREATE: Final = (
    *(f"429_{code}" for code in QUOTA_CODES),
    *("429_requests", "429_tokens", "429_too_large", "429_slow_down", "429_flex", "429_other", "503_overloaded"),
    *("html_403", "html_429", "307", "400", "401", "403", "404_model", "413", "422", "terminal"),
    *("accept_empty_stream", "accept_202", "answer", "locked", "queue_full", "conflict"),
    *("terminal_failed", "terminal_incomplete", "first_event_failed", "held"),
)
_RUN: Final = (
    *("stuck_queued", "stuck_in_progress", "failed", "failed_usage", "failed_no_code", "failed_unknown_code"),
    *("failed_at_once", "failed_at_once_usage"),
    *("incomplete", "image_safety", "empty_output", "slow", "expires", "missed_window"),
    *("output_null", "output_absent", "other_id", "no_metadata", "odd_words", "odd_end", "unknown_status"),
    *("odd_usage", "odd_error", "bare_object", "around"),
)
_POLL: Final = (
    *("404", "404_at_first", "401", "429", "html_403", "html_429", "307"),
    *("regress", "unknown_status", "another_id", "truncated", "404_passing", "answer"),
)
_STREAM: Final = (
    *("drop", "close", "error", "delay", "endless", "twice", "swapped"),
    *("400", "404", "429", "500", "html_200"),
)
_CANCEL: Final = ("400", "404", "409", "429", "runs_on", "then_completed", "answer")
# Sent beside the genuine webhook: forgeries do not authenticate, oddities do.
FORGERIES: Final = (
    *("forged_secret", "forged_empty_key", "forged_body", "forged_old", "forged_future", "forged_unsigned"),
)
ODDITIES: Final = ("unknown_type", "foreign_id", "not_json", "not_utf8", "list", "huge")
_WEBHOOK: Final = ("lost", "late", "twice", "early", "reordered", *FORGERIES, *ODDITIES)

FAULTS: Final[dict[str, Place]] = {
    **{f"create_{side}_{kind}": "create" for side in ("accept", "refuse") for kind in KINDS},
    **{f"create_{name}": "create" for name in _CREATE},
    **{f"run_{name}": "run" for name in _RUN},
    **{f"poll_{name}": "poll" for name in (*KINDS, *_POLL)},
    **{f"stream_{name}": "stream" for name in _STREAM},
    **{f"cancel_{side}_{kind}": "cancel" for side in ("accept", "refuse") for kind in KINDS},
    **{f"cancel_{name}": "cancel" for name in _CANCEL},
    **{f"webhook_{name}": "webhook" for name in _WEBHOOK},
    "platform_500": "platform",
}


def place_of(name: str) -> Place:
    """The place of a fault.

    :raises ConfigError: there is no such fault; names similar ones.
    """
    place = FAULTS.get(name)
    if place is None:
        near = difflib.get_close_matches(name, FAULTS, n=3)
        raise ConfigError(f"unknown fault {name!r}" + (f"; did you mean {', '.join(near)}?" if near else ""))
    return place


@dataclass(frozen=True, slots=True)
class ArmedFault:
    """A fault about to strike. `arg` is the text as written; the code that performs the fault parses it."""

    name: str
    arg: str | None = None

    @property
    def what(self) -> str:
        """The name without its place."""
        return self.name.partition("_")[2]

    def number(self, default: float) -> float:
        """The argument as a number, `default` where none was given."""
        return default if self.arg is None else float(self.arg)


@dataclass(frozen=True, slots=True)
class Directive:
    """A fault asked for in a request's metadata: `NAME[=ARG][*TIMES][@ATTEMPT]`."""

    fault: ArmedFault
    place: Place
    times: int | None
    attempt: str | None


_NUMERIC_ARGS: Final = frozenset(
    {"run_slow", "run_expires", "poll_404_at_first", "poll_404_passing", "cancel_then_completed", "webhook_late"}
    | {"create_locked", "create_queue_full", "create_conflict"}
    | {"stream_drop", "stream_close", "stream_error", "stream_delay"}
    | {name for name in FAULTS if name.endswith("_slow")}
)
_REPLY_ARGS: Final = frozenset({"create_answer", "poll_answer", "cancel_answer"})
# `CODE[/WAIT]`: what a failed response says.
_CODE_ARGS: Final = frozenset(
    {"run_failed", "run_failed_usage", "run_failed_at_once", "run_failed_at_once_usage"}
    | {"create_terminal_failed", "create_first_event_failed"}
)


def make_fault(name: str, arg: str | None) -> ArmedFault:
    """A checked fault.

    :raises ConfigError: the name is unknown, or the argument is not a valid number.
    """
    place_of(name)
    if arg is not None and name in _NUMERIC_ARGS:
        try:
            usable = 0 <= float(arg) < float("inf")
        except ValueError:
            usable = False
        if not usable:
            raise ConfigError(f"{name}: argument {arg!r} must be a number >= 0")
    if arg is not None and name in _REPLY_ARGS:
        parse_reply(arg)
    if arg is not None and name in _CODE_ARGS:
        parse_code(arg)
    return ArmedFault(name, arg)


def parse_rate(text: str) -> tuple[ArmedFault, Place]:
    """The fault of a rate: `NAME[=ARG]`, and its place."""
    name, equals, arg = text.partition("=")
    fault = make_fault(name, arg if equals else None)
    return fault, FAULTS[name]


def parse_directives(text: str) -> tuple[Directive, ...]:
    """Read `metadata.sim_fault`; ConfigError says what is wrong with it."""
    return tuple(_parse_one(word) for word in text.replace(",", " ").split())


def _parse_one(word: str) -> Directive:
    rest, at, attempt = word.partition("@")
    rest, star, times = rest.partition("*")
    name, equals, arg = rest.partition("=")
    if star and not times.isdecimal():
        raise ConfigError(f"{word!r}: the part after * must be a whole number")
    fault = make_fault(name, arg if equals else None)
    return Directive(fault, FAULTS[name], int(times) if star else None, attempt if at else None)
