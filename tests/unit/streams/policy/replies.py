"""Answers as OpenAI and its edge write them."""

from streams.openai.answers import ProviderAnswer

NOW_MS = 1_795_341_600_000


def error(
    status: int, code: str | None = None, kind: str | None = None, message: str = "", **headers: str
) -> ProviderAnswer:
    body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return ProviderAnswer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


HTML_403, HTML_429, HTML_502 = (ProviderAnswer(status) for status in (403, 429, 502))
