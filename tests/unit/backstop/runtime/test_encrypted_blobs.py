"""Bodies encrypted at rest: what is on the disk, who can read it, and what a lost key or an altered blob says."""

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from backstop.runtime import unwrapped_keys
from backstop.runtime.blob_stores import Storage, open_storage
from backstop.runtime.blobs import MARK, Bodies, FolderBlobs, blobs_of, get_body, name_of
from backstop.runtime.encrypted_blobs import NONCE_BYTES
from backstop.runtime.errors import BlobMissingError, ConfigurationError
from backstop.runtime.settings import RuntimeSettings
from schemas.base import BlobBody
from schemas.codec import sha256_hex
from tests.unit.backstop.runtime.buckets import run
from tests.unit.backstop.runtime.gcs_server import google_server
from tests.unit.backstop.runtime.s3_server import KEY_ID, NAME, SECRET, s3_server

TAG_BYTES = 16
TEXT = "what only the caller and the model may know"
MARKED = MARK + b'deleted response","id":"r"}'


def key(number: int) -> str:
    return base64.b64encode(bytes([number]) * 32).decode()


KEYS = f"default:{key(1)},acme:{key(2)}"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture(scope="module")
def google() -> Iterator[str]:
    with google_server() as address:
        yield address


def encrypted(folder: Path, keys: str = KEYS) -> Storage:
    return open_storage(RuntimeSettings(blob_dir=folder, payload_keys=SecretStr(keys), inline_bytes_max=0))


