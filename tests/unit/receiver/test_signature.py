import base64
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import InvalidWebhookSignatureError, OpenAI
from standardwebhooks import Webhook, WebhookVerificationError

from backstop.runtime.errors import ConfigurationError
from receiver.ingress.signature import NotVerified, Verified, WebhookKey, parse_key, verify
from receiver.settings import ReceiverSettings
from tests.unit.receiver.ingress import EVENT, NOW_MS, OTHER_SECRET, SECRET, signed

VECTOR_BODY = (
    b'{"id": "evt_685c059ae3a481909bdc86819b066fb6", "object": "event", "created_at": 1750861210, '
    b'"type": "response.completed", "data": {"id": "resp_123"}}'
)
VECTOR_HEADERS = {
    "webhook-id": "wh_685c059ae39c8190af8c71ed1022a24d",
    "webhook-timestamp": "1750861210",
    "webhook-signature": "v1,gUAg4R2hWouRZqRQG4uJypNS8YK885G838+EHb4nKBY=",
}
KEY = parse_key(SECRET)
OTHER_KEY = parse_key(OTHER_SECRET)


def verdict(
    body: bytes = EVENT,
    headers: dict[str, str] | list[tuple[str, str]] | None = None,
    *,
    keys: tuple[WebhookKey, ...] = (KEY,),
    now_ms: int = NOW_MS,
) -> Verified | NotVerified:
    given_headers = signed(body) if headers is None else headers
    pairs = list(given_headers.items()) if isinstance(given_headers, dict) else given_headers
    return verify(body, pairs, keys=keys, now_ms=now_ms, tolerance_s=300)


def changed(**headers: str) -> dict[str, str]:
    return {**signed(EVENT), **{name.replace("_", "-"): value for name, value in headers.items()}}


def test_openais_own_vector_passes() -> None:
    assert verdict(VECTOR_BODY, VECTOR_HEADERS) == Verified(KEY.key_id, VECTOR_HEADERS["webhook-id"], NOW_MS)


def test_headers_count_in_any_case_and_order() -> None:
    pairs = [(name.title(), value) for name, value in reversed(VECTOR_HEADERS.items())]
    assert isinstance(verdict(VECTOR_BODY, pairs), Verified)


