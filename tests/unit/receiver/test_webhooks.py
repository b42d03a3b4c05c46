"""Hostile and honest webhooks against the real server: whether each is accepted, its record, and its answer."""

import asyncio
import base64
import gzip
from typing import Any

import orjson
import pytest
from multidict import CIMultiDict

from backstop.runtime.process import failpoints
from receiver.limits import Limits
from schemas.base import RESPONSE_ID_CHARS_MAX
from schemas.codec import decode, encode
from schemas.dead_letters import DEAD_LETTER
from schemas.responses import RESPONSE_FACT, WebhookReceived
from tests.support.waiting import eventually
from tests.unit.receiver.ingress import EVENT, NOW_MS, OTHER_SECRET, SECRET, Ingress, raw_exchange, signed, with_ingress

NOW_S = NOW_MS // 1000


def event(**changed: Any) -> bytes:
    return orjson.dumps({**orjson.loads(EVENT), **changed})


def test_an_authentic_webhook_is_a_fact_before_it_is_answered() -> None:
    async def story(ingress: Ingress) -> None:
        response = await ingress.webhook()
        assert response.status == 200
        (fact,) = ingress.publisher.acked
        assert isinstance(fact, WebhookReceived)
        assert fact == WebhookReceived(
            id="wh_1/received",
            at_ms=NOW_MS,
            response_id="resp_123",
            webhook_id="wh_1",
            event_type="response.completed",
            sent_at_ms=NOW_MS,
            ended_at_ms=1_750_861_209_000,
            key_id=fact.key_id,
            raw=EVENT.decode(),
            claim_by_ms=NOW_MS + 10_000,
            forget_after_ms=75 * 3_600_000,
        )
        assert decode(RESPONSE_FACT, encode(fact)) == fact
        assert (
            await ingress.metric('backstop_webhooks_received_total{result="accepted",type="response.completed"}') == 1.0
        )
        assert await ingress.metric(f'backstop_webhook_verified_total{{key_id="{fact.key_id}"}}') == 1.0
        assert await ingress.metric("backstop_webhook_lag_seconds_sum") == 1.0

    with_ingress(story)


def test_while_a_secret_is_rotated_both_pass() -> None:
    async def story(ingress: Ingress) -> None:
        assert (await ingress.webhook(headers=signed(EVENT, secret=OTHER_SECRET))).status == 200
        assert (await ingress.webhook(headers=signed(EVENT, webhook_id="wh_2"))).status == 200
        assert len({fact.key_id for fact in ingress.publisher.acked if isinstance(fact, WebhookReceived)}) == 2

    with_ingress(story, webhook_secrets=f"{OTHER_SECRET},{SECRET}")


GOOD = signed(EVENT)
FORGED: dict[str, tuple[Any, bytes]] = {
    "wrong secret": (signed(EVENT, secret=OTHER_SECRET), EVENT),
    "empty key": (signed(EVENT, secret="whsec_"), EVENT),
    "body changed": (GOOD, EVENT.replace(b"resp_123", b"resp_124")),
    "301 s old": (signed(EVENT, at_s=NOW_S - 301), EVENT),
    "301 s ahead": (signed(EVENT, at_s=NOW_S + 301), EVENT),
    "no headers": ({}, EVENT),
    "id missing": ({name: GOOD[name] for name in GOOD if name != "webhook-id"}, EVENT),
    "id doubled": (CIMultiDict([*GOOD.items(), ("webhook-id", "wh_1")]), EVENT),
    "signature doubled": (CIMultiDict([*GOOD.items(), ("webhook-signature", GOOD["webhook-signature"])]), EVENT),
    "signature not ASCII": ({**GOOD, "webhook-signature": "v1,ä€"}, EVENT),
    "body not UTF-8": (GOOD, b"\xff\xfe" + EVENT),
    "timestamp of 5,000 digits": ({**GOOD, "webhook-timestamp": "1" * 5_000}, EVENT),
    "same id with another body": (GOOD, event(type="response.failed")),
    "empty body": (GOOD, b""),
    "unsigned v0": ({**GOOD, "webhook-signature": "v0," + GOOD["webhook-signature"][3:]}, EVENT),
}


