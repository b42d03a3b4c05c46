"""Policies for `prompt_cache_key`: the key that a job's creates send, decided from the job id alone.

The provider routes requests by the beginning of the prompt and by this key. Above about 15 requests a minute for both,
further requests overflow and miss (OpenAI's guide "Prompt caching"). So:

- `as_is`: the key that the submission names, or none.
- `shard`: a hot key becomes `shards` sub-keys (`key/0`, `key/1`, ...), and a job has always the same one.
- `spread`: each job has a key of its own. For prompts of which no part is shared, so that no machine gets them all.
"""

import hashlib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field, StringConstraints

from schemas.base import Frozen

KEY_CHARS_MAX: Final = 64
"""OpenAI's limit of `prompt_cache_key`. A longer sub-key has a hash in place of the key."""
SHARDS_MAX: Final = 1_000

CachePolicy = Literal["as_is", "shard", "spread"]
Pattern = Annotated[str, StringConstraints(max_length=200)]


class CacheRule(Frozen):
    """Which jobs have which policy. Patterns as of file names: `*` stands for any text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: CachePolicy
    tenant: Pattern = "*"
    model: Pattern = "*"
    key: Pattern = "*"
    """A pattern for the key that the submission names; a submission without a key has the empty one."""
    shards: int = Field(default=4, ge=2, le=SHARDS_MAX)

    def takes(self, tenant: str, model: str, key: str) -> bool:
        names = ((tenant, self.tenant), (model, self.model), (key, self.key))
        return all(fnmatchcase(name, pattern) for name, pattern in names)


class PromptCache(Frozen):
    """The policy of a job, and the key that its submission named. The key that is sent is in the job's request."""

    policy: CachePolicy
    key: str | None = None


def policy_of(
    rules: Iterable[CacheRule], *, job_id: str, tenant: str, model: str, key: str | None
) -> tuple[PromptCache, str | None]:
    """The policy of a job by the first rule that takes it, and the key to send."""
    rule = next((rule for rule in rules if rule.takes(tenant, model, key or "")), None)
    if rule is None or rule.policy == "as_is" or (rule.policy == "shard" and not key):
        return PromptCache(policy="as_is", key=key), key
    number = int.from_bytes(hashlib.blake2b(job_id.encode(), digest_size=8).digest(), "big")
    if rule.policy == "spread":
        return PromptCache(policy="spread", key=key), f"spread-{number:016x}"
    sub_key = f"{key}/{number % rule.shards}"
    if len(sub_key) > KEY_CHARS_MAX:
        short = hashlib.sha256(str(key).encode()).hexdigest()[:32]
        sub_key = f"{short}/{number % rule.shards}"
    return PromptCache(policy="shard", key=key), sub_key
