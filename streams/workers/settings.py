"""Settings of submitter, poller and follower, whatever the provider."""

from typing import Literal, Self

from pydantic import Field, model_validator

from backstop.runtime.settings import RuntimeSettings
from streams.policy.hedging import ENDS_LEAST, ENDS_MIN, LANE_REST_MS
from streams.policy.latency import Latencies
from streams.policy.learned_polls import LearnedPolls, PollPrice
from streams.policy.poll_schedule import SPACING_MIN_MS
from streams.policy.polls import PollPolicy
from streams.policy.webhook_loss import WebhookLoss
from streams.provider import CallLimits
from streams.workers.limits import FollowLimits, PollerLimits, SubmitterLimits
from streams.workers.rate import RECOVERY_SHARE_PER_MIN

_CALLS, _SUBMITTER, _POLLER = CallLimits(), SubmitterLimits(), PollerLimits()
"""Each limit has its default there, once."""


class WorkerSettings(RuntimeSettings):
    """Settings of submitter, poller and follower."""

    requests_memory_bytes_max: int = Field(
        default=_SUBMITTER.bodies_memory_bytes_max,
        ge=1 << 20,
        le=1 << 36,
        description="Memory of a worker for large requests in flight, in bytes. One tenant may use half of it. A "
        "request from the blob store counts three times its size. A request without room is tried again after 2 s.",
    )
    create_concurrency: int = Field(
        default=_SUBMITTER.concurrency, ge=1, le=1_000, description="Creates in flight per process."
    )
    poll_concurrency: int = Field(
        default=_POLLER.concurrency, ge=1, le=1_000, description="Polls and cancels in flight per process."
    )
    poll_timeout_ms: int = Field(
        default=_CALLS.poll_timeout_ms, ge=100, le=600_000, description="Time limit of one poll or cancel as a whole."
    )
    poll_rate_max_per_s: float = Field(
        default=250.0,
        ge=0.1,
        le=10_000,
        description="Most polls and cancels a second per process. The rate falls when the provider limits it.",
    )
    poll_rate_recovery_share_per_min: float = Field(
        default=RECOVERY_SHARE_PER_MIN,
        gt=0,
        le=60,
        description="How fast the poll rate recovers after the provider limited it: share of `poll_rate_max_per_s` a "
        "minute, beginning at half of the rate before.",
    )
    poll_tries_max: int = Field(
        default=_POLLER.tries_max, ge=1, le=10, description="Calls of one poll before it counts as failed."
    )
    poll_queue_max: int = Field(
        default=_POLLER.queue_max,
        ge=1,
        le=100_000,
        description="Most polls queued in a process. Polls caused by webhooks overtake the others in this queue.",
    )
    first_poll_ms: int = Field(
        default=20_000, ge=0, le=3_600_000, description="From acceptance to the first poll without a webhook."
    )
    poll_spacing_factor: float = Field(
        default=0.5, gt=0, le=10, description="Wait for the next poll, as a share of the response's age."
    )
    poll_spacing_min_ms: int = Field(default=5_000, ge=100, le=3_600_000, description="Shortest wait between polls.")
    poll_spacing_max_ms: int = Field(
        default=240_000,
        ge=100,
        le=3_600_000,
        description="Longest wait between polls. Keep it under half of the time for which the provider keeps a "
        "response.",
    )
    poll_schedule: Literal["learned", "fixed"] = Field(
        default="learned",
        description="`learned`: polls come when they are worth most, by the run times and the loss of webhooks that "
        "were measured; until ten responses have ended, and always with `fixed`, by the four settings above.",
    )
    poll_price_s: float = Field(
        default=0.4,
        ge=0.001,
        le=3_600,
        description="What one poll is worth to the learned schedule, in seconds of late detection. More: fewer polls.",
    )
    poll_run_median_ms: int = Field(
        default=60_000,
        ge=500,
        le=14_400_000,
        description="The median run time that is believed before responses have ended.",
    )
    poll_control_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of jobs that are polled as if no webhook came, so that the loss of webhooks is measured "
        "without bias (docs/latency-report.md). A run of a minute then takes about 15 polls. 0: none.",
    )
    poll_report_ms: int = Field(
        default=120_000,
        ge=1_000,
        le=3_600_000,
        description="Time after which an unanswered scheduled poll is reissued. Older queued ones are skipped.",
    )
    submission_memory_ms: int = Field(
        default=_SUBMITTER.memory_ms,
        ge=1_000,
        le=86_400_000,
        description="How far back the submitter reads the log of a partition that it takes over, to remember commands "
        "that were performed. Older commands make it read further back.",
    )
    submission_memory_max: int = Field(
        default=_SUBMITTER.memory_ids_max,
        ge=1,
        le=1_000_000,
        description="Most command ids that the submitter remembers per partition.",
    )
    stream_concurrency: int = Field(
        default=100,
        ge=0,
        le=2_000,
        description="Most streams of partial output that a process follows at a time; 0 for none.",
    )
    stream_coalesce_ms: int = Field(
        default=20, ge=0, le=1_000, description="How long partial output is collected before it is published."
    )
    stream_silence_ms: int = Field(
        default=_CALLS.stream_silence_ms,
        ge=100,
        le=3_600_000,
        description="A stream that is silent for this long is opened again. The provider may refuse that for a "
        "response over 5 minutes old.",
    )
    stream_event_bytes_max: int = Field(
        default=262_144, ge=1_024, le=1_000_000, description="A larger event ends the partial output of its response."
    )
    stream_response_bytes_max: int = Field(
        default=4_194_304, ge=1_024, le=1 << 30, description="Most partial output published for one response, in bytes."
    )
    group_session_timeout_ms: int = Field(
        default=10_000,
        ge=1_000,
        le=300_000,
        description="A submitter or poller without heartbeats for this long loses its partitions.",
    )

    hedge_share: float = Field(
        default=0.02,
        gt=0,
        le=0.2,
        description="Second attempts beside slow ones, as a share of the jobs that may have one: the budget, and the "
        "share of responses that reach the age at which one begins. See docs/hedging.md.",
    )

    hedge_ends_min: int = Field(
        default=ENDS_MIN,
        ge=ENDS_LEAST,
        le=100_000,
        description="Responses of a model that must have ended before one of them gets a second attempt. With fewer "
        "than 2 / BACKSTOP_HEDGE_SHARE, second attempts begin at about the age of the longest run so far.",
    )
    hedge_lane_rest_ms: int = Field(
        default=LANE_REST_MS,
        ge=1_000,
        le=86_400_000,
        description="How long no second attempt of a model begins after a rate limit, a closed lane, or more than a "
        "tenth of failures.",
    )

    webhooks_expected: bool = Field(
        default=True,
        description="Set to false if webhooks can't arrive. Then polls come sooner from the start, not only after "
        "several responses ended without a webhook.",
    )

    @model_validator(mode="after")
    def _polls_agree(self) -> Self:
        self.poll_policy()
        return self

    def submitter_limits(self, create_timeout_ms: int) -> SubmitterLimits:
        return SubmitterLimits(
            concurrency=self.create_concurrency,
            memory_ms=self.submission_memory_ms,
            memory_ids_max=self.submission_memory_max,
            bodies_memory_bytes_max=self.requests_memory_bytes_max,
            drain_ms=create_timeout_ms,
        )

    def poller_limits(self) -> PollerLimits:
        return PollerLimits(
            concurrency=self.poll_concurrency,
            tries_max=self.poll_tries_max,
            queue_max=self.poll_queue_max,
            drain_ms=self.poll_timeout_ms,
        )

    def follow_limits(self) -> FollowLimits:
        return FollowLimits(
            concurrency=self.stream_concurrency,
            coalesce_ms=self.stream_coalesce_ms,
            event_bytes_max=self.stream_event_bytes_max,
            response_bytes_max=self.stream_response_bytes_max,
        )

    def call_limits(self) -> CallLimits:
        return CallLimits(
            calls_max=self.create_concurrency + self.poll_concurrency,
            poll_timeout_ms=self.poll_timeout_ms,
            streams_max=max(1, self.stream_concurrency),
            stream_silence_ms=self.stream_silence_ms,
        )

    def learned_polls(self) -> LearnedPolls | None:
        """None with the fixed schedule."""
        if self.poll_schedule == "fixed":
            return None
        price = PollPrice(self.poll_price_s, max(self.poll_spacing_max_ms, SPACING_MIN_MS))
        latencies = Latencies(self.poll_run_median_ms)
        return LearnedPolls(price, latencies, WebhookLoss(expected=self.webhooks_expected))

    def poll_policy(self) -> PollPolicy:
        return PollPolicy(
            first_poll_ms=self.first_poll_ms,
            spacing_factor=self.poll_spacing_factor,
            spacing_min_ms=self.poll_spacing_min_ms,
            spacing_max_ms=self.poll_spacing_max_ms,
            report_ms=self.poll_report_ms,
        )
