"""Identifiers in the forms seen. They come from the system's generator and not from the seed: two servers started with
one seed must not give two responses one id.
"""

from __future__ import annotations

import secrets


def response_id() -> str:
    """`resp_` and 48 hex digits."""
    return f"resp_{secrets.token_hex(24)}"


def hex_id(prefix: str) -> str:
    """`evt_`, `wh_`, `msg_` or `req_` and 32 hex digits."""
    return f"{prefix}_{secrets.token_hex(16)}"
