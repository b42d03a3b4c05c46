"""Makes facts of valid requests, for both ingresses (HTTP and Kafka), with the policy in force stamped on them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from backstop.runtime.authority import key_id_now
from backstop.runtime.blobs import Bodies
from backstop.runtime.comma_lists import CommaList
from backstop.runtime.traces import traceparent_now
from schemas.base import DEFAULT_TENANT
from schemas.codec import canonical, sha256_hex
from schemas.fallbacks import FallbackRule, Fallbacks, fallbacks_of
from schemas.hedges import HedgeMode, acts, unhedgeable
from schemas.jobs import CancelRequested, JobPolicy, JobRefused, JobSubmitted, RetryOf, Turn
from schemas.long_texts import whole
from schemas.project_names import Named, first_foreign, named_in
from schemas.prompt_cache import CacheRule, policy_of
from schemas.requests import TIMEOUT_MS_MAX, Cancel, Submit
from schemas.windows import default_deadline_ms, include_of, window_ms_of
from streams.policy.caps import cap_of, dearest
from streams.policy.limits import NO_LIMITS, LimitRules
from streams.policy.prices import NO_PRICES, Prices

Ingress = Literal["http", "kafka"]
CREATE_TIMEOUT_MS_MAX = 6 * 3_600_000
"""Long enough for servers that answer a create only when the run is over."""

_REQUEST = b'"request":'


class SubmissionPolicy(BaseModel):
    """Defaults and limits of jobs, applied by the ingress. The relations between them are checked at start."""

    model_config = ConfigDict(frozen=True)

    timeout_ms: int = Field(
        default=6 * 3_600_000,
        ge=1_000,
        le=TIMEOUT_MS_MAX,
        description="Default timeout of a job, from its submission to its deadline.",
    )
    retries_max: int = Field(
        default=2,
        ge=0,
        le=10,
        description="Default of the retries granted after attempts that were or may have been paid: failed with usage, "
        "missing, stuck, or outcome unknown.",
    )
    rejections_max: int = Field(
        default=10_000, ge=0, le=100_000, description="Retries granted after refusals, which cost nothing."
    )
    unpaid_ends_max: int = Field(
        default=100,
        ge=0,
        le=10_000,
        description="Retries granted after accepted attempts that failed without usage, which cost nothing either.",
    )
    doubts_max: int = Field(
        default=12,
        ge=0,
        le=1_000,
        description="Retries granted after 5xx answers that don't prove a refusal. Mostly, the provider took nothing.",
    )
    on_account: Literal["wait", "fail"] = Field(
        default="wait",
        description="Whether a job waits or fails at a condition of the account (key, quota, billing, permission).",
    )
    backoff_base_ms: int = Field(
        default=1_000,
        ge=1,
        le=600_000,
        description="First wait of the exponential backoff; some causes wait a multiple.",
    )
    backoff_max_ms: int = Field(
        default=60_000,
        ge=1,
        le=3_600_000,
        description="Longest wait of the backoff; five times as long after overload and errors of the provider. An "
        "answer may ask for more.",
    )
    command_valid_ms: int = Field(
        default=60_000, ge=100, le=3_600_000, description="How long a create command may wait to be sent."
    )
    create_timeout_ms: int = Field(
        default=45_000,
        ge=100,
        le=CREATE_TIMEOUT_MS_MAX,
        description="Time limit of one create call as a whole; stamped on each job. For a server that ignores "
        "`background`, and so answers when the run is over, set more than the longest run (see docs/operating.md).",
    )
    adoption_grace_ms: int = Field(
        default=60_000,
        ge=0,
        le=3_600_000,
        description="How long an attempt with an unknown outcome may be adopted before it is abandoned and retried.",
    )
    missing_grace_ms: int = Field(
        default=30_000, ge=0, le=600_000, description='How long after acceptance a 404 still means "not yet".'
    )
    missing_patience_ms: int = Field(
        default=120_000,
        ge=0,
        le=3_600_000,
        description="How long polls must be answered with 404, without a break, before a response is given up.",
    )
    stuck_after_ms: int | None = Field(
        default=None,
        ge=1_000,
        le=TIMEOUT_MS_MAX,
        description="A response without any change for this long, while others end, is cancelled and retried, if the "
        "job has a retry left. Unset: never.",
    )
    stuck_factor: float | None = Field(
        default=None,
        gt=1,
        le=1_000,
        description="The same as a multiple of the model's run time (90th percentile), once known. With both, the "
        "longer one counts.",
    )
    forget_after_ms: int = Field(
        default=7 * 86_400_000,
        ge=1_000,
        description="How long a finished job is remembered, so that a repeated submission is recognised.",
    )

    public_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s?#]{1,200}$",
        description="Public address of `backstop serve` (https://backstop.example.com). If set, a result on Kafka "
        "whose output is too large for its record has `response_url`: the output can be read there with any key of "
        "the tenant that has `read`.",
    )
    retries_granted_max: int = Field(
        default=10,
        ge=0,
        le=10,
        description="Limit of the retries that a submission may ask for; larger values are reduced to it.",
    )
    shared_ids: CommaList[str] = Field(
        default=(),
        description="Ids at the provider (files, vector stores, prompts, fine-tuned models, ...) that all tenants may "
        "use, comma-separated. An id that ends in * is a prefix. The tenant `default` may use any id.",
    )

    hedge: HedgeMode = Field(
        default="asked",
        description="Which jobs may have a second attempt beside one that runs for unusually long (docs/hedging.md): "
        "`asked`: those that ask for it; `all`: also others, if their tools can't act twice; `never`: none.",
    )
    fallback_rules: tuple[FallbackRule, ...] = Field(
        default=(),
        max_length=100,
        description="Fallbacks of jobs that name none, as JSON, the first rule that fits wins: "
        '[{"model": "gpt-6-*", "to": [{"model": "gpt-5.2"}], "after_ms": 60000}] (docs/fallback.md). `model` is a '
        "pattern with *.",
    )
    prompt_cache_rules: tuple[CacheRule, ...] = Field(
        default=(),
        max_length=100,
        description="Policies for `prompt_cache_key`, as JSON, the first that fits wins: "
        '[{"policy": "shard", "key": "support-*", "shards": 8}, {"policy": "spread", "tenant": "batch", "key": ""}]. '
        "`shard` spreads a hot key over sub-keys, `spread` gives each job its own; `tenant`, `model` and `key` are "
        "patterns with *.",
    )

    @model_validator(mode="after")
    def _relations(self) -> Self:
        if self.command_valid_ms + self.create_timeout_ms >= self.timeout_ms:
            raise ValueError(
                "timeout_ms must be above command_valid_ms and create_timeout_ms together: a job's deadline must not "
                "pass while its first create may still be answered"
            )
        return self

    def refuses_name(self, request: Mapping[str, Any], tenant: str) -> Named | None:
        """The first reference in `request` to an object at the provider that `tenant` may not use; None if there is
        none.

        All tenants share one project at the provider.
        """
        return None if tenant == DEFAULT_TENANT else first_foreign(named_in(request), self.shared_ids)

    def refuses_fallback(self, submit: Submit, tenant: str) -> Named | None:
        """As `refuses_name`, of the fallbacks that the submission names itself. Pointers begin at the submission."""
        to = () if submit.fallback is None else submit.fallback.to
        return self.refuses_name({"fallback": {"to": [{"model": choice.model} for choice in to]}}, tenant)

    def hedges(self, submit: Submit) -> bool:
        """Whether the job may be hedged. By policy only a request that two attempts of do nothing twice."""
        if self.hedge == "never" or submit.hedge is False:
            return False
        if submit.hedge is None and (self.hedge != "all" or acts(submit.request)):
            return False
        return unhedgeable(submit.request) is None

    def fallbacks(self, submit: Submit) -> Fallbacks | None:
        """The job's own, else those of the first rule that fits."""
        given = submit.fallback
        if given is None:
            return fallbacks_of(self.fallback_rules, str(submit.request["model"]))
        return Fallbacks(to=given.to, after_ms=given.after_ms) if given.to else None

    def stamp(self, retries_max: int | None, *, tagged: bool = False, hedge: bool = False) -> JobPolicy:
        """The policy for one job; `retries_max` is what the submission asked for (None: the default)."""
        margin_ms = max(1_000, self.create_timeout_ms // 10)
        return JobPolicy(
            retries_max=min(self.retries_max if retries_max is None else retries_max, self.retries_granted_max),
            rejections_max=self.rejections_max,
            backoff_base_ms=self.backoff_base_ms,
            backoff_max_ms=self.backoff_max_ms,
            command_valid_ms=self.command_valid_ms,
            create_timeout_ms=self.create_timeout_ms,
            report_timeout_ms=self.command_valid_ms + self.create_timeout_ms + margin_ms,
            adoption_grace_ms=self.adoption_grace_ms,
            missing_grace_ms=self.missing_grace_ms,
            unpaid_ends_max=self.unpaid_ends_max,
            doubts_max=self.doubts_max,
            on_account=self.on_account,
            missing_patience_ms=self.missing_patience_ms,
            stuck_after_ms=self.stuck_after_ms,
            stuck_factor=self.stuck_factor,
            forget_after_ms=self.forget_after_ms,
            public_url=self.public_url,
            hedge=True if hedge else None,
            tags_sent=True if tagged else None,
        )


@dataclass(frozen=True, slots=True)
class Prepared:
    """A submission and its canonical form, which is made only once, as the body may be large."""

    submit: Submit
    data: bytes
    """The submission without its id, as canonical JSON: equal for a repeat, different for another submission."""
    sha256: str
    """Hash of `data`."""
    request_json: memoryview
    """The part of `data` that is the request."""
    retry: RetryOf | None = None
    """The ended job that it repeats (`streams.retries`)."""

    @property
    def deadline_at_ms(self) -> int | None:
        return self.submit.deadline_at_ms


def prepare(submit: Submit) -> Prepared:
    """The canonical form of a submission. Takes time in proportion to the body: don't call it on the event loop for
    large bodies.
    """
    rest = submit.model_dump(mode="json", exclude={"job_id", "request"}, exclude_none=True)
    # The hash of these bytes identifies a submission for good: never change their form.
    data = canonical(rest | {"request": submit.request})
    frame = canonical(rest | {"request": 0})
    # No member before it has this name inside; in a text (a fallback's model) the quotes would be escaped.
    begins = frame.index(_REQUEST) + len(_REQUEST)
    ends = len(data) - (len(frame) - begins - 1)
    return Prepared(submit, data, sha256_hex(data), memoryview(data)[begins:ends])


def submission_sha256(submit: Submit) -> str:
    """The hash of a submission without its id: equal for a repeat, different for another submission."""
    return prepare(submit).sha256


def refuse_cap(submit: Submit, at_ms: int, policy: SubmissionPolicy, prices: Prices) -> None:
    """For callers that store something before `to_submitted`: a refused submission must leave nothing.

    :raises CapRefusedError: `to_submitted` would raise it.
    """
    if submit.max_cost_usd is not None:
        dearest(submit.request, policy.fallbacks(submit), prices, _day_of(at_ms))


def _day_of(at_ms: int) -> date:
    return datetime.fromtimestamp(at_ms / 1_000, UTC).date()


async def to_submitted(
    prepared: Prepared,
    *,
    job_id: str,
    tenant: str,
    ingress: Ingress,
    at_ms: int,
    policy: SubmissionPolicy,
    bodies: Bodies,
    limits: LimitRules = NO_LIMITS,
    prices: Prices = NO_PRICES,
) -> JobSubmitted:
    """The fact for a submission. A large body is written to the blob store before this returns.

    The caller must have refused a past deadline.

    :raises CapRefusedError: the job has a cap of money, and its request has no price.
    """
    submit, sha256 = prepared.submit, prepared.sha256
    fallback = policy.fallbacks(submit)
    cap = cap_of(submit.request, submit.max_tokens_spent, submit.max_cost_usd, prices, _day_of(at_ms), fallback)
    model, named = str(submit.request["model"]), submit.request.get("prompt_cache_key")
    key = whole(named) if isinstance(named, str) else None
    cache, sent = policy_of(policy.prompt_cache_rules, job_id=job_id, tenant=tenant, model=model, key=key)
    request, request_json = submit.request, prepared.request_json
    if sent != key:
        request = {**request, "prompt_cache_key": sent}
        request_json = memoryview(canonical(request))
    deadline_at_ms = submit.deadline_at_ms
    if deadline_at_ms is None:
        begins_ms = max(at_ms, submit.not_before_ms or 0)
        deadline_at_ms = begins_ms + (submit.timeout_ms or default_deadline_ms(submit.request, policy.timeout_ms))
    return JobSubmitted(
        id=f"{job_id}/submitted/{sha256[:16]}",
        at_ms=at_ms,
        job_id=job_id,
        tenant=tenant,
        ingress=ingress,
        model=model,
        request=await bodies.of(tenant).put_canonical(request, request_json),
        request_sha256=sha256,
        deadline_at_ms=min(deadline_at_ms, at_ms + TIMEOUT_MS_MAX),
        policy=policy.stamp(submit.retries_max, tagged=bool(submit.tags), hedge=policy.hedges(submit)),
        include=include_of(submit.request) or None,
        window_ms=window_ms_of(submit.request),
        session_id=submit.session_id,
        tags=submit.tags,
        asked_by=key_id_now(),
        prompt_cache=None if cache.policy == "as_is" and key is None else cache,
        turn=turn_of(prepared, tenant, at_ms, limits),
        retry=prepared.retry,
        cap=cap,
        fallback=fallback,
        traceparent=traceparent_now(),
    )


def turn_of(prepared: Prepared, tenant: str, at_ms: int, limits: LimitRules) -> Turn | None:
    """How the job waits for its turn; None if no limit applies and the submission asks for none of this."""
    submit, request = prepared.submit, prepared.submit.request
    waits = (submit.not_before_ms or 0) > at_ms or limits.apply(str(request["model"]), tenant)
    if not waits and submit.priority is None:
        return None
    most = request.get("max_output_tokens")
    return Turn(
        waits=True if waits else None,
        priority=submit.priority_or_normal,
        not_before_ms=submit.not_before_ms,
        request_bytes=len(prepared.request_json),
        output_tokens_max=most if isinstance(most, int) and 0 < most < 2**31 else None,
    )


def to_cancel(cancel: Cancel, *, job_id: str, tenant: str, ingress: Ingress, at_ms: int) -> CancelRequested:
    return CancelRequested(
        id=f"{job_id}/cancel",
        at_ms=at_ms,
        job_id=job_id,
        tenant=tenant,
        ingress=ingress,
        reason=cancel.reason,
        asked_by=key_id_now(),
    )


def to_refused(job_id: str, tenant: str, code: str, message: str, at_ms: int, policy: SubmissionPolicy) -> JobRefused:
    """The fact that ends a job as `rejected`, for a request of which only the job id could be used."""
    return JobRefused(
        id=f"{job_id}/refused",
        at_ms=at_ms,
        job_id=job_id,
        tenant=tenant,
        code=code,
        message=message[:500],
        forget_after_ms=policy.forget_after_ms,
    )
