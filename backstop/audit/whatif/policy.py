"""The policy of a what-if: a TOML file whose sections replace what was in force. Pure; the caller reads the file.

A section that is absent leaves that part as it was. A key that is absent in a `[polling]` section has the product's
default; in a `[retry]` section it stays what each job has.
"""

import tomllib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.hedges import HedgeMode
from schemas.jobs import JobPolicy
from schemas.sentences import sentence
from streams.policy.hedging import ENDS_LEAST, ENDS_MIN
from streams.policy.latency import Latencies
from streams.policy.learned_polls import LearnedPolls, PollPrice
from streams.policy.polls import PollPolicy, Webhooks
from streams.policy.webhook_loss import WebhookLoss

FILE_CHARS_MAX = 65_536

Count = Annotated[int, Field(ge=0, le=10_000)]
Span = Annotated[int, Field(ge=0, le=86_400_000)]


class PolicyFileError(Exception):
    """The file is no policy; the message says where and why."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Polling(_Section):
    """As the settings `BACKSTOP_POLL_…` of the workers."""

    schedule: Literal["fixed", "learned"] = "fixed"
    first_poll_ms: Span = 20_000
    spacing_factor: float = 0.5
    spacing_min_ms: Span = 5_000
    spacing_max_ms: Span = 240_000
    report_ms: Span = 120_000
    price_s: float = 0.4
    run_median_ms: Annotated[int, Field(ge=500, le=14_400_000)] = 60_000
    rate_max_per_s: Annotated[float, Field(ge=0.1, le=10_000)] = 250.0
    webhooks_expected: bool = True

    def webhooks(self) -> Webhooks:
        """:raises ValueError: the values contradict each other."""
        policy = PollPolicy(
            self.first_poll_ms, self.spacing_factor, self.spacing_min_ms, self.spacing_max_ms, self.report_ms
        )
        price = PollPrice(self.price_s, max(self.spacing_max_ms, 1_000))
        if self.schedule == "fixed":
            return Webhooks(policy, expected=self.webhooks_expected)
        learned = LearnedPolls(price, Latencies(self.run_median_ms), WebhookLoss(expected=self.webhooks_expected))
        return Webhooks(policy, expected=self.webhooks_expected, learned=learned)


class RetryBudgets(_Section):
    """As the fields of the same names in `schemas.jobs.JobPolicy`."""

    retries_max: Count | None = None
    rejections_max: Count | None = None
    unpaid_ends_max: Count | None = None
    doubts_max: Count | None = None
    backoff_base_ms: Span | None = None
    backoff_max_ms: Span | None = None
    adoption_grace_ms: Span | None = None
    missing_grace_ms: Span | None = None
    missing_patience_ms: Span | None = None
    stuck_after_ms: Span | None = None
    stuck_factor: Annotated[float, Field(ge=1, le=1_000)] | None = None
    on_account: Literal["wait", "fail"] | None = None

    def of(self, policy: JobPolicy) -> JobPolicy:
        return policy.model_copy(update=self.model_dump(exclude_none=True))


class Hedging(_Section):
    """As the settings `BACKSTOP_SUBMISSION_HEDGE`, `BACKSTOP_HEDGE_SHARE` and `BACKSTOP_HEDGE_ENDS_MIN`."""

    mode: HedgeMode = "asked"
    """`asked`: the jobs that may be hedged already; `all`: also those whose tools can't act twice; `never`: none."""
    share: Annotated[float, Field(gt=0, le=0.2)] = 0.02
    ends_min: Annotated[int, Field(ge=ENDS_LEAST, le=100_000)] = ENDS_MIN


class Policy(_Section):
    """None: as it was."""

    polling: Polling | None = None
    retry: RetryBudgets | None = None
    hedging: Hedging | None = None


AS_IT_WAS = Policy()


def parse_policy(text: str) -> Policy:
    """:raises PolicyFileError: the text is no policy."""
    if len(text) > FILE_CHARS_MAX:
        raise PolicyFileError(f"it has {len(text)} characters, and {FILE_CHARS_MAX} are the most")
    try:
        value: Any = tomllib.loads(text)
        policy = Policy.model_validate(value)
        if policy.polling is not None:
            policy.polling.webhooks()
    except tomllib.TOMLDecodeError as error:
        raise PolicyFileError(f"it is no TOML: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise PolicyFileError(f"{where} is not a key of a policy; {_known(first['loc'])}") from None
        raise PolicyFileError(f"{where}: {sentence(first)}") from None
    except ValueError as error:
        raise PolicyFileError(f"polling: {error}") from None
    if policy == AS_IT_WAS:
        raise PolicyFileError(f"it changes nothing: {_known(())}")
    return policy


def _known(where: tuple[str | int, ...]) -> str:
    sections: dict[str, type[_Section]] = {"polling": Polling, "retry": RetryBudgets, "hedging": Hedging}
    section = sections.get(str(where[0])) if len(where) > 1 else None
    return f"known are {', '.join((Policy if section is None else section).model_fields)}"
