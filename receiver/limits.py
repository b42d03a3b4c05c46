"""The limits of the HTTP doors, each declared once. Sizes in bytes, times in seconds."""

from dataclasses import dataclass

from backstop.runtime.errors import ConfigurationError
from backstop.runtime.record_sizes import RECORD_BYTES_MAX
from schemas.requests import REQUEST_BYTES_MAX, REQUEST_VALUES_MAX

PLAIN_COST = 3
"""Times its bytes that a body in ASCII without escaped characters costs at its peak: itself, the parser's copy, the text."""

DEAR_COST = 6
"""The same of one with a character that Python holds in four bytes, which makes four of each of the text's."""

JSON_DEPTH_MAX = 254
"""What orjson can write again; the depth limits below must stay under it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    connections_max: int = 3_072
    """Open connections, those that have sent nothing included, live streams, of which there may be 1,200 (`StreamLimits`), and creates
    that wait. Beyond it a new one hears 503 and is closed.
    """
    files_other: int = 512
    """Open files beside the connections: the broker's, the database's, logs."""
    backlog_max: int = 1_024
    """Connections that the kernel holds for us until they are accepted."""
    headers_s: float = 10.0
    """From accept to the end of the first request's headers."""
    headers_bytes_max: int = 64 << 10
    idle_s: float = 75.0
    """A connection without a complete next request. Above the 60 s of common proxies, so that they close first."""
    lingering_s: float = 1.0
    """How long a refused body is read and thrown away, so that the client gets to read our answer."""
    stop_s: float = 10.0
    """From the request to stop until the last connection is closed. A third of it is for requests to end by themselves, a
    third for those that are then cancelled, a third for the rest."""

    webhook_bytes_max: int = 64 << 10
    webhook_body_s: float = 5.0
    webhook_depth_max: int = 32
    webhooks_remembered_max: int = 50_000
    """Webhooks that the log has, by id and content: at 150 a second those of the 300 s within which a captured one can be replayed. About 10 MB."""

    submit_bytes_max: int = REQUEST_BYTES_MAX
    submit_body_s: float = 15.0
    submit_depth_max: int = 64
    """A JSON schema for structured output may nest 10 levels, each of which is three levels of JSON."""
    submit_values_max: int = REQUEST_VALUES_MAX
    bodies_memory_bytes_max: int = 256 << 20
    """Memory of all submissions between their first byte and their acknowledgement; half of it for one tenant alone. Only bytes that have come
    count, not what was declared; a body that is whole counts with what it costs when it is parsed (`receiver.bodies`)."""
    submissions_concurrent_max: int = 256
    """Submissions between their body and their acknowledgement."""
    submissions_remembered_max: int = 50_000
    """Recent job ids with the hash of their submission: about 30 MB."""
    accepted_shown_s: float = 600.0
    """How long a job that was taken here is shown as submitted while the read model does not have it."""
    appear_s: float = 1.0
    """How long a job that nobody knows is waited for: another process may have taken it a moment ago."""
    cancelled_s: float = 3.0
    """How long the answer to the cancel of a response waits for its end."""
    repeat_window_s: float = 900.0
    """How long an SDK may repeat a create without an idempotency key and mean the same: its timeout is 600 s."""
    repeats_remembered_max: int = 20_000
    cancel_bytes_max: int = 4 << 10
    adopt_bytes_max: int = 16 << 10

    waiting_creates_max: int = 1_250
    """Creates that wait for their answer on their connection; of one tenant alone 1,000 (`receiver.responses_api.waiting`)."""
    waiting_quiet_s: float = 25.0
    """So long nothing is sent to one, and an error still has its own status. Below the 30 s of the least patient common proxies."""
    waiting_heartbeat_s: float = 15.0
    waiting_s_max: float = 3_600.0
    """One that waits longer is let go; its repeat waits on."""

    partials_bytes_max: int = 128 << 20
    """Partial output in memory, of all jobs; beyond it the job that was heard of longest ago is forgotten. An answer of 2000 tokens takes
    about 0.7 MB."""
    partials_keep_s: float = 1_800.0
    """How long a job's partial output is kept after the last word of it."""
    partials_back_s: float = 300.0
    """How far back a process that starts reads it. The provider resumes streams of the last 5 minutes, too."""
    stream_heartbeat_s: float = 15.0
    stream_write_s: float = 20.0
    """A listener that takes no byte for this long is let go."""
    stream_tail_s: float = 2.0
    """How long a stream waits for the last partial output of a job that has ended just now."""
    stream_recent_s: float = 10.0
    """Just now: so long ago at most."""
    stream_covered_s: float = 1.0
    """How long a stream that resumes waits until what it asks for is there: this process may be a little behind."""

    publish_s: float = 3.0
    """For the broker to acknowledge. OpenAI waits "a few seconds" for an answer to a webhook (guide: webhooks)."""
    find_job_s: float = 1.0
    """For the read model to say whether it knows a job id; without an answer we publish, which is harmless."""
    confirm_s: float = 5.0
    """For the read model to show whose an id is, where claims can't tell."""
    retry_after_s: int = 2
    """What a 503 asks for."""

    @property
    def keyed_requests_max(self) -> int:
        """Open at one time. The other connections are kept for webhooks."""
        return self.connections_max - self.connections_max // 8

    def __post_init__(self) -> None:
        must = {
            "webhook_depth_max and submit_depth_max must be below what JSON can be written with": (
                max(self.webhook_depth_max, self.submit_depth_max) < JSON_DEPTH_MAX
            ),
            # A hook's text is quoted in its record, which doubles it at worst; a dead letter takes it as base64.
            "a webhook and its envelope must fit a record": 2 * self.webhook_bytes_max + 65_536 < RECORD_BYTES_MAX,
            "one submission of plain text must fit half of the memory for all (BACKSTOP_SUBMIT_BYTES_MAX, BACKSTOP_BODIES_MEMORY_BYTES_MAX)": (
                2 * PLAIN_COST * self.submit_bytes_max <= self.bodies_memory_bytes_max
            ),
            "headers_s must not exceed idle_s": self.headers_s <= self.idle_s,
            "stop_s must leave a request the time for its acknowledgement": self.publish_s < self.stop_s / 3,
        }
        for sentence, holds in must.items():
            if not holds:
                raise ConfigurationError(f"limits: {sentence}")
