"""Secrets: out of files, off command lines, out of errors and logs, and not in clear text over a network."""

import asyncio
import io
import logging
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import SecretStr
from pydantic_settings import BaseSettings

from backstop.cli.settings_classes import SETTINGS_CLASSES
from backstop.dev.ports import Ports
from backstop.dev.system import Shape, _draw_places, _programs
from backstop.readmodel.settings import ProjectionSettings
from backstop.runtime.errors import ConfigurationError
from backstop.runtime.process import logs
from backstop.runtime.process.apart import Apart
from backstop.runtime.process.redaction import redact
from backstop.runtime.read_settings import read
from backstop.runtime.secret_files import environment_names, is_secret
from backstop.runtime.settings import RuntimeSettings
from receiver.settings import ReceiverSettings
from streams.openai.settings import OpenAISettings
from tests.unit.receiver.ingress import OTHER_SECRET, SECRET, Ingress, settings, with_ingress

ROOT = Path(__file__).parents[2]
PASSWORD = "pa/ss:w@rd-oyster"
URL = f"postgresql://user:{PASSWORD}@db.example:5432/backstop"


def all_secrets() -> list[tuple[type[BaseSettings], str, str]]:
    found = []
    for module, name in SETTINGS_CLASSES:
        kind = getattr(import_module(module), name)
        for field, info in kind.model_fields.items():
            if is_secret(info.annotation):
                found += [(kind, field, variable) for variable in environment_names(kind, field, info)]
    return found


def test_every_setting_that_sounds_like_a_secret_is_one() -> None:
    """A command that prints keys is none: it is shown where it fails."""
    for module, name in SETTINGS_CLASSES:
        for field, info in getattr(import_module(module), name).model_fields.items():
            if not field.endswith("_command") and any(
                word in field for word in ("password", "secret", "api_key", "_keys", "database_url")
            ):
                assert is_secret(info.annotation), field


@pytest.mark.parametrize(("kind", "field", "variable"), all_secrets(), ids=str)
def test_every_secret_may_come_out_of_a_file(
    kind: Any, field: str, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = {"database_url": "postgresql://localhost/x"}.get(field, "x" * 40)
    path = tmp_path / "secret"
    path.write_text(f"{value}\n")
    if field == "payload_keys":
        monkeypatch.setenv("BACKSTOP_INLINE_BYTES_MAX", "0")
    if field == "blobs_secret_key":
        monkeypatch.setenv("BACKSTOP_BLOBS_KEY_ID", "AKIA")
    monkeypatch.setenv(f"{variable}_FILE", str(path))
    found = getattr(read(kind), field)
    (secret,) = found if isinstance(found, tuple) else (found,)
    assert isinstance(secret, SecretStr)
    assert secret.get_secret_value() == value
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=f"{variable} and {variable}_FILE are both set"):
        read(kind)
    monkeypatch.delenv(variable)
    for wrong in (tmp_path / "none", tmp_path):
        monkeypatch.setenv(f"{variable}_FILE", str(wrong))
        with pytest.raises(ConfigurationError, match=f"{variable}_FILE=.* can't be read"):
            read(kind)


def test_a_file_of_two_lines_is_two_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secrets").write_text(f"{SECRET}\n{OTHER_SECRET}\n")
    monkeypatch.setenv("BACKSTOP_WEBHOOK_SECRETS_FILE", str(tmp_path / "secrets"))
    assert [secret.get_secret_value() for secret in read(ReceiverSettings).webhook_secrets] == [SECRET, OTHER_SECRET]


def test_no_command_line_of_ours_holds_a_secret(tmp_path: Path) -> None:
    shape = Shape(folder=tmp_path, environment={}, port=0, webhooks=True)
    ports = Ports()
    places = _draw_places(shape, ports)
    ports.release()
    for program in _programs(shape, places, RuntimeSettings(data_dir=tmp_path)):
        line = " ".join(program.command)
        assert places.api_key not in line
        assert places.webhook_secret not in line
    compose = (ROOT / "docker-compose.kafka.yml").read_text()
    assert "--api-key" not in compose
    assert "--webhook-secret" not in compose


@pytest.mark.parametrize(
    "text",
    [
        URL, f"could not connect to {URL}?sslmode=require: refused", f"(URL('{URL}'),)",
        f"connection failed: password={PASSWORD} host=x", f"password = '{PASSWORD} x'",
        f"redis://:{PASSWORD}@host/0", f"https://name:{PASSWORD}@proxy:3128/path?x=1",
        f"sasl_plain_password='{PASSWORD}'", f"ssl_key_password={PASSWORD}", f'{{"password": "{PASSWORD} x"}}',
        f"aws_secret_access_key={PASSWORD}", f"AccountKey={PASSWORD};x", f"client_secret={PASSWORD}&x=1",
        f"https://b.example/k?X-Amz-Signature={PASSWORD}&x=1", f"https://b.example/k?sv=1&sig={PASSWORD}",
        f"api-key: {PASSWORD}", f"X-Api-Key: {PASSWORD}", f"{{'api_key': '{PASSWORD}'}}", f"PGPASSWORD={PASSWORD}",
        f'{{"refresh_token":"{PASSWORD}"}}', f"GET /v1/events?ticket={PASSWORD} HTTP/1.1", f"Cookie: s={PASSWORD}",
        orjson.dumps({"body": orjson.dumps({"secret": PASSWORD}).decode()}).decode(),
        "eyJhbGciOiJub25lIn0.c29tZS1veXN0ZXI.oyster", "-----BEGIN PRIVATE KEY-----\noyster\n-----END PRIVATE KEY-----",
    ],
)  # fmt: skip
def test_no_password_of_a_url_is_in_a_log_line_or_a_traceback(text: str) -> None:
    assert PASSWORD not in redact(text)
    assert "oyster" not in redact(text)
    out = io.StringIO()
    before = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        for form in ("json", "console"):
            logs.configure(form, "info", "test", out)
            try:
                raise OSError(text)
            except OSError:
                logs.get_logger("x").exception("failed", reason=text)
    finally:
        logging.getLogger().handlers[:], logging.getLogger().level = before
    assert "oyster" not in out.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "http://host:8080/path", "see https://a.example/x: user@b.example", "kafka-1:9092,kafka-2:9092",
        '{"max_output_tokens":500,"prompt_cache_key":"abc","key_id":"0123","tokens":7}',
        '{"token":null,"secret":["a"]}',
        "BACKSTOP_WEBHOOK_SECRETS, secret 1: 16 bytes", "tokens: 5 of 10", "webhook_refused reason=bad_signature",
    ],
)  # fmt: skip
def test_what_holds_no_password_stays(text: str) -> None:
    assert redact(text) == text


