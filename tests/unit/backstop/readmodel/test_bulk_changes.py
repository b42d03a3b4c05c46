"""`POST /v1/jobs/change` and `/retry` over a real server, on every kind of database."""

from typing import Any

import pytest

from schemas.base import InlineBody
from schemas.jobs import JobChanged, JobSubmitted, RetryOf, Turn
from schemas.prompt_cache import policy_of
from schemas.requests import TIMEOUT_MS_MAX
from streams.fold.job import Absent, step
from streams.fold.job_states import Finished
from streams.retries import own_id_of_retry
from tests.support.builders import job_timer
from tests.unit.backstop.readmodel.logs import accepted, cancelled, refused, rejected, settled, submitted, whole_job
from tests.unit.backstop.readmodel.serving import running
from tests.unit.backstop.readmodel.test_bulk import ADMIN, NOW_MS, POLICY, RULE, Api, api
from tests.unit.backstop.readmodel.test_costs import DAY_MS, TODAY

SOON_MS = NOW_MS + 3_600_000
WHY: dict[str, Any] = {"execute": True, "why": "night run", "by": "Ann"}


@pytest.fixture
def with_api(run: Any) -> Any:
    return running(run, api)


async def take_changes(api: Api) -> list[JobChanged]:
    """The projection reads what was published."""
    facts = [fact for fact in api.published.landed if isinstance(fact, JobChanged)]
    api.published.landed.clear()
    await api.take(*facts)
    return facts


def test_a_change_is_planned_made_once_a_job_and_a_repeat_finds_nothing_left(with_api: Any) -> None:
    async def body(api: Api) -> None:
        waits = Turn(waits=True, priority="normal")
        await api.take(*(submitted(f"j{number}", at_ms=1_000 + number, turn=waits) for number in range(5)))
        await api.take(submitted("run"), accepted("run"), submitted("gone"), cancelled("gone"))
        await api.take(submitted("bulk", turn=Turn(waits=True, priority="bulk")))
        asked: dict[str, Any] = {"act": "change", "model": "gpt-5", "priority": "bulk"}
        plan = await api.ask(**asked)
        assert (plan["object"], plan["count"], plan["unchanged"], plan["ending"]) == ("change_plan", 6, 1, 0)
        assert (plan["running"], plan["by_status"]) == (1, {"waiting": 5, "running": 1})
        assert not api.published.landed
        first = await api.ask(**asked, **WHY, limit=2)
        assert (first["count"], "next_cursor" in first) == (2, True)
        await take_changes(api)  # Broken off here, and begun anew.
        done, cursor = 0, dict[str, Any]()
        while True:
            batch = await api.ask(**asked, **WHY, limit=3, **cursor)
            done += batch["count"]
            if "next_cursor" not in batch:
                break
            cursor = {"cursor": batch["next_cursor"]}
        facts = await take_changes(api)
        assert done == len(facts) == len({fact.job_id for fact in facts}) == 4
        assert {(fact.priority, fact.deadline_at_ms, fact.why, fact.by) for fact in facts} == {
            ("bulk", None, "night run", "Ann")
        }
        assert (await api.ask(**asked))["count"] == 0
        row = await api.projection.there("j0")
        assert (row.priority, row.status) == ("bulk", "waiting")
        assert b'"priority":"bulk"' in row.fold_state

    with_api(body)


def test_a_key_changes_jobs_to_a_priority_that_it_may_give_alone(with_api: Any) -> None:
    async def body(api: Api) -> None:
        await api.take(submitted("a"))
        api.priorities = frozenset({"bulk"})
        refusal = await api.ask(403, act="change", ids=["a"], priority="interactive", **WHY)
        assert refusal["code"] == "priority_not_allowed"
        assert not api.published.landed
        assert (await api.ask(act="change", ids=["a"], priority="bulk", **WHY))["count"] == 1
        assert (await api.ask(act="change", ids=["a"], deadline_at_ms=SOON_MS))["count"] == 1

    with_api(body)


def test_a_deadline_is_moved_and_one_that_has_passed_ends_jobs(with_api: Any) -> None:
    async def body(api: Api) -> None:
        await api.take(submitted("a"), submitted("b"))
        asked: dict[str, Any] = {"act": "change", "ids": ["a", "b", "none"], "deadline_at_ms": SOON_MS}
        plan = await api.ask(**asked)
        assert (plan["count"], plan["ending"], plan["not_found"]) == (2, 0, ["none"])
        await api.ask(**asked, **WHY)
        await take_changes(api)
        row = await api.projection.there("a")
        assert (row.deadline_at_ms, row.next_action_at_ms is not None) == (SOON_MS, True)
        assert (await api.ask(**asked))["unchanged"] == 2
        past: dict[str, Any] = {"act": "change", "ids": ["a"], "deadline_at_ms": NOW_MS - 1}
        assert (await api.ask(**past))["ending"] == 1
        await api.ask(**past, **WHY)
        await take_changes(api)
        assert (await api.projection.there("a")).status == "finishing"
        assert (await api.ask(**asked))["not_open"] == ["a"]

    with_api(body)


