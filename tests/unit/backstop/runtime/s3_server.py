"""moto's S3 server on loopback, and a server that answers always the same."""

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pydantic import SecretStr

from backstop.runtime.bucket import BucketClient
from backstop.runtime.bucket_obstore import s3_requests
from backstop.runtime.bucket_requests import ANSWER_S, BucketAddress, Patience
from backstop.runtime.process.clock import NowMs

NAME = "bodies-of-tests"
KEY_ID, SECRET = "test-key", "test-secret"


@contextmanager
def s3_server(writes_of_a_name_max: int | None = None) -> Iterator[str]:
    """The address of a server with the empty bucket `NAME`. It takes so many writes of one name, and answers 429 to
    more, as R2 does to a second one within a second.
    """
    # Slow to import, and only the process that runs these tests needs them; each process of a session collects them.
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app  # noqa: PLC0415
    from moto.s3.models import s3_backends  # noqa: PLC0415
    from werkzeug.serving import make_server  # noqa: PLC0415

    moto, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()
    writes: Counter[str] = Counter()

    def one_at_a_time(environ: Any, start_response: Any) -> Iterable[bytes]:
        with lock:  # its puts of one key at one time close each other's files
            of_an_object = environ["PATH_INFO"].count("/") > 1
            if writes_of_a_name_max is not None and of_an_object and environ["REQUEST_METHOD"] == "PUT":
                writes[environ["PATH_INFO"]] += 1
                if writes[environ["PATH_INFO"]] > writes_of_a_name_max:
                    environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
                    start_response("429 Too Many Requests", [("Content-Type", "application/xml")])
                    return [b"<Error><Code>SlowDown</Code><Message>one write of a name a second</Message></Error>"]
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


def client(endpoint: str) -> Any:
    import boto3  # type: ignore[import-untyped]  # noqa: PLC0415 - as above

    return boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=KEY_ID, aws_secret_access_key=SECRET
    )


def bucket(
    endpoint: str,
    name: str = NAME,
    prefix: str = "deployment/one",
    answer_s: float = ANSWER_S,
    now_ms: NowMs | None = None,
) -> BucketClient:
    address = BucketAddress(name, prefix, endpoint, "us-east-1", KEY_ID, SecretStr(SECRET))
    return BucketClient(s3_requests(address, Patience(1)), answer_s=answer_s, now_ms=now_ms)


@dataclass
class Answers:
    status: int
    code: str
    sent: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Method, path and headers of each request."""
    one_at_a_time: bool = False
    """A request is answered once the answer to the one before was taken, or its connection was cut off."""


@contextmanager
def answering(answers: Answers) -> Iterator[str]:
    """A server that answers every request with one status and S3 error."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            answers.sent.append((self.command, self.path, {name.lower(): said for name, said in self.headers.items()}))
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = f"<?xml version='1.0'?>\n<Error><Code>{answers.code}</Code><Message>no</Message></Error>".encode()
            self.send_response(answers.status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"e"')
            self.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
            self.end_headers()
            with lock if answers.one_at_a_time else nullcontext(), suppress(OSError):
                self.wfile.write(body)

        do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815 - the names are the standard library's

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
