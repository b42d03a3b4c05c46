"""Google Cloud Storage: fake-gcs-server, where it is on the PATH or BACKSTOP_TEST_GCS_SERVER says
(`go install github.com/fsouza/fake-gcs-server@latest`), and a stand-in of our own that speaks as the service does.
"""

import base64
import json
import os
import re
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit
from urllib.request import Request, urlopen

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pydantic import SecretStr

from backstop.runtime.bucket import BucketClient
from backstop.runtime.bucket_google import google_requests
from backstop.runtime.bucket_requests import ANSWER_S, BucketAddress, Patience
from backstop.runtime.process.clock import NowMs
from tests.unit.backstop.runtime.s3_server import NAME
from tests.unit.backstop.runtime.server_programs import serving

FAKE_GCS: Final = os.environ.get("BACKSTOP_TEST_GCS_SERVER") or shutil.which("fake-gcs-server")
"""None: it is not installed, and its tests are skipped."""

WITHOUT_GCS: Final = "no fake-gcs-server: put it on the PATH, or set BACKSTOP_TEST_GCS_SERVER to its program"

KEY: Final = rsa.generate_private_key(65_537, 2_048)
PEM: Final = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
EMAIL: Final = "backstop@project.iam.gserviceaccount.com"


def account_key(endpoint: str) -> str:
    """The key of a service account, as Google writes it, whose tokens come from the stand-in."""
    return json.dumps(
        {
            "type": "service_account", "project_id": "project", "private_key_id": "k1", "private_key": PEM,
            "client_email": EMAIL, "client_id": "1", "token_uri": f"{endpoint}/token",
        }, indent=2,
    )  # fmt: skip


def google_bucket(
    endpoint: str,
    name: str = NAME,
    prefix: str = "deployment/one",
    answer_s: float = ANSWER_S,
    now_ms: NowMs | None = None,
    key: str | None = None,
) -> BucketClient:
    address = BucketAddress(name, prefix, endpoint, secret_key=None if key is None else SecretStr(key))
    return BucketClient(google_requests(address, Patience(1)), answer_s=answer_s, now_ms=now_ms)


@contextmanager
def fake_gcs() -> Iterator[str]:
    """The address of fake-gcs-server with the empty bucket `NAME`."""
    assert FAKE_GCS is not None
    program = FAKE_GCS
    with serving(
        lambda port, folder: (
            program, "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-filesystem-root", folder,
            "-public-host", f"127.0.0.1:{port}", "-log-level", "error",
        ),
        _made,
    ) as address:  # fmt: skip
        yield address


def _made(address: str) -> bool:
    sent = json.dumps({"name": NAME}).encode()
    headers = {"Content-Type": "application/json"}
    with urlopen(Request(f"{address}/storage/v1/b?project=p", sent, headers), timeout=5) as answer:
        return bool(answer.status == 200)


@dataclass
class GoogleStandIn:
    """What it holds, and how it answers. The words are the service's, as its clients' issues quote them."""

    writes_of_a_name_max: int | None = None
    asks_for_tokens: bool = False
    lifetime_s: int = 3_600
    refusals: list[tuple[int, bytes]] = field(default_factory=list)
    """Answers to the next requests for objects, in place of the right ones."""
    before_delete: bytes | None = None
    """Put by a rival between our look at an object and its removal."""
    objects: dict[str, tuple[int, datetime, bytes]] = field(default_factory=dict)
    tokens: list[str] = field(default_factory=list)
    sent: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    writes: Counter[str] = field(default_factory=Counter)
    generation: int = 0

    def put(self, name: str, data: bytes) -> None:
        self.generation += 1
        self.objects[name] = (self.generation, datetime.now(UTC), data)

    def document(self, name: str) -> bytes:
        generation, made, data = self.objects[name]
        told = {
            "kind": "storage#object", "name": name, "bucket": NAME, "size": str(len(data)),
            "generation": str(generation), "timeCreated": made.isoformat(),
        }  # fmt: skip
        return json.dumps(told).encode()


def error(status: int, message: str, reason: str = "") -> tuple[int, bytes]:
    one = {"message": message, "domain": "global", "reason": reason}
    return status, json.dumps({"error": {"code": status, "message": message, "errors": [one]}}).encode()