def test_changes_and_retries_that_name_nothing_or_too_much_are_refused(with_api: Any) -> None:
    async def body(api: Api) -> None:
        await api.take(submitted("a"))
        bad_changes: tuple[dict[str, Any], ...] = (
            {"model": "m"}, {"priority": "bulk"}, {"model": "m", "priority": "urgent"}, {"ids": [], "priority": "bulk"},
            {"model": "m", "deadline_at_ms": "soon"}, {"model": "m", "priority": "bulk", "execute": True},
            {"model": "m", "deadline_at_ms": NOW_MS + TIMEOUT_MS_MAX + 1}, {"status": ["failed"], "priority": "bulk"},
            {"everything": True, "deadline_at_ms": -1},
        )  # fmt: skip
        for bad in bad_changes:
            assert (await api.ask(422, act="change", **bad))["code"] == "bad_request", bad
        for bad in ({}, {"status": ["completed"]}, {"status": ["running"]}, {"ids": ["a"], "timeout_ms": 0},
                    {"everything": True, "execute": True}):  # fmt: skip
            assert (await api.ask(422, act="retry", **bad))["code"] == "bad_request", bad
        for act, more in (("change", {"priority": "bulk"}), ("retry", {})):
            refusal = await api.ask(403, act=act, whose="z", everything=True, **more)
            assert refusal["code"] == "scope_missing"
        assert not api.published.landed

    with_api(body)


async def expired(api: Api, job_id: str, **changes: Any) -> None:
    """A job that its deadline ended, as the read model has it."""
    fields = {"at_ms": NOW_MS - 60_000, "deadline_at_ms": NOW_MS - 30_000} | changes
    job = submitted(job_id, **fields)
    late = job_timer_of(job)
    await api.take(job, late, result_of(job, late))


def job_timer_of(job: JobSubmitted) -> Any:
    due_ms = min(job.at_ms + job.policy.report_timeout_ms, job.deadline_at_ms)
    return job_timer(due_ms, job.deadline_at_ms, job.job_id)


def result_of(job: JobSubmitted, fact: Any) -> Any:
    done = step(step(Absent(), job).state, fact)
    assert isinstance(done.state, Finished)
    return done.outputs[0]


def submissions(api: Api) -> list[JobSubmitted]:
    return [fact for fact in api.published.landed if isinstance(fact, JobSubmitted)]


def test_a_retry_is_a_new_job_that_names_the_ended_one_and_is_made_once(with_api: Any) -> None:
    async def body(api: Api) -> None:
        await expired(api, "a", tags=("x",), session_id="s", turn=Turn(priority="bulk"))
        await expired(api, "b")
        await api.take(*whole_job("done", "resp_9"), submitted("open"), refused("bad"))
        asked: dict[str, Any] = {"act": "retry", "everything": True}
        plan = await api.ask(**asked)
        assert (plan["object"], plan["count"], plan["by_status"]) == ("retry_plan", 2, {"expired": 2})
        assert not api.published.landed
        first = await api.ask(**asked, **WHY)
        assert first["count"] == 2
        made = {fact.job_id: fact for fact in submissions(api)}
        assert set(made) == {own_id_of_retry("a"), own_id_of_retry("b")}
        fact, old = made[own_id_of_retry("a")], submitted("a")
        assert fact.retry == RetryOf(job_id="a", why="night run", by="Ann")
        assert (fact.request, fact.model, fact.tags, fact.session_id) == (old.request, old.model, ("x",), "s")
        assert (fact.turn is not None and fact.turn.priority, fact.deadline_at_ms) == ("bulk", NOW_MS + 30_000)
        again = await api.ask(**asked, **WHY)  # Before the read model has seen them: the same ids, nothing written.
        assert (again["count"], len(submissions(api))) == (2, 2)
        await api.take(*submissions(api))
        later = await api.ask(**asked, **WHY)
        assert (later["count"], later["retried_before"], len(submissions(api))) == (0, 2, 2)
        assert (await api.ask(**asked))["retried_before"] == 2
        row = await api.projection.there(own_id_of_retry("a"))
        assert (row.retry_of, row.status) == ("a", "submitting")
        told = await api.ask(act="retry", ids=["done", "open", "bad", "none", "a"])
        assert (told["not_retried"], told["not_found"], told["count"]) == (["done", "open", "bad"], ["none"], 0)

    with_api(body)


