"""The limits of the receiver, each declared once. Sizes in bytes, times in seconds."""

from dataclasses import dataclass

from backstop.runtime.errors import ConfigurationError
from backstop.runtime.record_sizes import RECORD_BYTES_MAX
from schemas.requests import REQUEST_BYTES_MAX, REQUEST_VALUES_MAX

PLAIN_COST = 3
"""Peak memory of an ASCII body without `\\u` escapes, as a multiple of its size: the body, the parser's copy, the text.
"""

DEAR_COST = 6
"""The same for any other body: one character that needs four bytes makes Python store the whole text at four bytes
each.
"""

DEAR_BYTES_MAX = 40 << 20
"""The most that this adds up to: in a large body only short strings are texts of Python's (`schemas.long_texts`), and
30,000 of them take 27 MB.
"""

JSON_DEPTH_MAX = 254
"""The depth that orjson can serialize; the depth limits below must stay under it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    connections_max: int = 3_072
    """Open connections, including idle ones, live streams (at most 1,200, `StreamLimits`) and waiting creates. Above
    the limit a new connection is answered 503 and closed.
    """
    rest_bytes_max: int = 64 << 20
    """Received data in short lines that waits to be parsed, of all connections. Beyond it some of them are closed."""
    files_other: int = 512
    """File descriptors for all but client connections: broker, database, logs."""
    backlog_max: int = 1_024
    """Connections that the kernel queues until the receiver accepts them."""
    headers_s: float = 10.0
    """From accept to the end of the first request's headers."""
    headers_bytes_max: int = 64 << 10
    idle_s: float = 75.0
    """Time for a complete next request on a kept-alive connection. Above the 60 s of common proxies, so that they
    close first.
    """
    lingering_s: float = 1.0
    """How long a refused body is read and discarded, so that the client reads the answer."""
    stop_s: float = 10.0
    """From the signal to stop until the last connection is closed: a third for requests to end by themselves, a third
    for cancelled ones, a third for the rest.
    """

    webhook_bytes_max: int = 64 << 10
    webhook_body_s: float = 5.0
    webhook_depth_max: int = 32
    webhooks_remembered_max: int = 50_000
    """Recent webhooks, by id and content: at 150 a second, those of the 300 s within which a captured webhook can be
    replayed. About 10 MB.
    """

    submit_bytes_max: int = REQUEST_BYTES_MAX
    submit_body_s: float = 15.0
    submit_depth_max: int = 64
    """A schema for structured output may nest 10 levels, each of which takes three levels of JSON."""
    submit_values_max: int = REQUEST_VALUES_MAX
    bodies_memory_bytes_max: int = 256 << 20
    """Memory of all submissions between their first byte and their acknowledgement; one tenant gets at most half. Only
    received bytes count, not the declared length; a complete body also counts its parsing (`receiver.bodies`).
    """
    submissions_concurrent_max: int = 256
    """Submissions between their body and their acknowledgement."""
    submissions_remembered_max: int = 50_000
    """Recent job ids with the hash of their submission: about 30 MB."""
    accepted_shown_s: float = 600.0
    """How long a job accepted by this process is shown from memory while the read model does not have it."""
    appear_s: float = 1.0
    """How long to wait for an unknown job to appear: another process may have accepted it a moment ago."""
    cancelled_s: float = 3.0
    """How long the answer to the cancel of a response waits for the response to end."""
    repeat_window_s: float = 900.0
    """How long a create without an idempotency key is matched with its repeats. An SDK's timeout is 600 s."""
    repeats_remembered_max: int = 20_000
    cancel_bytes_max: int = 4 << 10
    adopt_bytes_max: int = 16 << 10

    waiting_creates_max: int = 1_250
    """Creates that wait for their answer on the connection; a lone tenant gets at most 1,000
    (`receiver.responses_api.waiting`).
    """
    waiting_quiet_s: float = 25.0
    """Time in which nothing is sent to a waiting create, so that an error keeps its status. Below the 30 s idle timeout
    of the strictest common proxies.
    """
    waiting_heartbeat_s: float = 15.0
    waiting_s_max: float = 3_600.0
    """The connection of a create that waits longer is closed; its repeat continues to wait."""

    partials_bytes_max: int = 128 << 20
    """Partial output of all jobs in memory. Above it, the least recently updated job is dropped. An answer of 2,000
    tokens takes about 0.7 MB.
    """
    partials_keep_s: float = 1_800.0
    """How long a job's partial output is kept after its last record."""
    partials_back_s: float = 300.0
    """How far back a starting process reads the topic. The provider, too, resumes streams of the last 5 minutes."""
    stream_heartbeat_s: float = 15.0
    stream_write_s: float = 20.0
    """A listener that reads no byte for this long is disconnected."""
    answers_memory_bytes_max: int = 512 << 20
    """Memory of large answers (`receiver.answers`), from reading their stored bodies until they are sent; one tenant
    gets at most half. A body of 64 MiB counts 192 MiB while its answer is made, and then its own size. A stream counts
    what it shows of its request, to its end.
    """
    answer_bytes_per_s_min: int = 64 << 10
    """A client that reads a large answer more slowly is disconnected: 64 MiB may take 17 minutes."""
    stream_tail_s: float = 2.0
    """How long a stream waits for the last partial output of a job that ended within `stream_recent_s`."""
    stream_recent_s: float = 10.0
    """Age up to which an end counts as recent, so that partial output may still arrive."""
    stream_covered_s: float = 1.0
    """How long a resuming stream waits for the events after its position: this process may lag behind the topic."""

    publish_s: float = 3.0
    """For the broker to acknowledge. OpenAI waits "a few seconds" for an answer to a webhook (guide: webhooks)."""
    find_job_s: float = 1.0
    """For the read model to find a job id. Without an answer the submission is published, which is harmless."""
    confirm_s: float = 5.0
    """For the read model to show which submission has an id, where claims can't decide."""
    retry_after_s: int = 2
    """`Retry-After` of a 503."""

    @property
    def keyed_requests_max(self) -> int:
        """Requests with a key that may be open at one time. The other connections are reserved for webhooks."""
        return self.connections_max - self.connections_max // 8

    def __post_init__(self) -> None:
        must = {
            f"webhook_depth_max and submit_depth_max must be below {JSON_DEPTH_MAX}, the depth orjson can serialize": (
                max(self.webhook_depth_max, self.submit_depth_max) < JSON_DEPTH_MAX
            ),
            # A webhook's text is escaped in its record, which doubles it at worst; a dead letter holds it as base64.
            "a webhook and its envelope must fit a record": 2 * self.webhook_bytes_max + 65_536 < RECORD_BYTES_MAX,
            "one submission in ASCII must fit half of the memory for bodies (BACKSTOP_SUBMIT_BYTES_MAX, "
            "BACKSTOP_BODIES_MEMORY_BYTES_MAX)": (
                2 * PLAIN_COST * self.submit_bytes_max <= self.bodies_memory_bytes_max
            ),
            "headers_s must not exceed idle_s": self.headers_s <= self.idle_s,
            "publish_s must be below a third of stop_s": self.publish_s < self.stop_s / 3,
        }
        for sentence, holds in must.items():
            if not holds:
                raise ConfigurationError(f"limits: {sentence}")