def test_a_forged_webhook_leaves_no_record_and_always_gets_the_same_answer() -> None:
    async def story(ingress: Ingress) -> None:
        answers = set()
        for name, (headers, body) in FORGED.items():
            async with ingress.session.post(f"{ingress.url}/webhooks/openai", data=body, headers=headers) as response:
                assert response.status == 401, name
                answers.add((await response.read(), response.content_type))
        assert len(answers) == 1
        assert answers.pop()[1] == "application/problem+json"
        assert ingress.publisher.landed == []
        counted = [
            await ingress.metric(f'backstop_webhooks_received_total{{result="{result}",type="unverified"}}')
            for result in ("bad_signature", "stale", "malformed")
        ]
        assert counted == [8.0, 2.0, 5.0]

    with_ingress(story)


SIGNED_BUT: dict[str, tuple[bytes, str]] = {
    "a list": (b"[]", "not_an_event"),
    "a string": (b'"x"', "not_an_event"),
    "null": (b"null", "not_an_event"),
    "empty": (b"", "not_an_event"),
    "not JSON": (b"{", "not_an_event"),
    "not UTF-8": (b'{"type":"\xff"}', "not_an_event"),
    "a BOM": (b"\xef\xbb\xbf" + EVENT, "not_an_event"),
    "a lone surrogate": (b'{"type":"\\ud800"}', "not_an_event"),
    "an integer of 5,000 digits": (b'{"type":' + b"1" * 5_000 + b"}", "not_an_event"),
    "no type": (b'{"data":{"id":"resp_1"}}', "not_an_event"),
    "type no string": (event(type=1), "not_an_event"),
    "type with other characters": (event(type="response.\n"), "not_an_event"),
    "without data": (b'{"type":"response.completed"}', "not_an_event"),
    "data a list": (event(data=[]), "not_an_event"),
    "id no string": (event(data={"id": 7}), "not_an_event"),
    "id empty": (event(data={"id": ""}), "not_an_event"),
    "id of other characters": (event(data={"id": "../x\ty"}), "not_an_event"),
    "id too long": (event(data={"id": "r" * (RESPONSE_ID_CHARS_MAX + 1)}), "not_an_event"),
    "33 levels deep": (b'{"a":' * 33 + b"1" + b"}" * 33, "not_an_event"),
    "10,000 levels deep": (b"[" * 10_000 + b"]" * 10_000, "not_an_event"),
}


def test_an_authentic_webhook_that_is_not_an_event_becomes_a_dead_letter_and_is_answered_200() -> None:
    async def story(ingress: Ingress) -> None:
        for number, (name, (body, reason)) in enumerate(SIGNED_BUT.items(), start=1):
            response = await ingress.webhook(body, signed(body, webhook_id=f"wh_{number}"))
            assert response.status == 200, name
            assert len(ingress.publisher.acked) == number, name
            letter = decode(DEAD_LETTER, encode(ingress.publisher.acked[-1]))
            assert (letter.reason, letter.component, letter.key) == (reason, "receiver", f"wh_{number}"), name
            assert base64.b64decode(letter.value_base64 or "") == body, name
            assert dict(letter.headers)["webhook-id"] == base64.b64encode(f"wh_{number}".encode()).decode()
        assert ingress.publisher.on("responses") == []

    with_ingress(story)


OF_OTHER_APIS = [
    "batch.completed", "safety.flagged", "eval.run.failed", "fine_tuning.job.succeeded", "video.completed",
    "realtime.call.incoming", "responses.x", "x", "x" * 50_000, "video.é", "of a form to come",
]  # fmt: skip


@pytest.mark.parametrize("kind", OF_OTHER_APIS, ids=lambda kind: kind[:30])
def test_an_event_that_is_of_no_response_is_counted_and_leaves_nothing(kind: str) -> None:
    async def story(ingress: Ingress) -> None:
        assert (await ingress.webhook(event(type=kind))).status == 200
        assert ingress.publisher.landed == []
        assert await ingress.metric('backstop_webhooks_received_total{result="unknown_type",type="other"}') == 1.0

    with_ingress(story)


def test_replays_of_one_webhook_are_one_record_however_many_come_at_one_time() -> None:
    async def story(ingress: Ingress) -> None:
        for body in (EVENT, b"[]"):
            headers = signed(body)
            ingress.publisher.hold()
            replays = [asyncio.create_task(ingress.webhook(body, headers)) for _ in range(20)]
            await eventually(lambda: ingress.publisher.landed, 5, "the first to land")
            ingress.publisher.release()
            assert {reply.status for reply in await asyncio.gather(*replays)} == {200}
            assert (await ingress.webhook(body, headers)).status == 200
        assert len(ingress.publisher.landed) == 2
        assert (
            await ingress.metric('backstop_webhooks_received_total{result="repeated",type="response.completed"}')
            == 20.0
        )
        # Different content under the same id is a different webhook: both are authentic.
        assert (await ingress.webhook(event(type="response.failed"))).status == 200
        assert len(ingress.publisher.landed) == 3

    with_ingress(story)


