"""API keys and tenants' limits: the keys file, which `backstop keys` writes and the ingress reads.

A key is `bsk_<id>_<secret>`. The file holds only the SHA-256 of the secret: 32 random bytes need no slow hash, and a
reader of the file can't sign in with it. The file is replaced as a whole, so no reader sees a partial one.
"""

import base64
import fcntl
import hashlib
import hmac
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import orjson
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)

from backstop.runtime.errors import ConfigurationError
from backstop.runtime.http.keys_text import members
from backstop.runtime.process.files import sync_folder
from backstop.runtime.settings import TENANT
from schemas.base import Priority
from schemas.sentences import sentence

Scope = Literal["submit", "read", "operate", "admin"]
SCOPES: frozenset[Scope] = frozenset(get_args(Scope))

SECRET_BYTES = 32
KEY_ID_BITS = 48
NAME_CHARS_MAX = 100
ADDRESSES_MAX = 100
NETWORKS_KEPT = 1_000
EXPIRES_SOON_S = 14 * 86_400
"""Time before its expiry from which a key is warned about."""

PersonName = Annotated[str, StringConstraints(max_length=NAME_CHARS_MAX)]
"""The operating system's name of the user who ran the command."""

TenantName = Annotated[str, StringConstraints(pattern=rf"^{TENANT.pattern}$")]

_KEY_ID = r"[0-9a-f]{12}"
_TOKEN = re.compile(rf"bsk_({_KEY_ID})_([A-Za-z0-9_\-]{{43}})")
_NO_SHA256 = "0" * 64


@lru_cache(NETWORKS_KEPT)
def _network(text: str) -> IPv4Network | IPv6Network:
    return TypeAdapter(IPvAnyNetwork).validate_python(text)