@pytest.mark.parametrize("age_s", [-300, -299, 0, 299, 300])
def test_a_timestamp_within_the_tolerance_passes_at_its_edges_too(age_s: int) -> None:
    assert isinstance(verdict(headers=signed(EVENT, at_s=NOW_MS // 1000 - age_s)), Verified)


@pytest.mark.parametrize("age_s", [-301, 301, 1_000_000])
def test_a_timestamp_beyond_the_tolerance_is_stale(age_s: int) -> None:
    assert verdict(headers=signed(EVENT, at_s=NOW_MS // 1000 - age_s)) == NotVerified("stale")


def test_300_seconds_and_a_part_of_the_next_still_pass_as_in_the_sdk() -> None:
    assert isinstance(verdict(now_ms=NOW_MS + 300_999), Verified)
    assert verdict(now_ms=NOW_MS + 301_000) == NotVerified("stale")


def test_any_of_several_secrets_passes_and_is_named() -> None:
    for secret, key in ((SECRET, KEY), (OTHER_SECRET, OTHER_KEY)):
        found = verdict(headers=signed(EVENT, secret=secret), keys=(OTHER_KEY, KEY))
        assert isinstance(found, Verified)
        assert found.key_id == key.key_id
    assert KEY.key_id != OTHER_KEY.key_id


def test_any_of_several_signatures_passes_and_other_versions_are_passed_over() -> None:
    good, wrong = signed(EVENT)["webhook-signature"], signed(EVENT, secret=OTHER_SECRET)["webhook-signature"]
    for header in (f"{wrong} {good}", f"{good} {wrong}", f"v1a,xyz {good}", f"v2,{good[3:]}  {good}"):
        assert isinstance(verdict(headers=changed(webhook_signature=header)), Verified), header


@pytest.mark.parametrize(
    "header",
    [
        "v1,",
        "v1,AAAA",
        "v2,{good}",
        "{good}",
        "V1,{good}",
        "v1, {good}",
        "v1,{good}=",
        "v1,é",
        "v1,\udcff",
        "x" * 4_000,
    ],
)
def test_a_wrong_signature_is_refused(header: str) -> None:
    good = signed(EVENT)["webhook-signature"].removeprefix("v1,")
    assert verdict(headers=changed(webhook_signature=header.format(good=good))) == NotVerified("bad_signature")


def test_another_secret_another_body_another_id_and_another_time_are_refused() -> None:
    assert verdict(headers=signed(EVENT, secret=OTHER_SECRET)) == NotVerified("bad_signature")
    assert verdict(EVENT + b" ", signed(EVENT)) == NotVerified("bad_signature")
    assert verdict(headers=changed(webhook_id="wh_2")) == NotVerified("bad_signature")
    assert verdict(headers=changed(webhook_timestamp=str(NOW_MS // 1000 - 1))) == NotVerified("bad_signature")


def test_without_keys_nothing_passes() -> None:
    assert verdict(keys=()) == NotVerified("bad_signature")


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_each_header_must_be_there_exactly_once(name: str) -> None:
    headers = signed(EVENT)
    pairs = list(headers.items())
    assert verdict(headers=[pair for pair in pairs if pair[0] != name]) == NotVerified("missing_header")
    assert verdict(headers=[*pairs, (name.upper(), headers[name])]) == NotVerified("repeated_header")
    assert verdict(headers={**headers, name: ""}) == NotVerified("malformed_header")


@pytest.mark.parametrize(
    "timestamp", ["-1", "1.5", " 1750861210", "1750861210\n", "١٧٥٠", "1e9", "9" * 13, "1" * 5_000, "0x10", "1_000"]
)
def test_a_timestamp_that_is_no_plain_number_is_malformed(timestamp: str) -> None:
    assert verdict(headers=changed(webhook_timestamp=timestamp)) == NotVerified("malformed_header")


@pytest.mark.parametrize("webhook_id", ["a b", "ä", "x" * 129, "wh\n", "wh/1"])
def test_an_id_of_other_characters_is_malformed(webhook_id: str) -> None:
    assert verdict(headers=changed(webhook_id=webhook_id)) == NotVerified("malformed_header")


def test_a_signature_header_may_hold_16_values_in_4_kib() -> None:
    good = signed(EVENT)["webhook-signature"]
    assert isinstance(verdict(headers=changed(webhook_signature=" ".join(["v1,x"] * 15 + [good]))), Verified)
    assert verdict(headers=changed(webhook_signature=" ".join(["v1,x"] * 16 + [good]))) == NotVerified(
        "malformed_header"
    )
    assert verdict(headers=changed(webhook_signature=good + " " * 4_096)) == NotVerified("malformed_header")


@pytest.mark.parametrize("size_bytes", [24, 32, 64])
def test_a_secret_of_24_to_64_bytes_is_taken(size_bytes: int) -> None:
    key = parse_key("whsec_" + base64.b64encode(bytes(range(size_bytes))).decode())
    assert key.secret == bytes(range(size_bytes))


@pytest.mark.parametrize(
    "secret",
    [
        "", "whsec_", base64.b64encode(b"x" * 32).decode(), "WHSEC_" + "A" * 44, "whsec_" + "A" * 28,
        "whsec_" + base64.b64encode(b"x" * 23).decode(), "whsec_" + base64.b64encode(b"x" * 65).decode(),
        "whsec_" + "A" * 43, "whsec_" + "A" * 42 + "*=", "whsec_ä" + "A" * 43, "whsec_ " + "A" * 44,
        "whsec_" + base64.urlsafe_b64encode(b"\xff" * 32).decode(),
    ],
)  # fmt: skip
def test_what_is_no_webhook_secret_keeps_the_process_from_starting(secret: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        ReceiverSettings(webhook_secrets=(SECRET, secret)).webhook_keys()
    assert "secret 2" in str(refused.value)
    assert len(secret) < 10 or secret not in str(refused.value)


def test_a_key_does_not_show_its_secret() -> None:
    assert "secret" not in repr(KEY)
    assert base64.b64decode(SECRET[6:])[:4].hex() not in KEY.key_id


names = st.sampled_from(["webhook-id", "Webhook-Timestamp", "webhook-signature", "x"]) | st.text(max_size=20)
any_text = st.text(st.characters(), max_size=80)
headers_of_any_kind = st.lists(st.tuples(names, any_text), max_size=6)


@settings(deadline=None)  # how fast it is says nothing here, and the machine is shared
@given(st.binary(max_size=200), headers_of_any_kind, st.integers(0, 10**16))
def test_any_headers_and_any_body_give_a_refusal_and_never_raise(
    body: bytes, headers: list[tuple[str, str]], now_ms: int
) -> None:
    assert isinstance(verify(body, headers, keys=(KEY, OTHER_KEY), now_ms=now_ms, tolerance_s=300), NotVerified)


@settings(deadline=None)  # how fast it is says nothing here, and the machine is shared
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200), st.integers(0, 200), st.booleans(), any_text)
def test_we_agree_with_standardwebhooks_and_with_the_sdk(body: str, flip_at: int, tamper: bool, noise: str) -> None:
    """Both read the real clock, so these webhooks are stamped with it."""
    now_s = int(datetime.now(tz=UTC).timestamp())
    raw = body.encode()
    headers = signed(raw, at_s=now_s)
    if tamper:
        text = headers["webhook-signature"]
        at = 3 + flip_at % (len(text) - 3)
        headers["webhook-signature"] = text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]
    headers["x-noise"] = noise
    ours = isinstance(verdict(raw, headers, now_ms=now_s * 1000), Verified)
    assert ours == _sdk_accepts(raw, headers)
    assert ours == _standardwebhooks_accepts(raw, headers) or tamper
    assert ours != tamper


def _sdk_accepts(body: bytes, headers: dict[str, str]) -> bool:
    try:
        CLIENT.webhooks.verify_signature(body, headers, secret=SECRET)
    except InvalidWebhookSignatureError:
        return False
    return True


def _standardwebhooks_accepts(body: bytes, headers: dict[str, str]) -> bool:
    try:
        Webhook(SECRET).verify(body, headers, json_parse=False)
    except (WebhookVerificationError, ValueError):
        return False
    return True


CLIENT = OpenAI(api_key="sk-not-used")
