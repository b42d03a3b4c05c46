"""Submissions that were stored before there were keys, read by a receiver that has some."""

import base64
from pathlib import Path

from backstop.runtime.blobs import FolderBlobs
from backstop.runtime.encrypted_blobs import EncryptedBlobs, payload_keys
from tests.unit.receiver.ingress import NOW_MS, Ingress, with_ingress
from tests.unit.receiver.reads import MemoryReads
from tests.unit.receiver.sdk_caller import ASKED, sdk, submitted


def test_a_response_from_before_the_keys_still_shows_its_request_and_its_input(tmp_path: Path) -> None:
    reads, plain = MemoryReads(), FolderBlobs(tmp_path)

    async def before(ingress: Ingress) -> None:
        async with sdk(ingress) as client:
            created = await client.responses.create(**ASKED, metadata={"mine": "kept"})
        (fact,) = submitted(ingress)
        reads.add("default", created.id, status="running", submitted_at_ms=NOW_MS, request_sha256=fact.request_sha256)

    async def since(ingress: Ingress) -> None:
        (response_id,) = reads.jobs
        async with sdk(ingress) as client:
            assert (await client.responses.retrieve(response_id)).metadata == {"mine": "kept"}
            assert len((await client.responses.input_items.list(response_id)).data) == 1

    with_ingress(before, reads=reads, blobs=plain)
    keys = payload_keys(f"default:{base64.b64encode(bytes(32)).decode()}")
    with_ingress(since, reads=reads, blobs=EncryptedBlobs(plain, keys))
