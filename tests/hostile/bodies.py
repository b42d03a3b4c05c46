"""Bodies that cost more than their size suggests. Each is nearly as large as a submission may be."""

from typing import Final

from schemas.requests import REQUEST_BYTES_MAX, REQUEST_VALUES_MAX

ROOM: Final = REQUEST_BYTES_MAX - 200


def _filled(unit: bytes, head: bytes, tail: bytes, size_bytes: int = ROOM) -> bytes:
    """`unit` repeated between `head` and `tail`, without the last comma; `size_bytes` bounds the repeats alone."""
    return head + (unit * (size_bytes // len(unit))).rstrip(b",") + tail


def _request(unit: bytes, size_bytes: int = ROOM) -> bytes:
    return _filled(unit, b'{"job_id":"h","request":{"model":"m","input":[', b"]}}", size_bytes)


def _names(count: int) -> bytes:
    """`count` members of an object, each with a name of its own."""
    return b",".join(b'"%x":0' % n for n in range(count))


_MODEL: Final = b'{"job_id":"h","request":{"model":"m"},'
_ALLOWED: Final = REQUEST_VALUES_MAX - 20

REFUSED: Final[dict[str, bytes]] = {
    "lists in lists": _request(b"[[[[[[]]]]]],"),
    "empty lists": _request(b"[],"),
    "empty objects": _request(b"{},"),
    "empty texts": _request(b'"",'),
    "numbers": _request(b"0,"),
    "large numbers": _request(b"1e308,"),
    "escaped quotes between values": _request(b'"\\"","\\\\",'),
    "equal names": _filled(b'"a":0,', b'{"job_id":"h","request":{"model":"m","input":{', b"}}}"),
    "names": b'{"job_id":"h","request":{"model":"m",' + _names(100_000) + b"}}",
    "unknown fields": _MODEL + _names(100_000) + b"}",
    "unknown fields, few values": _MODEL + _names(9_000) + b"}",
    "empty tags": _filled(b'"",', _MODEL + b'"tags":[', b"]}"),
    "empty tags, few values": _filled(b'"",', _MODEL + b'"tags":[', b"]}", 3 * 20_000),
    "tags of many kinds": _filled(b'0,{},[],null,"",', _MODEL + b'"tags":[', b"]}", 90_000),
    "metadata": b'{"job_id":"h","request":{"model":"m","metadata":{' + _names(9_000) + b"}}}",
    "deep": b'{"job_id":"h","request":{"model":"m","input":' + b"[" * 400_000 + b"]" * 400_000 + b"}}",
    "deep, not closed": b'{"job_id":"h","request":{"model":"m","input":' + b"[" * ROOM,
    "deep objects": b'{"a":' * (ROOM // 5),
    "brackets and no more": b"[" * ROOM,
    "commas": b"," * ROOM,
    "quotes": b'"' * ROOM,
    "backslashes": b'"' + b"\\" * ROOM,
    "a number of a megabyte": _MODEL + b'"timeout_ms":' + b"9" * ROOM + b"}",
}
"""None of them is a submission."""

TAKEN: Final[dict[str, bytes]] = {
    "as many lists as allowed": _request(b"[],", 3 * (_ALLOWED // 2)),
    "as many texts as allowed": _request(b'"",', 3 * _ALLOWED),
    "as many names as allowed": b'{"job_id":"h","request":{"model":"m","input":{' + _names(_ALLOWED // 2) + b"}}}",
    "a text of a megabyte": _filled(b"[{,:", b'{"job_id":"h","request":{"model":"m","input":"', b'"}}'),
    "a text of escapes": _filled(b'\\"[', b'{"job_id":"h","request":{"model":"m","input":"', b'"}}'),
    "a text of escaped characters": _filled(b"\\u00e9", b'{"job_id":"h","request":{"model":"m","input":"', b'"}}'),
}
"""Submissions that reach a limit and are taken."""
