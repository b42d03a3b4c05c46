"""Webhooks as a receiver meets them: signed over the bytes sent, retried, lost, late, doubled, forged."""

import asyncio
from typing import Any

import pytest
from openai import InvalidWebhookSignatureError
from standardwebhooks import Webhook, WebhookVerificationError

from backstop.simulator.config import EndpointProfile
from backstop.simulator.signing import signature
from tests.support.waiting import eventually
from tests.unit.backstop.simulator.harness import NEVER_S, SECRET, Received, World, profile, world

OTHER_SECRET = "whsec_" + "QUFB" * 8


def _passes(webhook: Received, secret: str = SECRET) -> bool:
    try:
        Webhook(secret).verify(webhook.body, webhook.headers)
    except WebhookVerificationError:
        return False
    return True


def test_the_official_vector_is_signed_as_openai_signs_it() -> None:
    body = (
        b'{"id": "evt_685c059ae3a481909bdc86819b066fb6", "object": "event", "created_at": 1750861210, '
        b'"type": "response.completed", "data": {"id": "resp_123"}}'
    )
    signed = signature(
        EndpointProfile("http://x", (SECRET,)).keys, "wh_685c059ae39c8190af8c71ed1022a24d", 1750861210, body
    )
    assert signed == "v1,gUAg4R2hWouRZqRQG4uJypNS8YK885G838+EHb4nKBY="


def test_a_webhook_verifies_with_the_sdk_and_with_an_independent_verifier() -> None:
    async def case() -> None:
        async with world() as w:
            created = await w.create()
            (webhook,) = await w.webhooks(1)
            assert webhook.event["type"] == "response.completed"
            assert webhook.event["data"] == {"id": created.id}
            w.sdk.webhooks.verify_signature(webhook.body, webhook.headers, secret=SECRET)
            event: Any = w.sdk.webhooks.unwrap(webhook.body, webhook.headers, secret=SECRET)
            assert event.data.id == created.id
            Webhook(SECRET).verify(webhook.body, webhook.headers)
            assert webhook.headers["user-agent"].startswith("OpenAI/1.0")
            assert webhook.headers["webhook-id"].startswith("wh_")

    asyncio.run(case())


def test_a_refused_webhook_is_sent_again_with_the_same_id_until_it_is_taken() -> None:
    async def case() -> None:
        async with world(profile(webhooks={"schedule_s": [0, 0.02, 0.02, 0.02]})) as w:
            w.receiver.statuses = [503, 307]
            await w.create()
            webhooks = await w.webhooks(3)
            assert len({webhook.headers["webhook-id"] for webhook in webhooks}) == 1
            assert len({webhook.body for webhook in webhooks}) == 1
            await eventually(lambda: _outcomes(w, ["refused", "refused", "delivered"]))
            assert [line["attempt"] for line in await w.ledger("deliveries")] == [1, 2, 3]
            assert (await w.control("GET", "stats"))["webhooks_pending"] == 0

    asyncio.run(case())


def test_a_webhook_that_is_never_acknowledged_is_given_up_after_the_schedule() -> None:
    async def case() -> None:
        async with world(profile(webhooks={"schedule_s": [0, 0.02]})) as w:
            w.receiver.statuses = [500, 500]
            await w.create()
            await eventually(lambda: _outcomes(w, ["refused", "refused", "gave_up"]))

    asyncio.run(case())


def test_a_receiver_that_does_not_answer_times_out() -> None:
    async def case() -> None:
        async with world(profile(webhooks={"schedule_s": [0], "timeout_real_s": 0.1})) as w:
            w.receiver.stall = True
            await w.create()
            await eventually(lambda: _outcomes(w, ["timeout", "gave_up"]))

    asyncio.run(case())


