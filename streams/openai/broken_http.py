"""What an answer says that is no right HTTP, or that broke off: its status, its headers, and its body. Pure; total.

The parser of the connection refuses an answer as a whole for one wrong byte: a `Content-Length` that is too short or
stands there twice, a size of a chunk that is none, a header without a colon. The response may have been created, and
the answer may name it. Where sizes contradict the bytes, the bytes count. The connection is closed behind it.
"""

import re
from dataclasses import dataclass
from typing import Final

_STATUS: Final = re.compile(rb"\s*(?i:http)(?:/[0-9.]+)?[ \t]+([1-5][0-9]{2})(?![0-9])[^\n]*(?:\n|$)")
_BLANK: Final = re.compile(rb"\n\r?\n")
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CHUNK: Final = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\n]*)?\r?\n")
_END: Final = re.compile(rb"\r?\n")
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

INTERIM_MAX: Final = 16
"""Answers such as `103 Early Hints` before the last one."""


HEADERS_MAX: Final = 1_000
"""Lines of a head that are read, so that a head of short lines does not hold up the loop."""


@dataclass(frozen=True, slots=True)
class RawAnswer:
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    """Without those that are none."""
    body: bytes
    """What came of it. Its packing stays."""


def raw_answer(content: bytes) -> RawAnswer | None:
    """The answer at the beginning of what a connection received; None if there is none."""
    for _ in range(INTERIM_MAX):
        line = _STATUS.match(content)
        if line is None:
            return None
        status, rest = int(line[1]), content[line.end() :]
        blank = _BLANK.search(b"\n" + rest)
        head, content = (rest, b"") if blank is None else (rest[: max(0, blank.start() - 1)], rest[blank.end() - 1 :])
        if status >= 200:
            headers = _headers(head)
            chunked = any(name == b"transfer-encoding" and b"chunked" in value.lower() for name, value in headers)
            return RawAnswer(status, headers, _dechunked(content) if chunked else content)
    return None


def _headers(head: bytes) -> tuple[tuple[bytes, bytes], ...]:
    found: list[tuple[bytes, bytes]] = []
    for line in head.split(b"\n", HEADERS_MAX)[:HEADERS_MAX]:
        name, colon, value = line.partition(b":")
        name = name.rstrip(b" \t").lower()
        if colon and _NAME.fullmatch(name):
            found.append((name, _CONTROL.sub(b" ", value).strip()))
    return tuple(found)


def _dechunked(content: bytes) -> bytes:
    """The chunks together. From a size on that is wrong, the bytes as they are."""
    body, at = b"", 0
    while size := _CHUNK.match(content, at):
        begins, length = size.end(), int(size[1], 16)
        if length == 0:
            return body
        chunk = content[begins : begins + length]
        if len(chunk) < length:
            return body + chunk
        ends = _END.match(content, begins + length)
        if ends is None:
            return body + content[begins:]
        body, at = body + chunk, ends.end()
    return body + content[at:]
