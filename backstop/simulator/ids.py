"""Identifiers in the forms seen at providers. They are random and independent of the seed: two servers with one seed
must not give the same id to two responses.
"""

from __future__ import annotations

import base64
import secrets
from typing import Final, Literal, get_args

UsableIdForm = Literal["hex", "short", "gateway", "printable"]
IdForm = UsableIdForm | Literal["too_long", "not_ascii"]
AnyIdForm = Literal["hex", "short", "gateway", "printable", "too_long", "not_ascii", "any"]
USABLE_ID_FORMS: Final[tuple[UsableIdForm, ...]] = get_args(UsableIdForm)
ANY_ID_FORMS: Final[tuple[AnyIdForm, ...]] = get_args(AnyIdForm)
GATEWAY_BYTES: Final = 334  # 453 characters with `resp_`, the last two of them `==`
PRINTABLE_CHARS_MAX: Final = 1024
# Characters with a meaning in paths, queries or forms.
AWKWARD: Final = "/?#%=+:@&;,'\"<>{}[]|\\^`~$!*()."
_PRINTABLE: Final = "".join(map(chr, range(0x21, 0x7F)))


def response_id(form: IdForm = "hex") -> str:
    """An id in one of the forms that servers use.

    `hex`: `resp_` and 48 hex digits, OpenAI's. `short`: `resp_` and base64 with its padding. `gateway`: 453 characters
    that end in `==`, as a gateway encodes its routing. `printable`: up to 1,024 printable ASCII characters. Forms that
    a client may refuse: `too_long`: 1,100 characters; `not_ascii`: letters of other alphabets.
    """
    match form:
        case "hex":
            return f"resp_{secrets.token_hex(24)}"
        case "short":
            return f"resp_{base64.b64encode(secrets.token_bytes(7)).decode()}"
        case "gateway":
            routing = b"litellm:custom_llm_provider:openai;model_id:0123456789abcdef;response_id:resp_"
            return f"resp_{base64.b64encode(routing + secrets.token_bytes(GATEWAY_BYTES - len(routing))).decode()}"
        case "printable":
            size = 64 + secrets.randbelow(PRINTABLE_CHARS_MAX - 63) - len(AWKWARD)
            return "".join(secrets.choice(_PRINTABLE) for _ in range(size)) + AWKWARD
        case "too_long":
            return f"resp_{secrets.token_hex(550)[5:]}"
        case "not_ascii":
            return f"resp_ответ_{secrets.token_hex(16)}"


def hex_id(prefix: str) -> str:
    """`evt_`, `wh_`, `msg_` or `req_` and 32 hex digits."""
    return f"{prefix}_{secrets.token_hex(16)}"
