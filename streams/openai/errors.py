"""Code, kind and words of an error, in each of the forms in which servers tell one. Pure; total over any JSON.

OpenAI's form is `{"error": {"code": …, "type": …, "message": …}}`. Others are `{"detail": …}` (FastAPI), RFC 9457
problems, lists of errors, an error in an error, JSON in a message (gateways), pages (proxies) and plain text.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from streams.openai.foreign_json import NOT_JSON, parse

DEPTH_MAX: Final = 5
ITEMS_MAX: Final = 8

_NAMES: Final = (
    "message", "errormessage", "errordescription", "error", "errors", "detail", "details", "title", "msg", "reason",
    "description", "faultstring", "fault", "lasterror", "statusdetails", "status", "text",
)  # fmt: skip
"""Members that have the words, the most telling first, in small letters without marks."""

_NO_WORDS: Final = frozenset(("status",))
"""Members whose text is no explanation; an object in them may have one."""

_TITLE: Final = re.compile(r"<(title|h1|message|faultstring)\b[^>]*>\s*([^<]{1,500})", re.IGNORECASE)


def words_of(value: Any) -> str | None:
    """The explanation in an error or in an answer that holds one; None if there is none."""
    return _words(value, DEPTH_MAX)


def _words(value: Any, depth: int) -> str | None:
    if isinstance(value, str):
        return _told(value, depth) if value.strip() else None
    if not depth:
        return None
    if isinstance(value, list):
        return next((said for item in value[:ITEMS_MAX] if (said := _words(item, depth - 1)) is not None), None)
    if not isinstance(value, dict):
        return None
    members = {re.sub(r"[^a-z]", "", name.lower()): item for name, item in value.items() if isinstance(name, str)}
    for name in _NAMES:
        item = members.get(name)
        said = None if name in _NO_WORDS and isinstance(item, str) else _words(item, depth - 1)
        if said is not None:
            inner = _words(member(members.get("metadata"), "raw"), depth - 1)  # What a gateway's own upstream said.
            return f"{said}: {inner}" if inner is not None else said
    return None


def _told(text: str, depth: int) -> str:
    """A text, or what is said inside of it: JSON, or a page."""
    begins = text.lstrip()[:1]
    if depth and begins in ("{", "["):
        inside = parse(text.encode("utf-8", "replace"))
        said = _words(inside, depth - 1) if inside is not NOT_JSON and not isinstance(inside, str) else None
        return said or text
    return page_title(text) if begins == "<" else text


def page_title(text: str) -> str:
    """The title or message of a page (HTML, XML); the text itself if there is none."""
    found = _TITLE.search(text)
    return found[2].strip() if found is not None and found[2].strip() else text


def fields_of(error: Any) -> Mapping[str, Any]:
    """The object that has code and type of an error: the error itself, the first of a list, or an error inside it."""
    for _ in range(DEPTH_MAX):
        if isinstance(error, list) and error:
            error = error[0]
        elif isinstance(error, dict) and isinstance(error.get("error"), dict | list) and not _coded(error):
            error = error["error"]
        elif isinstance(error, dict) and isinstance(error.get("detail"), dict) and not _coded(error):
            error = error["detail"]
        else:
            break
    return error if isinstance(error, dict) else {}


def _coded(error: Mapping[str, Any]) -> bool:
    return isinstance(error.get("code"), str | int)


def code_of(fields: Mapping[str, Any]) -> Any:
    """The code of an error; a number as a text. Google's errors have a word (`status`) beside a number."""
    code = fields.get("code")
    if isinstance(code, int) and not isinstance(code, bool):
        word = fields.get("status")
        return word if isinstance(word, str) else str(code)
    return code


def failure_of(body: Mapping[str, Any]) -> Any:
    """The error of a failed response, wherever the server put it."""
    details = body.get("status_details")
    return body.get("error") or body.get("last_error") or member(details, "error") or details


def member(value: Any, name: str) -> Any:
    """A member of parsed JSON; None of what is no object."""
    return value.get(name) if isinstance(value, dict) else None
