"""Which `prompt_cache_key` a job sends."""

from collections import Counter

import pytest
from pydantic import ValidationError

from schemas.prompt_cache import KEY_CHARS_MAX, CacheRule, PromptCache, policy_of

SHARD = CacheRule(policy="shard", key="hot-*", shards=4)
SPREAD = CacheRule(policy="spread", tenant="batch", model="gpt-6-*")


def sent(
    job_id: str, *rules: CacheRule, tenant: str = "acme", model: str = "gpt-6-luna", key: str | None = "hot-1"
) -> tuple[str, str | None, str | None]:
    cache, key_sent = policy_of(rules, job_id=job_id, tenant=tenant, model=model, key=key)
    assert cache == PromptCache(policy=cache.policy, key=key)
    return cache.policy, cache.key, key_sent


def test_without_a_rule_the_key_is_the_submissions() -> None:
    assert sent("j") == ("as_is", "hot-1", "hot-1")
    assert sent("j", key=None) == ("as_is", None, None)
    assert sent("j", SHARD, key="cold") == ("as_is", "cold", "cold")
    assert sent("j", CacheRule(policy="as_is", key="hot-1"), SHARD) == ("as_is", "hot-1", "hot-1"), (
        "the first rule wins"
    )


def test_a_hot_key_is_spread_evenly_and_a_job_keeps_its_sub_key() -> None:
    keys = Counter(sent(f"job_{number}", SHARD)[2] for number in range(4_000))
    assert set(keys) == {f"hot-1/{number}" for number in range(4)}
    assert all(900 < count < 1_100 for count in keys.values())
    assert sent("job_7", SHARD) == sent("job_7", SHARD)


def test_a_sub_key_is_never_longer_than_the_provider_takes() -> None:
    long = CacheRule(policy="shard", shards=1_000)
    names = {sent(f"job_{number}", long, key=f"{'k' * 64}{which}")[2] for number in range(20) for which in "ab"}
    assert all(name is not None and len(name) <= KEY_CHARS_MAX for name in names)
    assert len({str(name).partition("/")[0] for name in names}) == 2, "two keys stay two"


def test_spread_gives_each_job_a_key_of_its_own() -> None:
    assert sent("a", SPREAD, tenant="batch") != sent("b", SPREAD, tenant="batch")
    policy, key, name = sent("a", SPREAD, tenant="batch", key=None)
    assert (policy, key) == ("spread", None)
    assert name is not None
    assert name.startswith("spread-")
    assert len(name) <= KEY_CHARS_MAX
    for other in ({"tenant": "acme"}, {"tenant": "batch", "model": "o3"}):
        assert sent("a", SPREAD, key=None, **other)[0] == "as_is"


@pytest.mark.parametrize(
    "rule",
    [
        {"policy": "hide"}, {"policy": "shard", "shards": 1}, {"policy": "shard", "shards": 0},
        {"policy": "shard", "shards": 9_999}, {"policy": "spread", "tenannt": "a"}, {},
    ],
)  # fmt: skip
def test_a_rule_that_makes_no_sense_is_refused(rule: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CacheRule.model_validate(rule)
