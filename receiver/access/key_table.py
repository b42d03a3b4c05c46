"""What one keys file says, arranged so that each question about thousands of keys is answered at once."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

from backstop.runtime.http.keys import EXPIRES_SOON_S, ApiKey, InSteps, KeysFile, TenantLimits

_NO_LIMITS: Final = TenantLimits()


class KeyTable:
    """Never changed once it is made, so that threads may read it."""

    def __init__(self) -> None:
        self._by_id: dict[str, ApiKey] = {}
        self._tenants: dict[str, TenantLimits] = {}
        self._by_end: list[ApiKey] = []
        self._ends_ms: list[float] = []
        self._lasting = 0

    @classmethod
    def of(cls, content: KeysFile) -> InSteps["KeyTable"]:
        made = cls()
        made._tenants = content.tenants
        ends: list[tuple[float, str]] = []
        for key in content.keys:
            made._by_id[key.id] = key
            if key.revoked_at is None:
                made._lasting += 1
                if key.expires_at is not None:
                    ends.append((key.expires_at.timestamp() * 1000, key.id))
            yield
        ends.sort()
        made._ends_ms = [end_ms for end_ms, _ in ends]
        made._by_end = [made._by_id[key_id] for _, key_id in ends]
        return made

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, key_id: str) -> bool:
        return key_id in self._by_id

    def key(self, key_id: str) -> ApiKey | None:
        return self._by_id.get(key_id)

    def limits_of(self, tenant: str) -> TenantLimits:
        return self._tenants.get(tenant, _NO_LIMITS)

    def counts(self, now_ms: int) -> dict[str, int]:
        """The number of keys by state; expiring ones also count as live."""
        expired = bisect_right(self._ends_ms, now_ms)
        return {
            "live": self._lasting - expired,
            "expired": expired,
            "revoked": len(self._by_id) - self._lasting,
            "expiring": len(self.expiring(now_ms)),
        }

    def expiring(self, now_ms: int) -> Sequence[ApiKey]:
        """The keys that expire soon (`ApiKey.expires_soon`), the next one first."""
        soon_ms = now_ms + EXPIRES_SOON_S * 1000
        return self._by_end[bisect_right(self._ends_ms, now_ms) : bisect_right(self._ends_ms, soon_ms)]