def answer_of(
    state: GoogleStandIn, method: str, target: str, headers: dict[str, str], body: bytes
) -> tuple[int, bytes]:
    url = urlsplit(target)
    asked = {key: values[0] for key, values in parse_qs(url.query).items()}
    if url.path == "/token":
        return token_answer(state, target, headers, body)
    if url.path.startswith("/computeMetadata/"):
        state.tokens.append(f"token-{len(state.tokens)}")
        given = {"access_token": state.tokens[-1], "expires_in": state.lifetime_s, "token_type": "Bearer"}
        return (200, json.dumps(given).encode()) if headers.get("metadata-flavor") == "Google" else (403, b"")
    if state.refusals:
        return state.refusals.pop(0)
    if state.asks_for_tokens and headers.get("authorization") not in {f"Bearer {one}" for one in state.tokens[-1:]}:
        return error(401, "Invalid Credentials", "authError")
    found = re.fullmatch(r"(?:/upload)?/storage/v1/b/([^/]+)/o(?:/([^/]+))?", url.path)
    if found is None:
        return 404, b"Not Found"
    if found[1] != NAME:
        return error(404, "The specified bucket does not exist.", "notFound")
    if method == "POST":
        return insert_answer(state, asked, headers, body)
    if found[2] is None:
        names = sorted(name for name in state.objects if name.startswith(asked["prefix"]))
        items = [json.loads(state.document(name)) for name in names[: int(asked["maxResults"])]]
        return 200, json.dumps({"kind": "storage#objects", **({"items": items} if items else {})}).encode()
    name = unquote(found[2])
    if method == "DELETE" and state.before_delete is not None:
        state.put(name, state.before_delete)
    if name not in state.objects:
        said = f"No such object: {NAME}/{name}"
        return (404, said.encode()) if "alt" in asked else error(404, said, "notFound")
    if method == "DELETE":
        if asked["ifGenerationMatch"] != str(state.objects[name][0]):
            return error(412, "At least one of the pre-conditions you specified did not hold.", "conditionNotMet")
        del state.objects[name]
        return 204, b""
    return 200, state.objects[name][2] if "alt" in asked else state.document(name)


def insert_answer(
    state: GoogleStandIn, asked: dict[str, str], headers: dict[str, str], body: bytes
) -> tuple[int, bytes]:  # fmt: skip
    boundary = headers["content-type"].partition("boundary=")[2].encode()
    _, first, rest = body.split(b"--" + boundary + b"\r\n", 2)
    assert asked["uploadType"] == "multipart"
    assert rest.endswith(b"\r\n--" + boundary + b"--\r\n")
    name = json.loads(first.partition(b"\r\n\r\n")[2])["name"]
    data = rest[: -len(boundary) - 8].partition(b"\r\n\r\n")[2]
    state.writes[name] += 1
    if state.writes_of_a_name_max is not None and state.writes[name] > state.writes_of_a_name_max:
        return error(429, "The object exceeded the rate limit for object mutation operations.", "rateLimitExceeded")
    if asked.get("ifGenerationMatch") == "0" and name in state.objects:
        return error(412, "At least one of the pre-conditions you specified did not hold.", "conditionNotMet")
    state.put(name, data)
    return 200, state.document(name)


def token_answer(state: GoogleStandIn, target: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
    """A token, if the assertion was signed by the account's key, for this endpoint, for an hour from now at most."""
    form = parse_qs(body.decode())
    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    signed, _, signature = form["assertion"][0].rpartition(".")
    KEY.public_key().verify(_unpacked(signature), signed.encode(), PKCS1v15(), SHA256())
    claims: dict[str, Any] = json.loads(_unpacked(signed.partition(".")[2]))
    assert (claims["iss"], claims["aud"]) == (EMAIL, f"http://{headers['host']}{target}")
    assert claims["scope"] == "https://www.googleapis.com/auth/devstorage.read_write"
    now_s = datetime.now(UTC).timestamp()
    if not now_s - 3_600 < claims["iat"] <= now_s + 5 or claims["exp"] > claims["iat"] + 3_600:
        told = "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."
        return 400, json.dumps({"error": "invalid_grant", "error_description": told}).encode()
    state.tokens.append(f"token-{len(state.tokens)}")
    given = {"access_token": state.tokens[-1], "expires_in": state.lifetime_s, "token_type": "Bearer"}
    return 200, json.dumps(given).encode()


def _unpacked(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


@contextmanager
def google_server(state: GoogleStandIn | None = None) -> Iterator[str]:
    """The address of the stand-in, with the bucket `NAME`."""
    held, lock = state or GoogleStandIn(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10

        def do_GET(self) -> None:
            headers = {name.lower(): said for name, said in self.headers.items()}
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with lock:
                held.sent.append((self.command, self.path, headers))
                status, answer = answer_of(held, self.command, self.path, headers, body)
            self.send_response(status)
            if status != 204:
                self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_DELETE = do_GET  # noqa: N815 - the names are the standard library's

        def log_message(self, *_args: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
