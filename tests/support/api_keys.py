"""One API key of each tenant, in a file as `backstop keys` writes it."""

import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from backstop.runtime.http.keys import ApiKey, KeysFile, Scope, TenantLimits, make_token, save_keys

CREATED = datetime.fromtimestamp(0, UTC)


def write_keys(
    path: Path, scopes: Mapping[str, Iterable[Scope]], limits: Mapping[str, TenantLimits] | None = None
) -> dict[str, str]:
    """:param scopes: of the key of each tenant.

    :returns: the token of each tenant.
    """
    kept, tokens = [], {}
    for number, (tenant, granted) in enumerate(scopes.items()):
        key_id = f"{number:012x}"
        tokens[tenant], sha256 = make_token(key_id, os.urandom(32))
        kept.append(ApiKey(id=key_id, tenant=tenant, scopes=frozenset(granted), sha256=sha256, created_at=CREATED))
    save_keys(path, KeysFile(keys=tuple(kept), tenants=dict(limits or {})))
    return tokens