def test_a_410_disables_the_endpoint_if_the_profile_says_so() -> None:
    async def case() -> None:
        async with world(profile(webhooks={"schedule_s": [0, 0.02], "disable_on_410": True})) as w:
            w.receiver.statuses = [410]
            await w.create()
            await eventually(lambda: _outcomes(w, ["refused", "disabled"]))
            assert (await w.control("GET", "webhook"))["endpoints"][0]["disabled"] is True

    asyncio.run(case())


async def _outcomes(w: World, wanted: list[str]) -> bool:
    lines = await w.ledger("deliveries")
    return [line["outcome"] for line in lines] == wanted


def test_a_lost_webhook_never_comes_and_is_in_the_ledger() -> None:
    async def case() -> None:
        async with world() as w:
            await w.ended((await w.create(fault="webhook_lost")).id)
            (line,) = await w.ledger("deliveries")
            assert (line["outcome"], line["attempt"], line["job"]) == ("lost", 0, "job_1")
            assert w.receiver.got == []

    asyncio.run(case())


def test_an_image_safety_failure_sends_no_webhook() -> None:
    async def case() -> None:
        async with world() as w:
            assert (await w.ended((await w.create(fault="run_image_safety")).id)).status == "failed"
            assert [line["outcome"] for line in await w.ledger("deliveries")] == ["lost"]

    asyncio.run(case())


def test_a_late_webhook_comes_after_its_delay() -> None:
    async def case() -> None:
        async with world(time_scale=10) as w:
            await w.create(fault="webhook_late=3")
            (webhook,) = await w.webhooks(1)
            assert _passes(webhook)
            (line,) = await eventually(lambda: w.ledger("deliveries"))
            assert 250 <= line["delay_ms"] < 3000

    asyncio.run(case())


def test_a_doubled_webhook_comes_twice_with_one_id() -> None:
    async def case() -> None:
        async with world() as w:
            await w.create(fault="webhook_twice")
            first, second = await w.webhooks(2)
            assert first.headers["webhook-id"] == second.headers["webhook-id"]
            assert first.body == second.body

    asyncio.run(case())


def test_an_early_webhook_is_delivered_before_the_reply_to_create() -> None:
    async def case() -> None:
        async with world() as w:
            created = await w.create(fault="webhook_early", metadata={"sim_run_s": NEVER_S})
            assert created.status == "queued"
            assert [webhook.event["data"]["id"] for webhook in w.receiver.got] == [created.id]
            assert (await w.sdk.responses.retrieve(created.id)).status == "completed"

    asyncio.run(case())


def test_reordered_webhooks_come_in_another_order_than_the_ends() -> None:
    async def case() -> None:
        wanted = profile(rates={"webhook_reordered": 1.0})
        async with world(wanted, time_scale=10) as w:
            for number in range(8):
                created = await w.create(job=f"job_{number}", metadata={"sim_run_s": NEVER_S})
                await w.control("POST", "finish", {"response": created.id})
            ends = [line["response"] for line in await w.ledger("truth") if line["state"] == "completed"]
            arrivals = [webhook.event["data"]["id"] for webhook in await w.webhooks(8)]
            assert sorted(arrivals) == sorted(ends)
            assert arrivals != ends

    asyncio.run(case())


@pytest.mark.parametrize(
    "variant", ["secret", "empty_key", "body", "old", "future", "unsigned"], ids=lambda name: f"forged_{name}"
)
def test_a_forged_webhook_does_not_verify(variant: str) -> None:
    async def case() -> None:
        async with world() as w:
            created = await w.create(fault=f"webhook_forged_{variant}")
            webhooks = await w.webhooks(2)
            assert sorted(_passes(webhook) for webhook in webhooks) == [False, True]
            (forged,) = [webhook for webhook in webhooks if not _passes(webhook)]
            with pytest.raises((InvalidWebhookSignatureError, ValueError)):
                w.sdk.webhooks.verify_signature(forged.body, forged.headers, secret=SECRET)
            lines = await eventually(lambda: _lines(w, 2))
            assert {line["variant"]: line["authentic"] for line in lines} == {None: True, f"forged_{variant}": False}
            assert (created.id in forged.body.decode()) is (variant != "body")

    asyncio.run(case())


