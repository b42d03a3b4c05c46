"""The words of an error are found in each form in which servers tell one, and decide its cause where no code does."""

from typing import Any

import pytest

from streams.openai.answers import ProviderAnswer, read_create, read_poll
from streams.openai.causes import Said, verdict
from streams.openai.foreign_json import parse, unwrapped
from streams.provider import Rejected, Seen
from tests.unit.streams.workers.misbehaving import response

SAID = "the words"


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": SAID}}, {"error": SAID}, {"error": {"error": {"message": SAID}}}, {"errors": [SAID]},
        {"errors": [{"message": SAID}]}, {"error": [{"message": SAID}]}, {"error_message": SAID}, {"Message": SAID},
        {"errorMessage": SAID}, {"reason": SAID}, {"error": "invalid", "error_description": SAID},
        {"fault": {"faultstring": SAID, "detail": {"errorcode": "x"}}}, {"status": {"message": SAID}},
        [{"error": {"message": SAID}}], {"error": f'{{"message": "{SAID}"}}'}, {"message": [SAID]},
        {"error": {"message": f'{{"error": {{"message": "{SAID}"}}}}'}}, {"detail": [{"loc": ["x"], "msg": SAID}]},
        {"detail": {"code": "bad", "message": SAID}}, {"detail": {"error": SAID}}, {"title": SAID, "status": 422},
        {"title": "Unprocessable", "detail": SAID}, {"error": {"message": f"<html><title>{SAID}</title></html>"}},
    ],
)  # fmt: skip
def test_the_words_of_a_refusal(body: Any) -> None:
    refused = read_create(ProviderAnswer(422, {}, body), 0)
    assert isinstance(refused, Rejected)
    assert (refused.cause, refused.message) == ("never", SAID)


def test_the_words_of_a_gateways_own_provider_are_added() -> None:
    body = {"error": {"message": "Provider returned error", "code": 422, "metadata": {"raw": '{"message": "too odd"}'}}}
    refused = read_create(ProviderAnswer(422, {}, body), 0)
    assert isinstance(refused, Rejected)
    assert (refused.message, refused.code) == ("Provider returned error: too odd", "422")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<html><head><title> the words </title>", SAID), ("<Error><Code>X</Code><Message>the words</Message>", SAID),
        ("<p>no title", "<p>no title"), ("the words", SAID),
    ],
)  # fmt: skip
def test_the_words_of_a_page(text: str, said: str) -> None:
    refused = read_create(ProviderAnswer(422, text=text), 0)
    assert isinstance(refused, Rejected)
    assert refused.message == said


def test_words_in_utf_16() -> None:
    body = unwrapped(parse('{"error": {"message": "the words"}}'.encode("utf-16")))
    refused = read_create(ProviderAnswer(422, {}, body), 0)
    assert isinstance(refused, Rejected)
    assert refused.message == SAID


@pytest.mark.parametrize(
    "failed",
    [
        {"error": {"code": "invalid_prompt", "message": SAID}},
        {"error": [{"code": "invalid_prompt", "message": SAID}]},
        {"error": {"error": {"code": "invalid_prompt", "message": SAID}}},
        {"error": {"code": "invalid_prompt", "detail": SAID}},
        {"error": None, "last_error": {"code": "invalid_prompt", "message": SAID}},
        {"error": None, "status_details": {"error": {"code": "invalid_prompt", "message": SAID}}},
    ],
)  # fmt: skip
def test_the_words_of_a_failure(failed: dict[str, Any]) -> None:
    seen = read_poll(ProviderAnswer(200, {}, response(status="failed", **failed)), 0)
    assert isinstance(seen, Seen)
    assert (seen.cause, seen.code, seen.message) == ("never", "invalid_prompt", SAID)


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("ResponsibleAIPolicyViolation", "never"), ("prompt_blocked", "never"), ("biology_policy", "never"),
        ("context_window_exceeded", "never"), ("ContextWindowExceededError", "never"), ("input_too_long", "never"),
        ("image_generation_user_error", "never"), ("content-filtered", "never"), ("flagged", "never"),
        ("project_quota_reached", "account"), ("no_such_organization", "account"), ("ApiKeyDisabled", "account"),
        ("tokens_per_day_reached", "limited"), ("429", "limited"), ("503", "overloaded"),
        ("worker_overload", "overloaded"),
        ("thread_locked", "later"), ("connection_refused", "faulty"), ("unknown_error", "faulty"),
        ("invalid_response_from_server", "faulty"), ("of_tomorrow", "faulty"),
    ],
)  # fmt: skip
def test_a_new_code_is_understood_by_its_words_and_is_told_to_operators(code: str, cause: str) -> None:
    found = verdict(Said(code=code))
    assert (found.cause, found.known) == (cause, False)


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("Thread x already has an active run y.", "later"),
        ("Can't add messages to x while a run y is active.", "later"),
        ("Previous response x is still in progress.", "later"), ("File x is still being processed.", "later"),
        ("Vector store x is not ready yet", "later"), ("Model is warming up", "later"), ("server at capacity", "later"),
        ("Please wait and try again.", "later"), ("Please slow down and retry in a moment", "later"),
        ("Invalid image. Please fix the image and try again.", "never"),
        ("Please reduce the length of the messages, then retry later.", "never"),
        ("Your input exceeds the context window. Please adjust your input and try again.", "never"),
        ("Your request was flagged as harmful by our safety system, try again.", "never"),
        ("Your credit balance is too low to access the API.", "account"),
        ("This organization has been disabled.", "account"),
        ("You exceeded your current quota, please check your plan and billing details.", "account"),
        ("Unknown parameter: 'credit balance'.", "never"), ('Invalid value: "queue is full, try again".', "never"),
    ],
)  # fmt: skip
def test_words_decide_where_no_code_does(message: str, cause: str) -> None:
    said = Said(status=400, kind="invalid_request_error", message=message, structured=True)
    assert verdict(said).cause == cause


def test_a_model_that_the_account_may_not_use_is_a_condition_of_the_account() -> None:
    body = {"error": {"code": "model_not_found", "message": "Your organization must be verified", "type": "x"}}
    refused = [read_create(ProviderAnswer(status, {}, body), 0) for status in (403, 404)]
    assert [answer.cause for answer in refused if isinstance(answer, Rejected)] == ["account", "never"]
