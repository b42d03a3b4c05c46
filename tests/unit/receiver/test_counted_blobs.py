"""Bodies that count in the memory for answers are those of the store behind."""

import asyncio
import base64
from pathlib import Path

from pydantic import SecretStr

from backstop.runtime.blob_stores import open_storage
from backstop.runtime.blobs import blobs_of, name_of
from backstop.runtime.settings import RuntimeSettings
from receiver.answers import CountedBlobs, ReadMemory
from schemas.codec import sha256_hex

KEY = base64.b64encode(bytes(32)).decode()
DATA = b"what only the caller and the model may know"


def test_a_counted_store_with_a_key_for_each_tenant_reads_what_the_tenants_own_store_wrote(tmp_path: Path) -> None:
    keys = SecretStr(f"default:{KEY},acme:{KEY}")
    stored = open_storage(RuntimeSettings(blob_dir=tmp_path, payload_keys=keys, inline_bytes_max=0)).blobs
    counted = CountedBlobs(stored, ReadMemory(1_000, 1))

    async def story() -> list[bytes]:
        found = []
        for tenant in ("acme", "globex"):
            name = await blobs_of(stored, tenant).put(DATA)
            assert name == name_of(counted, tenant, sha256_hex(DATA))
            found.append(bytes(await blobs_of(counted, tenant).get(name)))
        return found

    assert asyncio.run(story()) == [DATA, DATA]
