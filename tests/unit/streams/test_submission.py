"""The canonical form of a submission: made once, and the same bytes for good."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from backstop.runtime.blobs import Bodies, FolderBlobs, get_body
from schemas.codec import canonical, encode, sha256_hex
from schemas.commands import CreateResponse
from schemas.jobs import JobSubmitted
from schemas.prompt_cache import CacheRule, PromptCache
from schemas.requests import Submit
from streams.fold import job
from streams.fold.rows import encode_job_state
from streams.policy.limits import read_rules
from streams.submission import SubmissionPolicy, prepare, to_submitted, turn_of

REQUEST: dict[str, Any] = {
    "model": "m", "input": [{"z": None, "a": ['"request":', 1.5, "ü\u2028"]}], "metadata": None,
    "request": {"b": 1, "a": 2},
}  # fmt: skip


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"job_id": "mine", "deadline_at_ms": 5, "retries_max": 0, "session_id": "s", "tags": ["t"]},
        {"timeout_ms": 1_000, "tags": []},
        {"deadline_at_ms": 5, "not_before_ms": 3, "priority": "bulk"},
    ],
)
def test_the_canonical_form_is_that_of_the_whole_model(more: dict[str, Any]) -> None:
    submit = Submit(request=REQUEST, **more)
    prepared = prepare(submit)
    assert prepared.data == canonical(submit.model_dump(mode="json", exclude={"job_id"}, exclude_none=True))
    assert prepared.sha256 == sha256_hex(prepared.data)
    assert bytes(prepared.request_json) == canonical(REQUEST)


def test_the_form_of_a_submissions_hash_never_changes() -> None:
    submit = Submit(request={"model": "m", "input": "hello"}, tags=("t",))
    assert prepare(submit).data == b'{"request":{"input":"hello","model":"m"},"tags":["t"],"type":"submit","v":1}'


@pytest.mark.parametrize(("asked", "granted"), [(None, 2), (1, 1), (3, 3), (10, 3)])
def test_no_submission_gets_more_retries_than_the_operator_grants(asked: int | None, granted: int) -> None:
    assert SubmissionPolicy(retries_max=2, retries_granted_max=3).stamp(asked).retries_max == granted


@pytest.mark.parametrize(
    ("limits", "more", "waits"),
    [
        ("", {}, None),
        ('[{"model": "other", "concurrent": 1}]', {}, None),
        ("", {"priority": "bulk"}, False),
        ("", {"not_before_ms": 1}, None),
        ("", {"not_before_ms": 2}, True),
        ('[{"model": "m", "concurrent": 1}]', {}, True),
        ('[{"tenant": "acme", "weight": 2}]', {}, None),
    ],
)
def test_a_submission_is_stamped_only_where_a_limit_applies_or_it_asks(
    limits: str, more: dict[str, Any], waits: bool | None
) -> None:
    """`waits`: None without a stamp."""
    turn = turn_of(prepare(Submit(request=REQUEST, **more)), "acme", 1, read_rules(limits))
    assert (None if turn is None else bool(turn.waits)) == waits


def test_without_limits_priority_and_start_time_a_job_has_the_records_that_it_had_before(tmp_path: Path) -> None:
    """The create's command comes with the submission itself, and no part of a record tells of turns."""
    made = asyncio.run(
        to_submitted(
            prepare(Submit(request=REQUEST)), job_id="j", tenant="acme", ingress="http", at_ms=1,
            policy=SubmissionPolicy(), bodies=Bodies(FolderBlobs(tmp_path), 10_000),
        )
    )  # fmt: skip
    assert b"turn" not in encode(made)
    step = job.step(job.Absent(), made)
    assert [type(output) for output in step.outputs] == [CreateResponse]
    assert b"turn" not in encode_job_state(step.state)


@pytest.mark.parametrize("inline_bytes_max", [10_000, 0])
def test_a_rule_changes_the_cache_key_that_is_sent_and_not_the_submissions_hash(
    tmp_path: Path, inline_bytes_max: int
) -> None:
    rules = (CacheRule(policy="shard", key="hot", shards=8), CacheRule(policy="spread", key=""))

    async def fact(policy: SubmissionPolicy, key: str | None) -> tuple[JobSubmitted, Any]:
        request = {"model": "m", "input": "x"} | ({"prompt_cache_key": key} if key else {})
        blobs = FolderBlobs(tmp_path)
        made = await to_submitted(
            prepare(Submit(request=request)), job_id="acme:j", tenant="acme", ingress="http", at_ms=1, policy=policy,
            bodies=Bodies(blobs, inline_bytes_max),
        )  # fmt: skip
        return made, await get_body(blobs, made.request)

    async def story() -> None:
        plain, _ = await fact(SubmissionPolicy(), "hot")
        for key, policy, begins in (("hot", "shard", "hot/"), (None, "spread", "spread-")):
            made, request = await fact(SubmissionPolicy(prompt_cache_rules=rules), key)
            assert made.prompt_cache == PromptCache(policy=policy, key=key)
            assert request["prompt_cache_key"].startswith(begins)
            assert (request["model"], request["input"]) == ("m", "x")
            assert (made.request_sha256 == plain.request_sha256) == (key == "hot")
        assert plain.prompt_cache == PromptCache(policy="as_is", key="hot")
        none, request = await fact(SubmissionPolicy(), None)
        assert none.prompt_cache is None
        assert "prompt_cache_key" not in request

    asyncio.run(story())