async def _lines(w: World, count: int) -> list[dict[str, Any]] | None:
    lines: list[dict[str, Any]] = await w.ledger("deliveries")
    return lines if len(lines) >= count else None


@pytest.mark.parametrize("variant", ["unknown_type", "foreign_id", "not_json", "not_utf8", "list", "huge"])
def test_an_odd_webhook_is_authentic(variant: str) -> None:
    async def case() -> None:
        async with world() as w:
            await w.create(fault=f"webhook_{variant}", metadata={"sim_run_s": "0"})
            webhooks = await w.webhooks(2)
            if variant == "not_utf8":  # the verifier decodes; the signature over the bytes is right all the same
                assert sum(b"\xff" in webhook.body for webhook in webhooks) == 1
                odd = next(webhook for webhook in webhooks if b"\xff" in webhook.body)
                stamp, keys = int(odd.headers["webhook-timestamp"]), EndpointProfile("http://x", (SECRET,)).keys
                expected = signature(keys, odd.headers["webhook-id"], stamp, odd.body)
                assert odd.headers["webhook-signature"] == expected
            else:
                assert [_verifies(webhook) for webhook in webhooks] == [True, True]

    asyncio.run(case())


def _verifies(webhook: Received) -> bool:
    stamp, keys = int(webhook.headers["webhook-timestamp"]), EndpointProfile("http://x", (SECRET,)).keys
    return webhook.headers["webhook-signature"] == signature(keys, webhook.headers["webhook-id"], stamp, webhook.body)


def test_while_a_secret_rotates_a_webhook_carries_both_signatures() -> None:
    async def case() -> None:
        async with world() as w:
            both = {"endpoints": [{"url": w.receiver.url, "secrets": [SECRET, OTHER_SECRET]}]}
            await w.control("POST", "webhook", both)
            await w.create()
            (webhook,) = await w.webhooks(1)
            assert _passes(webhook)
            assert _passes(webhook, OTHER_SECRET)
            await w.control("POST", "webhook", {"url": w.receiver.url, "secret": OTHER_SECRET})
            await w.create(job="job_2")
            webhook = (await w.webhooks(2))[1]
            assert not _passes(webhook)
            assert _passes(webhook, OTHER_SECRET)

    asyncio.run(case())


def test_each_endpoint_gets_a_webhook_of_its_own() -> None:
    async def case() -> None:
        async with world() as w:
            urls = [w.receiver.url, w.receiver.url + "?second"]
            await w.control("POST", "webhook", {"endpoints": [{"url": url, "secrets": [SECRET]} for url in urls]})
            await w.create()
            first, second = await w.webhooks(2)
            assert first.headers["webhook-id"] != second.headers["webhook-id"]

    asyncio.run(case())


def test_a_webhook_can_be_emitted_that_nothing_happened_for() -> None:
    async def case() -> None:
        async with world() as w:
            sent = await w.control("POST", "emit", {"response": "resp_1", "type": "response.failed"})
            (webhook,) = await w.webhooks(1)
            assert _passes(webhook)
            assert webhook.event["data"] == {"id": "resp_1"}
            assert [webhook.headers["webhook-id"]] == sent["webhook_ids"]
            await w.control("POST", "emit", {"response": "resp_1", "variant": "forged_body"})
            assert not _passes((await w.webhooks(2))[1])

    asyncio.run(case())


def test_webhooks_are_held_during_an_outage_that_holds_them() -> None:
    async def case() -> None:
        async with world() as w:
            created = await w.create(metadata={"sim_run_s": NEVER_S})
            await w.control("POST", "outage", {"for_s": 0.3, "mode": "none", "webhooks": "held"})
            await w.control("POST", "finish", {"response": created.id})
            assert w.receiver.got == []
            await w.webhooks(1)
            (line,) = await eventually(lambda: w.ledger("deliveries"))
            assert line["delay_ms"] >= 200

    asyncio.run(case())