def _shared(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    return _network(value) if isinstance(value, str) else validate(value)


Network = Annotated[IPvAnyNetwork, WrapValidator(_shared)]
"""Equal ones are one object: it takes longer to make, and more memory, than all else of a key."""


class ApiKey(BaseModel):
    """One key as stored. Times are instants in UTC."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, StringConstraints(pattern=rf"^{_KEY_ID}$")]
    tenant: TenantName
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None
    revoked_at: AwareDatetime | None = None
    name: Annotated[str, StringConstraints(max_length=NAME_CHARS_MAX)] | None = None
    addresses: Annotated[tuple[Network, ...], Field(max_length=ADDRESSES_MAX)] = ()
    """Networks from which the key may be used; empty allows all."""
    priorities: Annotated[frozenset[Priority], Field(min_length=1)] | None = None
    """The classes in which its jobs may wait for their turn; None allows all."""
    created_by: PersonName | None = None
    revoked_by: PersonName | None = None
    rotated_by: PersonName | None = None
    """The person that made its successor, and so an end to it."""

    def expires_soon(self, now_ms: int) -> bool:
        """Whether the key is live and expires within `EXPIRES_SOON_S`, so its successor is due."""
        soon_s = now_ms / 1000 + EXPIRES_SOON_S
        return self.state(now_ms) == "live" and self.expires_at is not None and self.expires_at.timestamp() <= soon_s

    def state(self, now_ms: int) -> Literal["live", "expired", "revoked"]:
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and self.expires_at.timestamp() * 1000 <= now_ms:
            return "expired"
        return "live"


class TenantLimits(BaseModel):
    """Limits of one tenant; None sets no limit of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    submission_bytes_max: int | None = Field(default=None, ge=1)
    requests_per_s: float | None = Field(default=None, gt=0, le=1_000_000)
    """Per receiver process, over all its routes."""
    requests_burst: int | None = Field(default=None, ge=1, le=1_000_000)
    """Requests allowed at once; None: twice the rate."""
    open_jobs_max: int | None = Field(default=None, ge=0)
    tokens_per_day_max: int | None = Field(default=None, ge=0)
    """Input and output tokens of the jobs that ended since midnight UTC."""


class KeysFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    v: Literal[1] = 1
    keys: tuple[ApiKey, ...] = ()
    tenants: dict[TenantName, TenantLimits] = Field(default_factory=dict)

    @field_validator("keys")
    @classmethod
    def _each_once(cls, keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
        """Of two entries with one id, one may be revoked."""
        twice = [key_id for key_id, count in Counter(key.id for key in keys).items() if count > 1]
        if twice:
            raise ValueError(f"the key id {twice[0]} stands there more than once: keep one of its entries")
        return keys


@dataclass(frozen=True, slots=True)
class Token:
    """A caller's credential: the key id it claims, and the hash of the secret that proves it."""

    key_id: str
    sha256: str


def parse_token(text: str) -> Token | None:
    """None: `text` is not in the form of a key."""
    found = _TOKEN.fullmatch(text)
    return None if found is None else Token(found[1], _hashed(found[2]))


def make_token(key_id: str, secret: bytes) -> tuple[str, str]:
    """The key, to be shown once, and the hash of its secret, to be stored."""
    assert len(secret) == SECRET_BYTES
    text = base64.urlsafe_b64encode(secret).decode().rstrip("=")
    return f"bsk_{key_id}_{text}", _hashed(text)


def proves(token: Token, key: ApiKey | None) -> bool:
    """Whether the token's secret belongs to the key. An unknown key takes as long as a wrong secret."""
    return hmac.compare_digest(token.sha256, _NO_SHA256 if key is None else key.sha256) and key is not None


def load_keys(path: Path) -> KeysFile:
    """The content of the keys file.

    :raises FileNotFoundError: there is no file.
    :raises ConfigurationError: the file can't be read, or is not valid. The message holds nothing of its content.
    """
    return at_once(KeysReader(path).content(keys_text(path)))


def keys_text(path: Path) -> str:
    """The text of the keys file. Errors: see `load_keys`."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # A pipe would block the process, and a device may have no end.
            raise ConfigurationError(f"the keys file {path} is no regular file")
        if mode & stat.S_IWOTH:
            raise ConfigurationError(
                f"the keys file {path} can be written by everybody on this machine: chmod 600 {path}"
            )
        return path.read_bytes().decode()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigurationError(f"the keys file {path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"the keys file {path} is not JSON: no UTF-8 at {error.start}") from None


T = TypeVar("T")
InSteps = Generator[None, None, T]
"""Work that can be interrupted after each step, which takes about a millisecond at most."""


def steps(work: InSteps[T], found: list[T]) -> Iterator[None]:
    """The steps of `work`, whose result is then in `found`."""
    found.append((yield from work))


def at_once(work: InSteps[T]) -> T:
    """The result of `work`, without interruption."""
    found: list[T] = []
    for _ in steps(work, found):
        pass
    return found[0]


class KeysReader:
    """Reads a keys file again and again. A key that stood in it before is not validated again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, ApiKey] = {}

    def content(self, text: str) -> InSteps[KeysFile]:
        """What `text` says. Errors: see `load_keys`."""
        keys: list[Any] = []
        known: dict[str, ApiKey] = {}
        rest: dict[str, Any] = {}
        try:
            for name, part, value in members(text):
                if name == "tenants" and isinstance(value, dict):
                    rest[name] = yield from _each_valid(value)
                elif name == "keys" and isinstance(value, dict):
                    key = self._known.get(part) or _valid(ApiKey, value)
                    keys.append(key)
                    if isinstance(key, ApiKey):
                        known[part] = key
                    yield
                else:
                    rest[name] = value
            content = KeysFile.model_validate({"keys": keys, **rest})
        except json.JSONDecodeError as error:
            raise ConfigurationError(f"the keys file {self._path} is not JSON: {error.msg} at {error.pos}") from None
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigurationError(
                f"the keys file {self._path} is not valid at {where or 'its top'}: {sentence(first)}"
            ) from None
        except (ValueError, RecursionError):  # a number that is none or has thousands of digits; thousands of levels
            raise ConfigurationError(f"the keys file {self._path} is not JSON") from None
        self._known = known
        return content


def _each_valid(tenants: dict[str, Any]) -> InSteps[dict[str, Any]]:
    found: dict[str, Any] = {}
    for name, limits in tenants.items():
        found[name] = _valid(TenantLimits, limits)
        yield
    return found


def _valid(model: type[BaseModel], value: Any) -> Any:
    """What `value` says; what is not valid stays as it is, for `KeysFile` to say where it stands and why."""
    try:
        return model.model_validate(value)
    except ValidationError:
        return value


def save_keys(path: Path, content: KeysFile) -> None:
    """Replace the file, readable by its owner alone. Durable on return.

    :raises OSError: the file is unchanged.
    """
    ordered = content.model_dump(mode="json", exclude_none=True)
    for key in ordered["keys"]:
        key["scopes"] = sorted(key["scopes"])
        if "priorities" in key:
            key["priorities"] = sorted(key["priorities"])
        if not key["addresses"]:
            del key["addresses"]
    write_private(path, orjson.dumps(ordered, option=orjson.OPT_INDENT_2) + b"\n")


@contextmanager
def editing(path: Path) -> Iterator[None]:
    """Lock the file against other editors: read it, change it and save it within this block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def write_private(path: Path, data: bytes) -> None:
    """Replace a file by one that only its owner can read, whatever the umask."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def last_used_path(keys_path: Path) -> Path:
    """Where receivers record each key's last use, in Unix milliseconds by key id. Approximate, and may be lost."""
    return keys_path.with_name(f"{keys_path.stem}.used.json")


def load_last_used(keys_path: Path) -> dict[str, int]:
    """Empty if there is no readable file."""
    try:
        found = orjson.loads(last_used_path(keys_path).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {key_id: at_ms for key_id, at_ms in found.items() if isinstance(at_ms, int)}


def _hashed(secret_text: str) -> str:
    return hashlib.sha256(secret_text.encode()).hexdigest()
