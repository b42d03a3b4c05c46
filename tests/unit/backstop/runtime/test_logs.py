"""What a log line looks like, and what never stands on one."""

import io
import logging
from collections.abc import Iterator

import orjson
import pytest

from backstop.runtime.process import logs
from backstop.runtime.process.redaction import REDACTED, redact

SECRETS = [
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "sk-proj-abcdefgh12345678",
    "bsk_live_0123456789abcdef",
    "Bearer abc.def-123456",
]


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    """JSON lines of everything logged in the test; the logging of the test run comes back afterwards."""
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    stream = io.StringIO()
    logs.configure("json", "info", "worker", stream)
    yield stream
    logging.captureWarnings(False)
    root.handlers[:], root.level = before


def lines(out: io.StringIO) -> list[dict[str, object]]:
    return [orjson.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_has_the_agreed_fields(out: io.StringIO) -> None:
    logs.get_logger("receiver").info("job_taken", job_id="j1", partition=3)
    (line,) = lines(out)
    ts = str(line.pop("ts"))
    assert ts.endswith("Z")
    assert line == {
        "level": "info",
        "event": "job_taken",
        "logger": "receiver",
        "process": "worker",
        "job_id": "j1",
        "partition": 3,
    }


def test_a_line_of_a_library_takes_the_same_form(out: io.StringIO) -> None:
    logging.getLogger("faust.app").warning("rebalanced %d times", 2)
    (line,) = lines(out)
    assert (line["event"], line["level"], line["process"]) == ("rebalanced 2 times", "warning", "worker")


def test_faust_never_logs_at_debug_whatever_the_level(out: io.StringIO) -> None:
    logs.configure("json", "debug", "worker", out)
    logging.getLogger("faust.tables").debug("a row with a prompt")
    logging.getLogger("mode").debug("noise")
    logs.get_logger("ours").debug("seen")
    assert [line["event"] for line in lines(out)] == ["seen"]


@pytest.mark.parametrize("secret", SECRETS)
def test_no_secret_reaches_a_line_in_event_field_or_traceback(out: io.StringIO, secret: str) -> None:
    log = logs.get_logger("x")
    log.info("event", text=f"before {secret} after", nested={"headers": [secret]})
    logging.getLogger("aiohttp").error("header %s", secret)
    try:
        raise ValueError(f"refused: {secret}")
    except ValueError:
        log.exception("failed")
    assert len(lines(out)) == 3
    assert secret.removeprefix("Bearer ") not in out.getvalue()
    assert REDACTED in out.getvalue()


def test_authorization_in_any_spelling_is_hidden(out: io.StringIO) -> None:
    logs.get_logger("x").info("call", authorization="Basic dXNlcjpwYXNz", headers="{'Authorization': 'opaque-value-1'}")
    assert "dXNlcjpwYXNz" not in out.getvalue()
    assert "opaque-value-1" not in out.getvalue()


def test_ordinary_words_are_left_alone() -> None:
    text = "task-12345678 of disk-usage in risk-assessment-2024"
    assert redact(text) == text


def test_a_logged_exception_names_its_type(out: io.StringIO) -> None:
    try:
        raise KeyError("k")
    except KeyError:
        logs.get_logger("x").exception("failed")
    (line,) = lines(out)
    assert line["error_type"] == "KeyError"
    assert "Traceback" in str(line["exception"])


def test_people_get_columns_and_no_json() -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    logs.configure("console", "info", "", stream)
    try:
        logs.get_logger("x").info("started", port=8080)
    finally:
        root.handlers[:], root.level = before
        logging.captureWarnings(False)
    assert "started" in stream.getvalue()
    assert "port=8080" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_a_chatty_library_says_the_same_thing_once_in_a_while(out: io.StringIO) -> None:
    for number in range(50):
        logging.getLogger("aiokafka.conn").error("Unable connect to node with id %s", number)
    logging.getLogger("aiokafka.conn").error("Something else")
    events = [orjson.loads(line)["event"] for line in out.getvalue().splitlines()]
    assert events == ["Unable connect to node with id 0", "Something else"]