@pytest.fixture(params=["folder", "bucket", "google"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return encrypted(tmp_path)
    if request.param == "google":
        named = {"blobs": f"gs://{NAME}/{tmp_path.name}", "blobs_endpoint": request.getfixturevalue("google")}
        return open_storage(RuntimeSettings(payload_keys=SecretStr(KEYS), inline_bytes_max=0, **named))
    return open_storage(
        RuntimeSettings(
            blobs=f"s3://{NAME}/{tmp_path.name}", blobs_endpoint=request.getfixturevalue("endpoint"),
            blobs_region="us-east-1", blobs_key_id=KEY_ID, blobs_secret_key=SecretStr(SECRET),
            payload_keys=SecretStr(KEYS), inline_bytes_max=0,
        )
    )  # fmt: skip


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_a_body_of_any_size_comes_back_and_a_repeat_is_the_same_blob(storage: Storage) -> None:
    async def story() -> None:
        of_acme = Bodies(storage.blobs, 0).of("acme")
        for value in ({"input": TEXT}, {"input": TEXT * 5_000}, 1):
            body, again = await of_acme.put(value), await of_acme.put(value)
            assert isinstance(body, BlobBody)
            assert body == again
            assert await get_body(storage.blobs, body) == value
            assert await storage.remover.remove(body.sha256, 1 << 60) == "removed"
            with pytest.raises(BlobMissingError):
                await storage.blobs.get(body.sha256)

    run(storage, story())


def test_the_disk_tells_nothing_and_tenants_share_no_blob(tmp_path: Path) -> None:
    async def story() -> None:
        blobs = encrypted(tmp_path).blobs
        data = TEXT.encode()
        names = [await blobs_of(blobs, tenant).put(data) for tenant in ("default", "acme", "without-a-key")]
        assert len(set(names)) == 3
        assert names == [name_of(blobs, tenant, sha256_hex(data)) for tenant in ("default", "acme", "without-a-key")]
        assert [await blobs.get(name) for name in names] == [data] * 3

    asyncio.run(story())
    assert TEXT.encode() not in on_disk(tmp_path)


def test_marks_stay_readable_and_bodies_from_before_the_keys_too(tmp_path: Path) -> None:
    async def story() -> None:
        plain = FolderBlobs(tmp_path)
        before = await plain.put(TEXT.encode())
        blobs = encrypted(tmp_path).blobs
        await blobs.put(MARKED)
        assert await plain.has(MARKED)
        assert await blobs.has(MARKED)
        assert await blobs.get(before) == TEXT.encode()
        (tmp_path / before[:2] / before).write_bytes(b"torn")
        with pytest.raises(BlobMissingError, match="another hash"):
            await blobs.get(before)

    asyncio.run(story())


def test_a_lost_key_names_the_tenant_whose_data_are_gone_and_others_go_on(tmp_path: Path) -> None:
    async def story() -> None:
        blobs = encrypted(tmp_path).blobs
        ours, theirs = [await blobs_of(blobs, tenant).put(TEXT.encode()) for tenant in ("default", "acme")]
        without = encrypted(tmp_path, f"default:{key(1)}").blobs
        assert await without.get(ours) == TEXT.encode()
        with pytest.raises(BlobMissingError, match=r"key [0-9a-f]{12} of tenant acme.*give it back"):
            await without.get(theirs)
        turned = encrypted(tmp_path, f"default:{key(1)},acme:{key(3)},acme:{key(2)}").blobs
        assert await turned.get(theirs) == TEXT.encode()

    asyncio.run(story())


def test_an_altered_blob_and_one_in_anothers_place_are_refused(tmp_path: Path) -> None:
    async def story() -> None:
        blobs = encrypted(tmp_path).blobs
        one, other = await blobs.put(b"one"), await blobs.put(b"other")
        path, place = tmp_path / one[:2] / one, tmp_path / other[:2] / other
        sealed = path.read_bytes()
        place.write_bytes(sealed)
        with pytest.raises(BlobMissingError, match="altered"):
            await blobs.get(other)
        path.write_bytes(sealed[:-1] + bytes([sealed[-1] ^ 1]))
        with pytest.raises(BlobMissingError, match="altered"):
            await blobs.get(one)

    asyncio.run(story())


def test_tenants_that_share_a_key_share_no_nonce_and_no_byte_of_content(tmp_path: Path) -> None:
    async def story() -> None:
        blobs = encrypted(tmp_path).blobs
        names = [await blobs_of(blobs, tenant).put(TEXT.encode()) for tenant in ("one", "other")]
        one, other = [(tmp_path / name[:2] / name).read_bytes().split(b"\n", 2)[2] for name in names]
        assert one[:NONCE_BYTES] != other[:NONCE_BYTES]
        assert one[NONCE_BYTES:-TAG_BYTES] != other[NONCE_BYTES:-TAG_BYTES]

    asyncio.run(story())


def test_a_blob_that_is_cut_anywhere_is_refused_as_one_that_is_missing(tmp_path: Path) -> None:
    async def story() -> None:
        blobs = encrypted(tmp_path).blobs
        name = await blobs.put(TEXT.encode())
        path = tmp_path / name[:2] / name
        sealed = path.read_bytes()
        for size_bytes in range(len(sealed)):
            path.write_bytes(sealed[:size_bytes])
            with pytest.raises(BlobMissingError):
                await blobs.get(name)

    asyncio.run(story())


@pytest.mark.parametrize("keys", ["acme", "acme:short", f"acme:{key(1)}", "default:" + "x" * 44])
def test_wrong_keys_end_the_start_with_a_sentence_that_quotes_none(tmp_path: Path, keys: str) -> None:
    with pytest.raises(ConfigurationError, match="BACKSTOP_PAYLOAD_KEYS") as caught:
        encrypted(tmp_path, keys)
    assert key(1) not in str(caught.value)


def test_keys_without_the_setting_that_puts_each_body_in_the_store_are_refused() -> None:
    with pytest.raises(ValidationError, match="BACKSTOP_INLINE_BYTES_MAX=0"):
        RuntimeSettings(payload_keys=SecretStr(KEYS))


def unwrapping(folder: Path, command: str, wrapped: str | None) -> Storage:
    keys = None if wrapped is None else SecretStr(wrapped)
    return open_storage(
        RuntimeSettings(blob_dir=folder, payload_keys=keys, payload_keys_command=command, inline_bytes_max=0)
    )


def test_a_command_unwraps_the_keys_that_a_kms_holds(tmp_path: Path) -> None:
    """`base64 -d` in the place of a KMS: what is in the environment is of no use without it."""
    wrapped = base64.b64encode(KEYS.replace(",", "\n").encode()).decode()

    async def story() -> None:
        body = await Bodies(encrypted(tmp_path).blobs, 0).of("acme").put({"input": TEXT})
        for storage in (unwrapping(tmp_path, "base64 -d", wrapped), unwrapping(tmp_path, f"echo {KEYS}", None)):
            assert await get_body(storage.blobs, body) == {"input": TEXT}

    asyncio.run(story())


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("no-such-kms decrypt", "can't be run: .*no-such-kms"),
        ("sh -c 'echo access denied >&2; exit 3'", "ended with 3: access denied"),
        ("true", "printed nothing"),
        ("sh -c 'yes | head -c 2000000'", "printed more than 1048576 bytes"),
        ("sh -c 'yes & yes'", "printed more than 1048576 bytes"),
        ("sh -c 'yes >&2 & yes | head -c 100; exit 1'", "did not end within 0.2 s"),
        ("sh -c 'yes | head -c 2000000 >&2; echo access denied >&2; exit 3'", "ended with 3: .*access denied"),
        ("printf '\\377\\376'", "printed bytes that are no text"),
        ("echo 'unclosed", "can't be run: No closing quotation"),
        ("echo mistaken", "BACKSTOP_PAYLOAD_KEYS, key 1: write TENANT:KEY"),
        ("sh -c 'sleep 60'", "did not end within 0.2 s"),
    ],
)
def test_a_command_that_gives_no_keys_ends_the_start_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, sentence: str
) -> None:
    if "did not end" in sentence:
        monkeypatch.setattr(unwrapped_keys, "UNWRAP_TIMEOUT_S", 0.2)
    with pytest.raises(ConfigurationError, match=sentence) as caught:
        unwrapping(tmp_path, command, KEYS)
    assert key(1) not in str(caught.value)
