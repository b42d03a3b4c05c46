"""The server's records of responses, and of the jobs named in their metadata."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final, Literal

from backstop.simulator.catalogue import ArmedFault, Directive
from backstop.simulator.chance import FaultTarget
from backstop.simulator.ids import AnyIdForm

Status = Literal["queued", "in_progress", "completed", "failed", "incomplete", "cancelled"]
OPEN: Final = ("queued", "in_progress")
UsageForm = Literal["whole", "floats", "nulls", "absent", "total"]
ErrorForm = Literal["whole", "null", "text", "message"]
Around = Literal["nothing", "bom", "utf16", "prefix", "trailing", "envelope", "list", "events"]
JOBS_MAX: Final = 100_000
PREFIX: Final = "backstop_"
OWNER: Final = ("job", "attempt", "tenant")
"""Metadata keys by which a client names the job of a create, with `PREFIX` or without."""


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """A checked body of `POST /v1/responses`, with the values of its headers.

    `input_text` is the beginning of all text in the input, and `body` lacks a large input, as an ended response must
    not cost much memory. `kept_bytes` is about its memory cost.
    """

    model: str
    body: Mapping[str, Any]
    kept_bytes: int
    input_text: str
    input_tokens: int
    background: bool
    store: bool
    stream: bool
    metadata: Mapping[str, str]
    directives: tuple[Directive, ...]
    queue_s: float | None
    run_s: float | None
    output_bytes: int | None
    project: int
    retry_count: int | None
    idempotency_key: str | None
    id_form: AnyIdForm = "hex"
    window: str | None = None
    continuation: str | None = None

    @property
    def conversation(self) -> str | None:
        """The id of its conversation."""
        given = self.body.get("conversation")
        found = given.get("id") if isinstance(given, dict) else given
        return found if isinstance(found, str) else None

    @property
    def lane(self) -> tuple[int, str]:
        """What limits hold: the index of its key, and its model."""
        return self.project, self.model

    @property
    def owner(self) -> Mapping[str, str | None]:
        """Job, attempt and tenant in the metadata: from the keys with a prefix, else from those without."""
        prefix = PREFIX if any(PREFIX + name in self.metadata for name in OWNER) else ""
        return {name: self.metadata.get(prefix + name) for name in OWNER}

    @property
    def target(self) -> FaultTarget:
        """What faults may be aimed at."""
        return FaultTarget(self.owner["job"], self.owner["attempt"])


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ends, decided at acceptance. `wait_s` is the wait in the text of its error."""

    status: Status = "completed"
    code: str | None = None
    reason: str | None = None
    with_usage: bool = True
    empty: bool = False
    webhook: bool = True
    wait_s: float | None = None

    @property
    def has_usage(self) -> bool:
        """Whether the object of the ended response has `usage`."""
        match self.status:
            case "completed":
                return not self.empty
            case "failed":
                return self.with_usage
            case _:
                return self.status == "incomplete"


@dataclass(frozen=True, slots=True)
class ObjectForm:
    """Where the objects of a response differ from OpenAI's, as those of other servers and gateways do.

    `words` are the server's own names of states; `end` is shown in place of the state at the end.
    """

    output: Literal["whole", "null", "absent"] = "whole"
    usage: UsageForm = "whole"
    error: ErrorForm = "whole"
    bare: bool = False
    background: Literal["as_asked", "false", "absent"] = "as_asked"
    other_id: bool = False
    metadata: bool = True
    around: Around = "nothing"
    words: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunPlan:
    """The run of a response: how long in each state (simulated seconds, None = for ever), and how it ends."""

    queue_s: float | None
    run_s: float | None
    ending: Ending
    expires_after_end_s: float | None = None
    shown: ObjectForm = ObjectForm()


@dataclass(slots=True)
class Stored:
    """One response as the server keeps it. `epoch` grows when earlier timers become obsolete."""

    id: str
    message_id: str
    key: str
    request: CreateRequest
    plan: RunPlan
    created_at_s: int
    expires_at_s: float
    status: Status = "queued"
    ending: Ending | None = None
    began_at_s: float = 0.0
    ended_at_s: float = 0.0
    ended_at_ms: int = 0
    was_running: bool = False
    hidden_until_s: float = 0.0
    hidden_by: str = "poll_404_at_first"
    epoch: int = 0
    polls: int = 0
    streams: int = 0
    cancels: int = 0
    shown_running: bool = False
    shown_ended: bool = False
    vanished: bool = False
    regressed: bool = False
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    waiters: list[asyncio.Event] = field(default_factory=list)

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self.status in OPEN

    @property
    def target(self) -> FaultTarget:
        """What faults may be aimed at."""
        owner = self.request.owner
        return FaultTarget(owner["job"], owner["attempt"], self.id)

    @property
    def other_id(self) -> str:
        """A second id, always the same: the response's id at the server behind a gateway."""
        return f"resp_{blake2b(self.id.encode(), digest_size=24).hexdigest()}"

    def names(self) -> dict[str, str | None]:
        """The fields that identify the response in ledgers."""
        owner = self.request.owner
        return {"response": self.id, "job": owner["job"], "attempt": owner["attempt"]}

    async def changed(self, real_s_max: float) -> None:
        """Wait for the next change of state, at most `real_s_max`."""
        waiter = asyncio.Event()
        self.waiters.append(waiter)
        try:
            await asyncio.wait_for(waiter.wait(), real_s_max)
        except TimeoutError:
            pass
        finally:
            self.waiters.remove(waiter)

    def wake(self) -> None:
        """Wake all calls that wait for a change."""
        for waiter in self.waiters:
            waiter.set()


@dataclass(slots=True)
class JobTally:
    """Counts of one job's creates: received and accepted."""

    calls: int = 0
    accepted: int = 0
    calls_of: dict[str | None, int] = field(default_factory=dict)
    accepted_of: dict[str | None, int] = field(default_factory=dict)
    paid: int = 0
    winner: str | None = None
    locked_by: ArmedFault | None = None
    locked_until_s: float = 0.0


class JobTallies:
    """Tallies of the newest jobs. A dropped tally starts again from 0, so `repeat` may then be too low; the ledger's
    file has all creates.
    """

    def __init__(self) -> None:
        self._tallies: dict[str, JobTally] = {}

    def of(self, job: str) -> JobTally:
        """The tally of a job."""
        tally = self._tallies.get(job)
        if tally is None:
            tally = self._tallies[job] = JobTally()
            if len(self._tallies) > JOBS_MAX:
                del self._tallies[next(iter(self._tallies))]
        return tally


class Continuations:
    """The newest continuation ids of accepted creates."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, str], None] = {}

    def is_continued(self, request: CreateRequest) -> bool:
        """Whether an earlier create of this project had the same id; records the id."""
        if request.continuation is None:
            return False
        key = request.project, request.continuation
        if key in self._seen:
            return True
        self._seen[key] = None
        if len(self._seen) > JOBS_MAX:
            del self._seen[next(iter(self._seen))]
        return False
