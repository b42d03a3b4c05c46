"""A mistyped setting is told, with the one that was probably meant."""

from backstop.cli.unknown_variables import known, unknown
from backstop.dev.fast_provider import BRISK
from tests.torture.plan import SETTINGS


def test_a_mistyped_setting_is_told_with_the_nearest_one() -> None:
    assert unknown({"BACKSTOP_WEBHOK_SECRETS": "x", "BACKSTOP_PARTITIONS": "8", "HOME": "/"}) == [
        "BACKSTOP_WEBHOK_SECRETS is no setting and has no effect; did you mean BACKSTOP_WEBHOOK_SECRETS?"
    ]


def test_a_variable_like_no_setting_is_told_alone() -> None:
    assert unknown({"BACKSTOP_XYZZY_PLUGH": ""}) == ["BACKSTOP_XYZZY_PLUGH is no setting and has no effect"]


def test_each_way_to_give_a_setting_is_known() -> None:
    names = known()
    assert {"BACKSTOP_SUBMISSION_BACKOFF_BASE_MS", "BACKSTOP_URL", "BACKSTOP_WEBHOOK_SECRETS"} <= names
    assert unknown({"BACKSTOP_WEBHOOK_SECRETS_FILE": "/run/secret", "BACKSTOP_API_KEY_FILE": "/run/key"}) == []


def test_what_the_demo_and_torture_set_is_known() -> None:
    assert unknown({**BRISK, **SETTINGS}) == []
