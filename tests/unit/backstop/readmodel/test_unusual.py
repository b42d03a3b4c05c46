"""Findings by comparison: slow runs, a flood, webhooks that stopped, and what dead letters are of."""

from typing import Any

import pytest

from backstop.readmodel.unusual import ENDED_MIN, FLOOD_MIN, SLOW_MIN
from receiver.reads.overview import SILENT_MIN
from tests.unit.backstop.readmodel.logs import accepted, rejected, submitted, whole_job
from tests.unit.backstop.readmodel.serving import running
from tests.unit.backstop.readmodel.test_overview import ALL, Api, api, letters, looked

RUN_MS = 6_000
"""Of a whole job of the logs here."""
BEGAN_MS = 2_000


@pytest.fixture
def with_api(run: Any) -> Any:
    return running(run, api)


async def findings(api: Api, scopes: str = "read") -> dict[str, Any]:
    return {each["code"]: each for each in (await api.get("/v1/attention", scopes=scopes))["findings"]}


def test_runs_that_take_longer_than_those_that_ended_are_told(with_api: Any) -> None:
    async def body(api: Api) -> None:
        ended = [fact for n in range(ENDED_MIN) for fact in whole_job(f"done-{n}", f"r{n}")]
        begun = [fact for n in range(SLOW_MIN) for fact in (submitted(f"j{n}"), accepted(f"j{n}", response_id=f"s{n}"))]
        await api.take(*ended, *begun)
        api.now_ms = BEGAN_MS + 2 * RUN_MS
        assert "runs_slow" not in await findings(api)
        api.now_ms += 1
        found = (await findings(api))["runs_slow"]
        assert (found["count"], found["of"], len(found["job_ids"])) == (SLOW_MIN, SLOW_MIN, SLOW_MIN)
        assert found["because"] == (
            "5 of 5 runs of gpt-5 at the provider take longer than usual: the longest for 12 s, and 95 % of those that "
            "ended took 6 s or less"
        )
        quick = [(submitted(f"q{n}"), accepted(f"q{n}", api.now_ms, response_id=f"q{n}")) for n in range(SLOW_MIN + 1)]
        await api.take(*[fact for pair in quick for fact in pair])
        assert "runs_slow" not in await findings(api), "most runs are as quick as ever"

    with_api(body)


def test_slow_runs_of_a_model_whose_usual_time_is_not_known_are_not_told(with_api: Any) -> None:
    async def body(api: Api) -> None:
        ended = [fact for n in range(ENDED_MIN - 1) for fact in whole_job(f"done-{n}", f"r{n}")]
        begun = [fact for n in range(SLOW_MIN) for fact in (submitted(f"j{n}"), accepted(f"j{n}", response_id=f"s{n}"))]
        await api.take(*ended, *begun)
        api.now_ms = BEGAN_MS + 100 * RUN_MS
        assert "runs_slow" not in await findings(api)

    with_api(body)


def test_a_tenant_whose_jobs_are_most_of_those_that_wait_is_told_to_an_administrator_alone(with_api: Any) -> None:
    async def body(api: Api) -> None:
        def waiting(tenant: str, count: int) -> list[Any]:
            ids = [f"{tenant}:{n}" if tenant != "default" else f"own-{n}" for n in range(count)]
            return [fact for each in ids for fact in (submitted(each, tenant=tenant), rejected(each, cause="limited"))]

        await api.take(*waiting("x", FLOOD_MIN - 1), *waiting("default", 3))
        assert "tenant_floods" not in await findings(api, scopes=ALL)
        await api.take(submitted("x:last", tenant="x"), rejected("x:last", cause="limited"))
        found = (await findings(api, scopes=ALL))["tenant_floods"]
        assert (found["count"], found["of"], "job_ids" in found) == (FLOOD_MIN, FLOOD_MIN + 3, False)
        assert found["because"].startswith(
            "100 of 103 jobs that wait to begin are of the tenant x, most of them for gpt-5"
        )
        assert "tenant_floods" not in await findings(api, scopes="read,operate"), "tenants are apart"

    with_api(body)


def test_webhooks_that_stopped_are_told_whatever_share_of_the_hour_is_missing(with_api: Any) -> None:
    async def body(api: Api) -> None:
        heard = [fact for n in range(100) for fact in whole_job(f"ok-{n}", f"h{n}")]
        await api.take(*heard)
        for number in range(SILENT_MIN):
            assert "webhooks_missed" not in await findings(api)
            facts = looked(f"j{number}", number)
            at_ms = facts[-1].timings.finished_at_ms + 10
            timings = facts[-1].timings.model_copy(update={"finished_at_ms": at_ms})
            await api.take(*facts[:-1], facts[-1].model_copy(update={"timings": timings}))
        found = (await findings(api))["webhooks_missed"]
        assert (found["count"], found["of"]) == (SILENT_MIN, 100 + SILENT_MIN)
        assert found["because"] == (
            "no webhook came for the last 10 ends, which polls found; the last one came at 00:00:09 UTC"
        )

    with_api(body)


def test_dead_letters_are_told_by_reason_and_topic(with_api: Any) -> None:
    async def body(api: Api) -> None:
        await api.take(*letters(3), *letters(2, reason="invalid", id="v"))
        assert (await findings(api))["dead_letters"][
            "because"
        ] == "3 × not_json from requests, 1 × invalid from requests"

    with_api(body)
