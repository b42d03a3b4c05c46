"""What differs between two runs with the same input."""

from dataclasses import dataclass

from backstop.runtime.process.chance import RandomHex
from backstop.runtime.process.clock import NowMs


@dataclass(frozen=True, slots=True)
class Sources:
    """Where times and new ids come from."""

    now_ms: NowMs
    random_hex: RandomHex
