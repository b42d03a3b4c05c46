"""Removes what looks like a secret from text for people: log lines, errors, messages of the command line."""

import re

REDACTED = "[redacted]"

_SECRETS = re.compile(
    r"\bwhsec_[A-Za-z0-9+/=_\-]+"
    r"|\b(?:sk|bsk|rk|sess)[-_][A-Za-z0-9_\-]{8,}"
    r"|(?i:\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=\-]{6,}"
    r"|(?i:\b(?:sasl_plain_)?password\s*=\s*)(?:'(?:[^'\\]|\\.)*'|\"[^\"]*\"|[^\s,)]+)"
)
_USERINFO = re.compile(r"(?i)\b([a-z][a-z0-9+.\-]{1,20}://)[^\s/?#\"'<>]*:[^\s\"'<>]*@")
"""User name and password of a URL, up to its last @: an unescaped password may contain slashes and at signs."""
_NAMED = re.compile(
    r"(?i)((?:pass(?:word|wd|phrase)|pwd|secret|token|cookie|ticket|signature|credential|[?&;]sig"
    r"|(?:api|access|account|private|secret|signing)[-_]?key)\\*[\"']?\s*[=:]\s*)(\\*[\"'])?"
    r"(?!\[redacted\]|null\b|true\b|false\b|\d+[,}]|[\[{])(?(2)[^\"'\\]+|[^\s\"'\\,;&)}\]]+)"
)
"""A value behind a name that ends in a word for a secret, quoted or not, also as JSON in JSON."""
_WHOLE = re.compile(
    r"\beyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]+\.[A-Za-z0-9_\-]*"  # a signed token (JWT)
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----(?:(?!-----)[\s\S])*(?:-----END [A-Z ]*PRIVATE KEY-----)?"
)
_AUTHORIZATION = re.compile(
    r"(?i)(authorization[\"']?\s*[:=,]\s*[\"']?)(?!\[redacted\])[^\s\"',}]+(?:\s+[^\s\"',})]+)?"
)


def redact(text: str) -> str:
    """`text` with API keys, webhook secrets, authorization values, passwords (also in URLs), and what stands behind a
    secret's name replaced by `[redacted]`.
    """
    # A function, not a template: parsing one imports a module, which fails while the interpreter shuts down.
    text = _USERINFO.sub(lambda found: f"{found.group(1)}{REDACTED}@", _SECRETS.sub(REDACTED, text))
    text = _AUTHORIZATION.sub(lambda found: found.group(1) + REDACTED, _WHOLE.sub(REDACTED, text))
    return _NAMED.sub(lambda found: f"{found.group(1)}{found.group(2) or ''}{REDACTED}", text)