def test_what_was_deleted_or_may_not_be_named_any_more_is_not_retried(with_api: Any) -> None:
    requests: dict[str, dict[str, Any]] = {
        "fine": {"input": "x"},
        "deleted": {"input": "x"},
        "unshared": {"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]},
        "follows": {"previous_response_id": "resp_z"},
        "strange": {"previous_response_id": "resp_unknown"},
    }

    async def body(api: Api) -> None:
        await api.take(submitted("z:theirs", tenant="z"), accepted("z:theirs", response_id="resp_z"))
        for name, request in requests.items():
            value = InlineBody(value={"model": "gpt-5", **request})
            await expired(api, f"acme:{name}", tenant="acme", request=value)
        await api.shown.hide("acme", "deleted")
        batch = await api.ask(act="retry", tenant="acme", everything=True, **WHY)
        assert [made["retry_of"] for made in batch["jobs"]] == ["fine"]
        assert set(batch["refused"]) == requests.keys() - {"fine"}
        assert len(submissions(api)) == 1

    with_api(body)


def test_a_retry_may_be_retried_and_has_another_id(with_api: Any) -> None:
    async def body(api: Api) -> None:
        await expired(api, "a")
        await api.ask(act="retry", ids=["a"], **WHY)
        (once,) = submissions(api)
        late = job_timer_of(once)
        await api.take(once, late, result_of(once, late))
        plan = await api.ask(act="retry", everything=True)
        assert (plan["sample"], plan["retried_before"]) == ([own_id_of_retry("a")], 1)
        await api.ask(act="retry", everything=True, **WHY)
        assert [fact.job_id for fact in submissions(api)][1:] == [own_id_of_retry(own_id_of_retry("a"))]
        result: Any = result_of(once, late)
        assert (result.job_id, result.retry_of) == (own_id_of_retry("a"), "a")

    with_api(body)


def test_large_requests_and_cache_keys_are_repeated_as_they_were_submitted(with_api: Any) -> None:
    async def body(api: Api) -> None:
        request = {"model": "gpt-5", "input": "x" * 5_000, "prompt_cache_key": "hot"}
        cache, sent = policy_of((RULE,), job_id="a", tenant="default", model="gpt-5", key="hot")
        stored = await api.blobs.put(b'{"input":"' + b"x" * 5_000 + b'","model":"gpt-5","prompt_cache_key":"%s"}'
                                     % str(sent).encode())  # fmt: skip
        blob = {"kind": "blob", "sha256": stored, "size_bytes": 5_100}
        await expired(api, "a", request=blob, prompt_cache=cache)
        await expired(api, "lost", request={"kind": "blob", "sha256": "0" * 64, "size_bytes": 5_100})
        batch = await api.ask(act="retry", everything=True, priority="interactive", timeout_ms=90_000, **WHY)
        assert (batch["count"], batch["without_request"]) == (1, ["lost"])
        (fact,) = submissions(api)
        again, key = policy_of(
            POLICY.prompt_cache_rules, job_id=fact.job_id, tenant="default", model="gpt-5", key="hot"
        )
        assert fact.prompt_cache == again
        assert (fact.deadline_at_ms, fact.turn is not None and fact.turn.priority) == (NOW_MS + 90_000, "interactive")
        assert isinstance(fact.request, InlineBody) is False
        assert key != request["prompt_cache_key"]

    with_api(body)


def test_an_admin_retries_for_another_tenant_within_that_tenants_quota(with_api: Any) -> None:
    async def body(api: Api) -> None:
        for number in range(5):
            await expired(api, f"small:{number}", tenant="small", at_ms=NOW_MS - 60_000 - number)
        refusal = await api.ask(429, act="retry", whose="small", everything=True, scopes=ADMIN, **WHY)
        assert refusal["code"] == "open_jobs_exceeded"
        assert refusal["detail"].startswith("3 jobs of this batch were submitted; a repeat leaves them out.")
        facts = submissions(api)
        assert {(fact.tenant, fact.job_id.partition(":")[0]) for fact in facts} == {("small", "small")}
        assert len(facts) == 3

    with_api(body)


def test_what_the_log_does_not_take_is_no_success(with_api: Any) -> None:
    async def body(api: Api) -> None:
        await api.take(submitted("open"))
        await expired(api, "a")
        api.published.away = True
        for asked in ({"act": "retry"}, {"act": "change", "priority": "bulk"}):
            assert (await api.ask(503, everything=True, **asked, **WHY))["code"] == "log_unavailable"

    with_api(body)


def test_a_plan_of_retries_has_what_they_would_cost(with_api: Any) -> None:
    async def body(api: Api) -> None:
        at_ms = TODAY * DAY_MS
        await api.take(
            submitted("done", at_ms, model="m"), accepted("done", at_ms + 1, response_id="r0"),
            settled("done", at_ms + 2, response_id="r0"), submitted("x", model="m"), rejected("x"),
        )  # fmt: skip
        await expired(api, "a", model="m")
        await expired(api, "b", model="unpriced-model")
        plan = await api.ask(act="retry", everything=True)
        assert (plan["count"], plan["without_estimate"], float(plan["cost_usd"]) > 0) == (2, 1, True)

    with_api(body)