def test_a_command_that_fails_says_no_password() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "backstop.cli", "readmodel", "digest"], cwd=ROOT, capture_output=True, text=True,
        timeout=60, check=False,
        env={**os.environ, "BACKSTOP_DATABASE_URL": f"postgresql://user:{PASSWORD}@127.0.0.1:1/x"},
    )  # fmt: skip
    assert done.returncode != 0
    assert "oyster" not in done.stdout + done.stderr


LOGIN = {"BACKSTOP_KAFKA_SASL_USERNAME": "u", "BACKSTOP_KAFKA_SASL_PASSWORD": "p"}


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (RuntimeSettings, {"KAFKA_BOOTSTRAP_SERVERS": "kafka.example:9092"}),
        (RuntimeSettings, {"KAFKA_BOOTSTRAP_SERVERS": "localhost:9092,10.0.0.1:9092"}),
        (
            RuntimeSettings,
            {
                "KAFKA_BOOTSTRAP_SERVERS": "kafka.example:9092",
                "BACKSTOP_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
                **LOGIN,
            },
        ),
        (OpenAISettings, {"OPENAI_BASE_URL": "http://gateway.example/v1"}),
        (OpenAISettings, {"OPENAI_BASE_URL": "http://localhost@gateway.example/v1"}),
        (OpenAISettings, {"OPENAI_BASE_URL": "http://localhost.gateway.example/v1"}),
        (ProjectionSettings, {"BACKSTOP_DATABASE_URL": URL}),
        (ProjectionSettings, {"BACKSTOP_DATABASE_URL": "postgresql:///x?host=db.example"}),
        (ProjectionSettings, {"BACKSTOP_DATABASE_URL": "postgres://db.example/x?sslmode=prefer"}),
    ],
)
def test_clear_text_beyond_this_machine_is_refused_unless_a_setting_says_so(
    kind: Any, given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        ConfigurationError, match=r"^settings: BACKSTOP_.*clear text|^settings: BACKSTOP_.*http://"
    ) as refused:
        read(kind)
    assert PASSWORD not in str(refused.value)
    monkeypatch.setenv("BACKSTOP_CLEAR_TEXT", "true")
    read(kind)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (
            RuntimeSettings,
            {"KAFKA_BOOTSTRAP_SERVERS": "kafka.example:9092", "BACKSTOP_KAFKA_SECURITY_PROTOCOL": "SASL_SSL", **LOGIN},
        ),
        (RuntimeSettings, {"KAFKA_BOOTSTRAP_SERVERS": "localhost:9092,127.0.0.1:9093,[::1]:9094"}),
        (OpenAISettings, {"OPENAI_BASE_URL": "http://127.0.0.1:8081/v1"}),
        (ProjectionSettings, {"BACKSTOP_DATABASE_URL": "postgresql:///x?host=/var/run/postgresql"}),
        (ProjectionSettings, {"BACKSTOP_DATABASE_URL": "postgresql://u@db.example/x?sslmode=verify-full"}),
        (ProjectionSettings, {"BACKSTOP_DATABASE_URL": "sqlite:///x.db"}),
    ],
)
def test_what_is_encrypted_or_stays_here_is_taken(
    kind: Any, given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    read(kind)


def test_metrics_are_not_on_the_public_port_unless_a_setting_says_so() -> None:
    async def hidden(ingress: Ingress) -> None:
        assert (await ingress.call("GET", "/metrics"))[0] == 404

    async def shown(ingress: Ingress) -> None:
        assert (await ingress.call("GET", "/metrics"))[0] == 200

    with_ingress(hidden, metrics_public=False)
    with_ingress(shown, metrics_public=True)


def test_a_short_secret_for_tickets_is_refused() -> None:
    with pytest.raises(ValueError, match="32 characters"):
        settings(ticket_secrets="short")
    assert settings(ticket_secrets=f"{'a' * 32}, {'b' * 40}").ticket_keys() == (b"a" * 32, b"b" * 40)


def test_a_process_that_reads_bodies_gets_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", PASSWORD)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PASSWORD)
    monkeypatch.setenv("BACKSTOP_DATABASE_URL", URL)
    program = tmp_path / "env"
    program.write_text("#!/bin/sh\nexec env\n")
    program.chmod(0o700)
    done = asyncio.run(Apart("any", str(program)).run([b"{}"]))
    assert b"PATH=" in done.head
    assert b"oyster" not in done.head
