"""OpenAI's SDK and the Standard Webhooks library accept the requests sent, and no altered ones."""

import base64
import json
import time

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from backstop.outgoing.deliveries import asked, event_id, planned
from backstop.outgoing.secrets import SecretKeys
from backstop.outgoing.wire import body_of, headers_of
from backstop.runtime.errors import ConfigurationError
from receiver.ingress.signature import Verified, parse_key, verify
from schemas.statuses import JobOutcome
from schemas.webhook_endpoints import SecretRef
from tests.unit.backstop.outgoing.facts import DELIVERY, DELIVERY_ID, ENDPOINT_ID, OTHER_ENDPOINT_ID, result

KEY = SecretStr("k" * 32)
KEYS = SecretKeys((KEY,))
NEW, OLD = SecretRef(key_id=KEYS.current_id, number=2), SecretRef(key_id=KEYS.current_id, number=1)


def secret(ref: SecretRef) -> bytes:
    found = KEYS.secret(ENDPOINT_ID, ref)
    assert found is not None
    return found


def sent(*refs: SecretRef, at_s: int | None = None) -> tuple[bytes, dict[str, str]]:
    body = body_of(DELIVERY, event_id(DELIVERY))
    return body, headers_of(DELIVERY_ID, at_s or int(time.time()), body, [secret(ref) for ref in refs], "Backstop/0")


@pytest.mark.parametrize("client", [OpenAI(api_key="x"), AsyncOpenAI(api_key="x")], ids=["sync", "async"])
def test_openais_sdk_unwraps_it(client: OpenAI | AsyncOpenAI) -> None:
    body, headers = sent(NEW)
    event = client.webhooks.unwrap(body, headers, secret=KEYS.shown(ENDPOINT_ID, NEW))
    assert isinstance(event, openai.types.webhooks.ResponseCompletedWebhookEvent)
    assert (event.type, event.object, event.data.id) == ("response.completed", "event", "resp_1")
    assert (event.created_at, event.id) == (DELIVERY.created_at_s, event_id(DELIVERY))


def test_the_library_of_standard_webhooks_verifies_it() -> None:
    body, headers = sent(NEW)
    assert Webhook(KEYS.shown(ENDPOINT_ID, NEW)).verify(body, headers) == json.loads(body)


def test_while_a_secret_is_rotated_either_verifies() -> None:
    body, headers = sent(NEW, OLD)
    for ref in (NEW, OLD):
        shown = KEYS.shown(ENDPOINT_ID, ref)
        assert Webhook(shown).verify(body, headers)
        OpenAI(api_key="x").webhooks.verify_signature(body, headers, secret=shown)
        verdict = verify(
            body, headers.items(), keys=[parse_key(shown)], now_ms=int(time.time() * 1000), tolerance_s=300
        )
        assert isinstance(verdict, Verified)
    assert headers["webhook-signature"].count("v1,") == 2


def test_another_secret_another_body_and_an_old_stamp_are_refused() -> None:
    body, headers = sent(NEW)
    with pytest.raises(WebhookVerificationError):
        Webhook(KEYS.shown(ENDPOINT_ID, OLD)).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(KEYS.shown(ENDPOINT_ID, NEW)).verify(body + b" ", headers)
    stale = sent(NEW, at_s=int(time.time()) - 301)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        OpenAI(api_key="x").webhooks.unwrap(*stale, secret=KEYS.shown(ENDPOINT_ID, NEW))


def test_each_attempt_has_the_same_bytes_and_id_and_a_stamp_of_its_own() -> None:
    first, second = sent(NEW, at_s=1_000), sent(NEW, at_s=2_000)
    assert first[0] == second[0]
    assert first[1]["webhook-id"] == second[1]["webhook-id"] == DELIVERY_ID
    assert (first[1]["webhook-timestamp"], second[1]["webhook-timestamp"]) == ("1000", "2000")
    assert first[1]["webhook-signature"] != second[1]["webhook-signature"]


@pytest.mark.parametrize(
    ("outcome", "event_type"),
    [
        ("completed", "response.completed"), ("failed", "response.failed"), ("incomplete", "response.incomplete"),
        ("cancelled", "response.cancelled"), ("expired", "response.failed"), ("rejected", "response.failed"),
    ],
)  # fmt: skip
def test_each_outcome_has_its_event(outcome: JobOutcome, event_type: str) -> None:
    delivery = planned(result(outcome=outcome), ENDPOINT_ID, 1).delivery
    assert (delivery.event_type, delivery.response_id, delivery.job_id) == (event_type, "resp_1", "acme:resp_1")


def test_ids_are_derived_from_the_job_the_endpoint_and_nothing_else() -> None:
    first = planned(result(), ENDPOINT_ID, 1)
    assert first == planned(result(), ENDPOINT_ID, 1)
    assert first.delivery_id == asked(result(), ENDPOINT_ID, 5).delivery_id
    others = [
        planned(result(), OTHER_ENDPOINT_ID, 1), planned(result("acme:resp_2"), ENDPOINT_ID, 1),
        planned(result(finished_at_ms=9_000), ENDPOINT_ID, 1),  # the same id again, for another job
    ]  # fmt: skip
    assert len({first.delivery_id, *(other.delivery_id for other in others)}) == 4
    assert event_id(first.delivery) == event_id(others[0].delivery), "one event has one id at every endpoint"


def test_a_secret_belongs_to_one_endpoint_and_one_number() -> None:
    secrets = {KEYS.secret(endpoint, ref) for endpoint in (ENDPOINT_ID, OTHER_ENDPOINT_ID) for ref in (NEW, OLD)}
    assert len(secrets) == 4
    assert all(value is not None and len(value) == 32 for value in secrets)
    assert len(base64.b64decode(KEYS.shown(ENDPOINT_ID, NEW).removeprefix("whsec_"))) == 32


def test_a_key_that_was_rotated_out_still_makes_its_secrets_and_an_unknown_one_none() -> None:
    both = SecretKeys((SecretStr("n" * 32), KEY))
    assert both.current_id != KEYS.current_id
    assert both.secret(ENDPOINT_ID, NEW) == KEYS.secret(ENDPOINT_ID, NEW)
    assert KEYS.secret(ENDPOINT_ID, SecretRef(key_id=both.current_id, number=1)) is None


@pytest.mark.parametrize("keys", [(), (SecretStr("short"),), (KEY, SecretStr("")), (KEY,) * 9])
def test_without_a_real_key_nothing_starts(keys: tuple[SecretStr, ...]) -> None:
    with pytest.raises(ConfigurationError, match="BACKSTOP_OUTGOING_KEYS") as refused:
        SecretKeys(keys)
    assert "kkkk" not in str(refused.value)
