"""`backstop keys create | list | rotate | revoke`: keys for the HTTP API, each with its tenant and scopes."""

import re
import secrets
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, cast

import typer
from pydantic import ValidationError

from backstop.cli.output import DIFFERS, DONE, Form, Output, Quiet, emit, emit_one, fail, tell
from backstop.cli.person import person
from backstop.runtime.http.keys import (
    KEY_ID_BITS,
    SCOPES,
    SECRET_BYTES,
    ApiKey,
    KeysFile,
    Scope,
    editing,
    load_keys,
    load_last_used,
    make_token,
    save_keys,
)
from backstop.runtime.process.chance import random_hex
from backstop.runtime.process.clock import make_clock
from backstop.runtime.read_settings import read
from receiver.settings import ReceiverSettings
from schemas.sentences import sentence

EXPIRES_IN = "365d"
NEVER = "never"
ExpiresIn = Annotated[str, typer.Option(help="How long the key is valid, for example 90d or 12h; `never` for no end.")]
KeyIdArgument = Annotated[str, typer.Argument(help="The key's id: the part after bsk_.")]
COLUMNS = ("id", "tenant", "name", "scopes", "state", "created_at", "expires_at", "last_used_at")
UNITS_S = {"m": 60, "h": 3_600, "d": 86_400}

app = typer.Typer(
    help="Create, list, rotate and revoke API keys, in the file BACKSTOP_KEYS_FILE.",
    no_args_is_help=True,
    add_completion=False,
)


@app.command()
def create(
    tenant: Annotated[str, typer.Option(help="Tenant of the key. No other tenant sees its jobs.")],
    scopes: Annotated[
        str, typer.Option(help=f"What the key may do, comma-separated: {', '.join(sorted(SCOPES))}.")
    ] = "submit,read",
    expires_in: ExpiresIn = EXPIRES_IN,
    addresses: Annotated[
        str, typer.Option(help="Networks (CIDR, comma-separated) the key may be used from. Default: any.")
    ] = "",
    priorities: Annotated[
        str, typer.Option(help="Priorities (comma-separated) that the key may give to jobs. Default: any.")
    ] = "",
    name: Annotated[str | None, typer.Option(help="A note on what the key is for.")] = None,
    if_none: Annotated[
        bool, typer.Option("--if-none", help="Do nothing if the tenant has a valid key; for set-up scripts.")
    ] = False,
    output: Output = Form.TABLE,
    quiet: Quiet = False,
) -> None:
    """Create a key and print it. It is shown only now: the file keeps a hash."""
    now_ms = make_clock()()
    path = read(ReceiverSettings).keys_path
    with editing(path):
        content = _load_or_empty()
        if if_none and any(key.tenant == tenant and key.state(now_ms) == "live" for key in content.keys):
            tell(f"{tenant} has a valid key", quiet=quiet)
            raise typer.Exit(DONE)
        key_id = random_hex(KEY_ID_BITS)
        token, sha256 = make_token(key_id, secrets.token_bytes(SECRET_BYTES))
        key = _made(key_id, sha256, tenant, scopes, expires_in, name, now_ms, addresses, priorities)
        save_keys(path, content.model_copy(update={"keys": (*content.keys, key)}))
    if output is Form.TABLE:
        print(token)
    else:
        emit_one({"key": token, **_row(key, now_ms, {})})
    tell(f"Store the key now: it is not shown again. Revoke it with `backstop keys revoke {key_id}`.", quiet=quiet)


