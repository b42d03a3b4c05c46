"""The keys file: what is handed out, what is kept, and what a broken file is."""

import json
import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from backstop.cli.keys import app
from backstop.runtime.errors import ConfigurationError
from backstop.runtime.http.keys import (
    SCOPES,
    ApiKey,
    KeysFile,
    TenantLimits,
    load_keys,
    make_token,
    parse_token,
    proves,
    save_keys,
)

AT = datetime(2026, 1, 1, tzinfo=UTC)
AT_MS = int(AT.timestamp() * 1000)
SECRET = bytes(range(32))


def made(**changed: object) -> ApiKey:
    _, sha256 = make_token("0123456789ab", SECRET)
    fields = {"id": "0123456789ab", "tenant": "acme", "scopes": {"read"}, "sha256": sha256, "created_at": AT}
    return ApiKey.model_validate({**fields, **changed})


def test_a_token_proves_its_key_and_no_other() -> None:
    token, sha256 = make_token("0123456789ab", SECRET)
    shown = parse_token(token)
    assert shown is not None
    assert (shown.key_id, shown.sha256) == ("0123456789ab", sha256)
    assert proves(shown, made())
    assert not proves(shown, None)
    other, other_sha256 = make_token("0123456789ab", bytes(32))
    assert other != token
    assert not proves(shown, made(sha256=other_sha256))


@pytest.mark.parametrize(
    "text",
    ["", "sk-123", "bsk_", "bsk_0123456789ab_", "bsk_0123456789AB_" + "a" * 43, "bsk_0123456789ab_" + "a" * 42,
     "bsk_0123456789ab_" + "é" * 43, "bsk_0123456789ab_" + "a" * 43 + "\n"],
)  # fmt: skip
def test_what_is_no_token_proves_nothing(text: str) -> None:
    assert parse_token(text) is None


def test_a_key_is_live_until_it_expires_or_is_revoked() -> None:
    key = made(expires_at=AT)
    assert (key.state(AT_MS - 1), key.state(AT_MS)) == ("live", "expired")
    assert made(revoked_at=AT).state(0) == "revoked"
    assert made().state(AT_MS) == "live"


@pytest.mark.parametrize(
    "changed",
    [{"tenant": "A"}, {"tenant": "a:b"}, {"tenant": "x" * 28}, {"scopes": []}, {"scopes": ["root"]}, {"x": 1}],
)
def test_a_key_that_is_none_is_refused(changed: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        made(**changed)


def test_the_file_is_the_owners_alone_and_holds_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    os.umask(os.umask(0))  # whatever it is
    content = KeysFile(keys=(made(),), tenants={"acme": TenantLimits(open_jobs_max=3)})
    save_keys(path, content)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_keys(path) == content
    token, _ = make_token("0123456789ab", SECRET)
    assert token.rsplit("_", 1)[-1] not in path.read_text()
    assert [found.name for found in tmp_path.iterdir()] == ["keys.json"]


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b'{"keys":[{"id":"canary-value"}]}', b'{"v":2}', b'{"tenants":{"A":{}}}']
)
def test_a_broken_file_is_told_without_its_content(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(raw)
    with pytest.raises(ConfigurationError, match=r"keys file .*keys\.json") as raised:
        load_keys(path)
    assert "canary" not in str(raised.value)


def test_no_file_is_told_apart_from_a_broken_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_keys(tmp_path / "keys.json")


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[CliRunner, Path]:
    path = tmp_path / "deep" / "keys.json"
    monkeypatch.setenv("BACKSTOP_KEYS_FILE", str(path))
    return CliRunner(), path


def test_a_key_is_made_listed_rotated_and_revoked(command: tuple[CliRunner, Path]) -> None:
    runner, path = command
    first = runner.invoke(app, ["create", "--tenant", "acme", "--scopes", "submit,read", "--expires-in", "90d"])
    assert first.exit_code == 0, first.output
    token = parse_token(first.stdout.splitlines()[0])
    assert token is not None
    second = runner.invoke(app, ["create", "--tenant", "acme", "--name", "the next one", "-o", "json"])
    assert json.loads(second.stdout)["key"].startswith("bsk_")
    kept = load_keys(path).keys
    assert [key.tenant for key in kept] == ["acme", "acme"], "two keys may live while one is rotated out"
    assert (kept[0].id, kept[0].sha256, kept[0].scopes) == (token.key_id, token.sha256, frozenset({"submit", "read"}))
    assert kept[0].expires_at is not None
    assert (kept[0].expires_at - kept[0].created_at).days == 90
    assert runner.invoke(app, ["revoke", kept[0].id]).exit_code == 0
    listed = json.loads(runner.invoke(app, ["list", "-o", "json"]).stdout)
    assert [(row["id"], row["state"]) for row in listed] == [(kept[0].id, "revoked"), (kept[1].id, "live")]
    assert "sha256" not in listed[0]
    assert runner.invoke(app, ["revoke", "ffffffffffff"]).exit_code == 1


def test_a_set_up_script_makes_one_key_only(command: tuple[CliRunner, Path]) -> None:
    runner, path = command
    for _ in range(2):
        assert runner.invoke(app, ["create", "--tenant", "default", "--if-none"]).exit_code == 0
    assert len(load_keys(path).keys) == 1


@pytest.mark.parametrize(
    "arguments",
    [["--tenant", "Acme"], ["--tenant", "a", "--scopes", "root"], ["--tenant", "a", "--scopes", ","],
     ["--tenant", "a", "--expires-in", "soon"], ["--tenant", "a", "--expires-in", "0d"]],
)  # fmt: skip
def test_a_key_that_makes_no_sense_is_not_made(command: tuple[CliRunner, Path], arguments: list[str]) -> None:
    runner, path = command
    assert runner.invoke(app, ["create", *arguments]).exit_code == 2
    assert not path.exists()


def test_limits_of_a_tenant_survive_the_making_of_a_key(command: tuple[CliRunner, Path]) -> None:
    runner, path = command
    path.parent.mkdir()
    save_keys(path, KeysFile(tenants={"acme": TenantLimits(requests_per_s=0.5)}))
    assert runner.invoke(app, ["create", "--tenant", "acme", "--scopes", ",".join(SCOPES)]).exit_code == 0
    assert load_keys(path).tenants["acme"].requests_per_s == 0.5
    assert load_keys(path).keys[0].scopes == SCOPES