def test_a_webhook_that_the_log_did_not_take_is_taken_when_it_comes_again() -> None:
    async def story(ingress: Ingress) -> None:
        ingress.publisher.hold()
        replies = await asyncio.gather(ingress.webhook(), ingress.webhook())
        assert {reply.status for reply in replies} == {503}
        ingress.publisher.release()
        assert (await ingress.webhook()).status == 200
        assert {fact.id for fact in ingress.publisher.landed} == {"wh_1/received"}

    with_ingress(story, limits=Limits(publish_s=0.1))


def test_the_memory_of_webhooks_is_bounded() -> None:
    async def story(ingress: Ingress) -> None:
        for number in (1, 2, 3, 1):
            assert (await ingress.webhook(EVENT, signed(EVENT, webhook_id=f"wh_{number}"))).status == 200
        assert len(ingress.publisher.landed) == 4, "the first was forgotten: the fold knows it by its id"

    with_ingress(story, limits=Limits(webhooks_remembered_max=2))


@pytest.mark.parametrize("kind", ["response.failed", "response.incomplete", "response.cancelled", "response.to_come"])
def test_a_response_event_is_kept_whether_its_type_is_known_or_not(kind: str) -> None:
    async def story(ingress: Ingress) -> None:
        assert (await ingress.webhook(event(type=kind))).status == 200
        (fact,) = ingress.publisher.acked
        assert isinstance(fact, WebhookReceived)
        assert fact.event_type == kind
        label = "other" if kind == "response.to_come" else kind
        assert await ingress.metric(f'backstop_webhooks_received_total{{result="accepted",type="{label}"}}') == 1.0

    with_ingress(story)


@pytest.mark.parametrize(
    ("created_at", "ended_at_ms"),
    [(1, 1_000), (1.5, 1_500), (None, None), (True, None), ("1", None), (-1, None), (10**12, None)],
)
def test_a_strange_end_time_costs_the_time_and_not_the_webhook(created_at: Any, ended_at_ms: int | None) -> None:
    async def story(ingress: Ingress) -> None:
        assert (await ingress.webhook(event(created_at=created_at))).status == 200
        (fact,) = ingress.publisher.acked
        assert isinstance(fact, WebhookReceived)
        assert fact.ended_at_ms == ended_at_ms

    with_ingress(story)


def test_a_foreign_response_is_kept_for_the_fold_to_decide() -> None:
    async def story(ingress: Ingress) -> None:
        assert (await ingress.webhook(event(data={"id": "resp_of_somebody_else"}))).status == 200
        assert [fact.key for fact in ingress.publisher.on("responses")] == ["resp_of_somebody_else"]

    with_ingress(story)


def test_a_repeat_is_answered_200_again_and_is_no_other_record() -> None:
    async def story(ingress: Ingress) -> None:
        for seconds in (0, 60):
            ingress.clock[0] = NOW_MS + seconds * 1000
            assert (await ingress.webhook(headers=signed(EVENT, at_s=NOW_S + seconds))).status == 200
        assert [fact.id for fact in ingress.publisher.acked] == ["wh_1/received"]

    with_ingress(story)


def test_without_the_broker_nothing_is_promised_and_later_all_is_well() -> None:
    async def story(ingress: Ingress) -> None:
        ingress.publisher.away = True
        response = await ingress.webhook()
        assert response.status == 503
        assert response.headers["Retry-After"] == "2"
        ingress.publisher.away = False
        assert (await ingress.webhook()).status == 200

    with_ingress(story)


def test_no_answer_comes_before_the_acknowledgement() -> None:
    async def story(ingress: Ingress) -> None:
        ingress.publisher.hold()
        asking = asyncio.create_task(ingress.webhook())
        await eventually(lambda: ingress.publisher.landed, 5, "the record to land")
        assert not asking.done()
        ingress.publisher.release()
        assert (await asking).status == 200

    with_ingress(story)


def test_an_acknowledgement_that_is_late_is_no_2xx() -> None:
    async def story(ingress: Ingress) -> None:
        ingress.publisher.hold()
        assert (await ingress.webhook()).status == 503
        assert len(ingress.publisher.landed) == 1  # it landed all the same: a duplicate, once it is repeated
        assert ingress.publisher.acked == []

    with_ingress(story, limits=Limits(publish_s=0.05))


