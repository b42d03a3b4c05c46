"""The only source of random values. Each value drawn is stamped on the event that it shapes."""

import secrets
from collections.abc import Callable

RandomHex = Callable[[int], str]


def random_hex(bits: int) -> str:
    """`bits` random bits from the operating system, as hex."""
    return secrets.token_hex(bits // 8)
