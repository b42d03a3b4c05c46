"""The place of a waiting job, what it waits for, and about how long, over a real server on every kind of database."""

from typing import Any

from backstop.readmodel.lists import PLACED_MAX, sights_of
from backstop.readmodel.places import GRANT_AGE_MS_MAX
from backstop.readmodel.rows import Place
from schemas.base import Priority
from schemas.jobs import JobAdmitted, RetryOf, Turn
from streams.retries import own_id_of_retry
from tests.unit.backstop.readmodel.conftest import Bench
from tests.unit.backstop.readmodel.logs import cancelled, submitted
from tests.unit.backstop.readmodel.test_costs import DAY_MS, TODAY, api

NOW_MS = TODAY * DAY_MS
FAR_MS = NOW_MS + DAY_MS


def waiting(job_id: str, at_ms: int, priority: Priority = "normal", tenant: str = "default", model: str = "m") -> Any:
    turn = Turn(waits=True, priority=priority)
    return submitted(job_id, NOW_MS - at_ms, turn=turn, tenant=tenant, model=model, deadline_at_ms=FAR_MS)


def granted(job_id: str, at_ms: int, waited_for: str = "tokens_per_min") -> JobAdmitted:
    return JobAdmitted(
        id=f"{job_id}/admitted", at_ms=NOW_MS - at_ms, job_id=job_id, reserved_tokens=9, waited_for=waited_for
    )


def test_a_waiting_job_is_told_its_place_its_reason_and_about_how_long(run) -> None:
    async def body(bench: Bench) -> None:
        async with api(bench) as client:
            await client.take(*(waiting(f"w{number}", 5_000 - number) for number in range(20)))
            told = await client.why("w19")
            assert told["turn"] == {"priority": "normal", "place": 20, "waiting": 20}
            assert told["sentences"][1] == "Waiting: turn of m, time unknown, place 20 of 20 (normal)."

            grants = [granted(f"w{number}", 4_000 - 500 * number) for number in range(5)]
            await client.take(*grants, waiting("other", 9_000, model="n"), waiting("bulk", 9_000, "bulk"))
            await client.take(waiting("acme:theirs", 9_000, tenant="acme"))
            told = await client.why("w19")
            assert told["status"] == "waiting"
            assert told["turn"] == {
                "priority": "normal", "place": 15, "waiting": 15, "reason": "tokens_per_min", "about_ms": 7_500,
            }  # fmt: skip
            assert told["sentences"][:2] == [
                "The job waits for its turn under the limits of m, since 4 s.",
                "Waiting: tokens_per_min of m, about 7 s, place 15 of 15 (normal).",
            ]
            assert (await client.why("w5"))["turn"]["place"] == 1
            assert (await client.why("bulk"))["turn"] == {"priority": "bulk", "place": 1, "waiting": 1}
            assert (await client.why("theirs", tenant="acme"))["turn"]["waiting"] == 1
            rows = [await client.projection.there(f"w{number}") for number in range(5, 20)]
            sights = await client.projection.database.read(lambda conn: sights_of(conn, rows, NOW_MS))
            assert sights["w5"].place == Place("m", "normal", 1, 15, "tokens_per_min", 500)
            assert len(sights) == PLACED_MAX, "a long list shows the places of its first jobs"
            assert "turn" not in await client.why("w0")

    run(body)


def test_a_pace_of_long_ago_gives_no_estimate_and_a_tenants_own_limit_is_named(run) -> None:
    async def body(bench: Bench) -> None:
        async with api(bench) as client:
            old = GRANT_AGE_MS_MAX + 1_000
            await client.take(*(waiting(f"w{number}", old + 9_000 - number) for number in range(4)))
            await client.take(
                *(granted(f"w{number}", old + 8_000 - number, "tenant_concurrent") for number in range(2))
            )
            told = await client.why("w3")
            assert told["turn"] == {"priority": "normal", "place": 2, "waiting": 2, "reason": "tenant_concurrent"}
            assert told["sentences"][1] == (
                "Waiting: concurrent of tenant default on m, time unknown, place 2 of 2 (normal)."
            )

    run(body)


def test_an_ended_job_names_the_job_that_repeats_it_and_the_other_way_round(run) -> None:
    async def body(bench: Bench) -> None:
        async with api(bench) as client:
            again = own_id_of_retry("acme:a")
            retry = RetryOf(job_id="acme:a", why="w")
            await client.take(
                submitted("acme:a", tenant="acme"), cancelled("acme:a").model_copy(update={"tenant": "acme"}),
                submitted(f"acme:{again}", tenant="acme", retry=retry),
            )  # fmt: skip
            assert f"It was retried as the job {again}." in (await client.why("a", tenant="acme"))["sentences"]
            assert "It repeats the job a, which had ended." in (await client.why(again, tenant="acme"))["sentences"]

    run(body)