@app.command()
def rotate(
    key_id: KeyIdArgument,
    overlap: Annotated[str, typer.Option(help="How long the old key stays valid, for example 7d or 1h.")] = "7d",
    expires_in: ExpiresIn = EXPIRES_IN,
    output: Output = Form.TABLE,
    quiet: Quiet = False,
) -> None:
    """Create a successor with the same rights, and print it. The old key expires after the overlap.

    Exit 1: there is no such valid key.
    """
    now_ms = make_clock()()
    path = read(ReceiverSettings).keys_path
    with editing(path):
        content = _load_or_empty()
        old = next((key for key in content.keys if key.id == key_id and key.state(now_ms) == "live"), None)
        if old is None:
            fail(f"there is no valid key {key_id} in {path}", DIFFERS)
        new_id = random_hex(KEY_ID_BITS)
        token, sha256 = make_token(new_id, secrets.token_bytes(SECRET_BYTES))
        at = _instant(now_ms)
        expires_at = None if expires_in == NEVER else at + _span(expires_in)
        key = old.model_copy(
            update={
                "id": new_id, "sha256": sha256, "created_at": at, "expires_at": expires_at,
                "created_by": person(), "rotated_by": None,
            }
        )  # fmt: skip
        ends_at = at + _span(overlap)
        ending = old.model_copy(update={"expires_at": min(ends_at, old.expires_at or ends_at), "rotated_by": person()})
        keys = tuple(ending if one.id == key_id else one for one in content.keys)
        save_keys(path, content.model_copy(update={"keys": (*keys, key)}))
    if output is Form.TABLE:
        print(token)
    else:
        emit_one({"key": token, **_row(key, now_ms, {})})
    tell(f"Store the key now: it is not shown again. {key_id} expires at {_shown(ending.expires_at)}.", quiet=quiet)


@app.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only for this tenant.")] = None, output: Output = Form.TABLE
) -> None:
    """List keys without their secrets. `last_used_at` is at most a minute late."""
    now_ms = make_clock()()
    used = load_last_used(read(ReceiverSettings).keys_path)
    rows = [_row(key, now_ms, used) for key in _load_or_empty().keys if tenant is None or key.tenant == tenant]
    emit(rows, output, COLUMNS)


@app.command()
def revoke(key_id: KeyIdArgument, quiet: Quiet = False) -> None:
    """Revoke a key; running processes refuse it within about a second. Exit 1: there is no such key."""
    now_ms = make_clock()()
    path = read(ReceiverSettings).keys_path
    with editing(path):
        content = _load_or_empty()
        if all(key.id != key_id for key in content.keys):
            fail(f"there is no key {key_id} in {path}", DIFFERS)
        at = _instant(now_ms)
        keys = tuple(
            key.model_copy(update={"revoked_at": key.revoked_at or at, "revoked_by": key.revoked_by or person()})
            if key.id == key_id
            else key
            for key in content.keys
        )
        save_keys(path, content.model_copy(update={"keys": keys}))
    tell(f"{key_id} is revoked", quiet=quiet)


def _load_or_empty() -> KeysFile:
    try:
        return load_keys(read(ReceiverSettings).keys_path)
    except FileNotFoundError:
        return KeysFile()


def _made(
    key_id: str,
    sha256: str,
    tenant: str,
    scopes: str,
    expires_in: str,
    name: str | None,
    now_ms: int,
    addresses: str,
    priorities: str,
) -> ApiKey:
    wanted = set(_parts(scopes))
    if not wanted or wanted - SCOPES:
        fail(f"--scopes takes one or more of {', '.join(sorted(SCOPES))}")
    created_at = _instant(now_ms)
    try:
        return ApiKey(
            id=key_id,
            tenant=tenant,
            scopes=cast("frozenset[Scope]", frozenset(wanted)),
            sha256=sha256,
            created_at=created_at,
            expires_at=None if expires_in == NEVER else created_at + _span(expires_in),
            name=name,
            addresses=cast("Any", _parts(addresses)),
            priorities=cast("Any", _parts(priorities) or None),
            created_by=person(),
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        fail(f"--{first['loc'][0]}: {sentence(first)}")


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _span(text: str) -> timedelta:
    found = re.fullmatch(r"([1-9][0-9]{0,4})([mhd])", text)
    if found is None:
        fail("a duration is a number and m, h or d, for example 90d")
    return timedelta(seconds=int(found[1]) * UNITS_S[found[2]])


def _instant(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms // 1000, UTC)


def _row(key: ApiKey, now_ms: int, used: dict[str, int]) -> dict[str, Any]:
    used_at_ms = used.get(key.id)
    return {
        "id": key.id,
        "tenant": key.tenant,
        "name": key.name or "",
        "scopes": ",".join(sorted(key.scopes)),
        "state": "expiring" if key.expires_soon(now_ms) else key.state(now_ms),
        "addresses": ",".join(map(str, key.addresses)),
        "priorities": ",".join(sorted(key.priorities or ())),
        "created_at": _shown(key.created_at),
        "expires_at": _shown(key.expires_at),
        "last_used_at": _shown(None if used_at_ms is None else _instant(used_at_ms)),
    }


def _shown(at: datetime | None) -> str:
    return "" if at is None else at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