@pytest.mark.parametrize(
    ("size_bytes", "status"), [(0, 200), (1, 200), (64 << 10, 200), ((64 << 10) + 1, 413), (1 << 20, 413)]
)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_may_have_64_kib_declared_or_counted(size_bytes: int, status: int, chunked: bool) -> None:
    body = b'"' + b"x" * (size_bytes - 2) + b'"' if size_bytes >= 2 else b"1" * size_bytes

    async def pieces() -> Any:
        for at in range(0, len(body), 10_000):
            yield body[at : at + 10_000]

    async def story(ingress: Ingress) -> None:
        data = pieces() if chunked else body
        async with ingress.session.post(f"{ingress.url}/webhooks/openai", data=data, headers=signed(body)) as response:
            assert response.status == status
        assert len(ingress.publisher.acked) == (status == 200)

    with_ingress(story)


def head(**headers: str) -> bytes:
    named = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"POST /webhooks/openai HTTP/1.1\r\nHost: x\r\n{named}\r\n".encode()


def test_a_gigabyte_that_is_only_declared_is_refused_unread() -> None:
    async def story(ingress: Ingress) -> None:
        answer = await raw_exchange(ingress.port, head(Content_Length=str(1 << 30)))
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"Connection: close" in answer
        asked_first = await raw_exchange(ingress.port, head(Content_Length=str(1 << 30), Expect="100-continue"))
        assert b"HTTP/1.1 413 " in asked_first

    with_ingress(story, limits=Limits(lingering_s=0.05))


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity, gzip", "x"])
def test_a_compressed_body_is_not_decompressed(encoding: str) -> None:
    async def story(ingress: Ingress) -> None:
        bomb = gzip.compress(b"0" * (1 << 20))
        response = await ingress.webhook(bomb, {**signed(bomb), "Content-Encoding": encoding})
        assert response.status == 415
        assert ingress.publisher.landed == []

    with_ingress(story)


def test_identity_is_no_compression() -> None:
    async def story(ingress: Ingress) -> None:
        assert (await ingress.webhook(headers={**GOOD, "Content-Encoding": "identity"})).status == 200

    with_ingress(story)


def test_a_body_that_does_not_come_is_a_408() -> None:
    async def story(ingress: Ingress) -> None:
        answer = await raw_exchange(ingress.port, head(Content_Length="100") + b"{")
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert ingress.publisher.landed == []

    with_ingress(story, limits=Limits(webhook_body_s=0.1, lingering_s=0.05))


def test_a_body_that_is_cut_off_is_no_event() -> None:
    async def story(ingress: Ingress) -> None:
        _reader, writer = await asyncio.open_connection("127.0.0.1", ingress.port)
        writer.write(head(Content_Length="100", **{name.replace("-", "_"): text for name, text in GOOD.items()}) + b"{")
        await writer.drain()
        writer.transport.abort()
        malformed = 'backstop_webhooks_received_total{result="malformed",type="unverified"}'
        await eventually(lambda: ingress.metric(malformed), 5, "the cut body to be counted")
        assert ingress.publisher.landed == []

    with_ingress(story)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_only_post_is_answered(method: str) -> None:
    async def story(ingress: Ingress) -> None:
        status, document, response = await ingress.call(method, "/webhooks/openai")
        assert status == 405
        assert document["code"] == "method_not_allowed"
        assert response.headers["Allow"] == "POST"

    with_ingress(story)


def test_no_address_redirects() -> None:
    async def story(ingress: Ingress) -> None:
        for path in ("/webhooks/openai/", "/webhooks", "//webhooks/openai", "/webhooks/openai/x"):
            status, document, _ = await ingress.call("POST", path, data=EVENT, headers=GOOD, allow_redirects=False)
            assert (status, document["code"]) == (404, "not_found"), path

    with_ingress(story)


@pytest.mark.parametrize(("place", "landed"), [("receiver.webhook.verified", 0), ("receiver.webhook.acked", 1)])
def test_the_failpoints_stand_before_the_record_and_before_the_answer(place: str, landed: int) -> None:
    async def story(ingress: Ingress) -> None:
        failpoints.arm(f"{place}=raise")
        assert (await ingress.webhook()).status == 500
        assert len(ingress.publisher.acked) == landed
        assert (await ingress.webhook()).status == 200

    try:
        with_ingress(story)
    finally:
        failpoints.arm("")
