"""moto's S3 server on loopback, and a server that only refuses."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3  # type: ignore[import-untyped]
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from pydantic import SecretStr
from werkzeug.serving import make_server

from backstop.runtime.bucket import ANSWER_S, BucketClient, Patience

NAME = "bodies-of-tests"
KEY_ID, SECRET = "test-key", "test-secret"


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of a server with the empty bucket `NAME`."""
    moto, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def one_at_a_time(environ: Any, start_response: Any) -> Iterable[bytes]:
        with lock:  # its puts of one key at one time close each other's files
            return list(moto(environ, start_response))

    server = make_server("127.0.0.1", 0, one_at_a_time, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        client(endpoint).create_bucket(Bucket=NAME)
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        s3_backends.reset()


def client(endpoint: str) -> "boto3.client":
    return boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=KEY_ID, aws_secret_access_key=SECRET
    )


def bucket(endpoint: str, name: str = NAME, prefix: str = "deployment/one", answer_s: float = ANSWER_S) -> BucketClient:
    return BucketClient(
        name,
        prefix,
        endpoint=endpoint,
        region="us-east-1",
        key_id=KEY_ID,
        secret_key=SecretStr(SECRET),
        patience=Patience(1, answer_s),
    )


@dataclass
class Answers:
    status: int
    code: str
    asked: int = 0


@contextmanager
def answering(answers: Answers) -> Iterator[str]:
    """A server that answers every request with one S3 error."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers.asked += 1
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = f"<?xml version='1.0'?><Error><Code>{answers.code}</Code><Message>no</Message></Error>".encode()
            self.send_response(answers.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_PUT = do_GET  # noqa: N815 - the names are the standard library's

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
