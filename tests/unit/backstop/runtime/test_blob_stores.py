"""One conformance suite for all blob stores and claims: a folder and a bucket keep the same promises."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from backstop.runtime.blob_stores import Storage, open_storage
from backstop.runtime.blobs import MARK, MARK_BYTES_MAX, Bodies, FolderBlobs, get_body
from backstop.runtime.bucket import BucketClaims
from backstop.runtime.errors import BlobMissingError, BlobStoreError
from backstop.runtime.settings import RuntimeSettings
from schemas.base import BlobBody
from schemas.codec import sha256_hex
from tests.unit.backstop.runtime.azure_server import ACCOUNT, ACCOUNT_KEY, AZURITE, azurite
from tests.unit.backstop.runtime.buckets import run
from tests.unit.backstop.runtime.gcs_server import FAKE_GCS, WITHOUT_GCS, fake_gcs, google_bucket, google_server
from tests.unit.backstop.runtime.minio_server import MINIO, WITHOUT, minio
from tests.unit.backstop.runtime.s3_server import KEY_ID, NAME, SECRET, Answers, answering, bucket, client, s3_server

MARKED = MARK + b'deleted response","id":"r"}'


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture(scope="module")
def azure() -> Iterator[str]:
    with azurite() as address:
        yield address


@pytest.fixture(scope="module")
def real() -> Iterator[str]:
    with minio() as address:
        yield address


@pytest.fixture(scope="module")
def google() -> Iterator[str]:
    with google_server() as address:
        yield address


@pytest.fixture(scope="module")
def fake_google() -> Iterator[str]:
    with fake_gcs() as address:
        yield address


OF_MINIO = pytest.mark.skipif(MINIO is None, reason=WITHOUT)
OF_FAKE_GCS = pytest.mark.skipif(FAKE_GCS is None, reason=WITHOUT_GCS)
STORES = [
    "folder", "bucket", "google", pytest.param("minio", marks=OF_MINIO), pytest.param("fake_google", marks=OF_FAKE_GCS),
    *(["container"] if AZURITE is not None else []),
]  # fmt: skip


@pytest.fixture(params=STORES)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "container":
        named = {"blobs": f"az://{NAME}/{tmp_path.name}", "blobs_endpoint": request.getfixturevalue("azure")}
        return open_storage(RuntimeSettings(blobs_key_id=ACCOUNT, blobs_secret_key=SecretStr(ACCOUNT_KEY), **named))
    if request.param == "folder":
        return open_storage(RuntimeSettings(blob_dir=tmp_path))
    if request.param in {"google", "fake_google"}:
        return google_storage(request.getfixturevalue(request.param), tmp_path.name)
    address = request.getfixturevalue("real" if request.param == "minio" else "endpoint")
    opened = open_storage(bucket_settings(address, prefix=tmp_path.name))
    # With time for a machine that does much else.
    return replace(opened, claims=BucketClaims(bucket(address, prefix=tmp_path.name), within_s=60))


def google_storage(endpoint: str, prefix: str) -> Storage:
    opened = open_storage(RuntimeSettings(blobs=f"gs://{NAME}/{prefix}", blobs_endpoint=endpoint))
    patient = google_bucket(endpoint, prefix=prefix)

    async def close() -> None:
        await opened.close()
        await patient.close()

    return replace(opened, claims=BucketClaims(patient, within_s=60), close=close)


def bucket_settings(endpoint: str, prefix: str = "p", name: str = NAME) -> RuntimeSettings:
    return RuntimeSettings(
        blobs=f"s3://{name}/{prefix}", blobs_endpoint=endpoint, blobs_region="us-east-1", blobs_key_id=KEY_ID,
        blobs_secret_key=SecretStr(SECRET),
    )  # fmt: skip


def test_what_was_put_is_there_under_its_hash(storage: Storage) -> None:
    async def story() -> None:
        for data in (b"", b"x", bytes(range(256)) * 40_000):
            sha256 = await storage.blobs.put(memoryview(data))
            assert sha256 == sha256_hex(data)
            assert await storage.blobs.get(sha256) == data
            assert await storage.blobs.put(data) == sha256

    run(storage, story())


def test_a_body_comes_back_as_the_value_that_it_was(storage: Storage) -> None:
    async def story() -> None:
        value = {"input": "é😀" * 1_000, "n": [1, None]}
        body = await Bodies(storage.blobs, 0).put(value)
        assert await get_body(storage.blobs, body) == value

    run(storage, story())


def test_equal_bodies_at_one_time_are_stored_each_time(storage: Storage) -> None:
    async def story() -> None:
        data = b"x" * 300_000
        puts = await asyncio.gather(*(storage.blobs.put(data) for _ in range(24)))
        assert set(puts) == {sha256_hex(data)}
        assert await storage.blobs.get(puts[0]) == data

    run(storage, story())


def test_a_blob_that_was_never_put_is_missing(storage: Storage) -> None:
    async def story() -> None:
        gone = BlobBody(sha256="0" * 64, size_bytes=1)
        with pytest.raises(BlobMissingError, match=gone.sha256):
            await get_body(storage.blobs, gone)

    run(storage, story())


def test_a_mark_is_there_once_it_was_put(storage: Storage) -> None:
    async def story() -> None:
        assert not await storage.blobs.has(MARKED)
        await storage.blobs.put(MARKED)
        assert await storage.blobs.has(MARKED)
        assert not await storage.blobs.has(MARKED + b" ")

    run(storage, story())


@pytest.mark.parametrize("size_bytes", [10, MARK_BYTES_MAX])
def test_a_body_that_begins_like_a_mark_is_read_back(storage: Storage, size_bytes: int) -> None:
    """A request may have a field of any name, and the first one of its text may be `backstop`."""

    async def story() -> None:
        value = {"backstop": "x" * size_bytes, "model": "m"}
        body = await Bodies(storage.blobs, 0).put(value)
        assert await get_body(storage.blobs, body) == value

    run(storage, story())


def test_a_body_that_begins_like_a_mark_is_swept_as_any_other(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    asyncio.run(blobs.put(MARK + b"x" * MARK_BYTES_MAX))
    asyncio.run(blobs.put(MARKED))
    assert blobs.sweep(1 << 60, 1 << 60) == 1
    assert asyncio.run(blobs.has(MARKED))


def test_of_claims_at_one_time_one_stands_for_all(storage: Storage) -> None:
    async def story() -> None:
        hashes = [sha256_hex(str(n).encode()) for n in range(12)]
        told = await asyncio.gather(*(storage.claims.claim("default:job", sha256) for sha256 in hashes))
        assert len(set(told)) == 1
        assert told[0] in hashes
        assert await storage.claims.claim("default:job", hashes[0]) == told[0]
        assert await storage.claims.claim("default:other", hashes[0]) == hashes[0]

    run(storage, story())


def test_a_store_that_works_has_no_complaint(storage: Storage) -> None:
    async def story() -> None:
        await storage.blobs.put(b"x")
        assert storage.complaint() is None

    run(storage, story())


def test_a_blob_of_another_content_is_missing_and_no_body(endpoint: str) -> None:
    async def story() -> None:
        store = open_storage(bucket_settings(endpoint, "torn"))
        sha256 = await store.blobs.put(b"whole")
        client(endpoint).put_object(Bucket=NAME, Key=f"torn/bodies/{sha256[:2]}/{sha256}", Body=b"who")
        with pytest.raises(BlobMissingError, match="another hash"):
            await store.blobs.get(sha256)

    asyncio.run(story())


def test_bodies_marks_and_claims_have_prefixes_that_rules_of_age_can_name(endpoint: str) -> None:
    async def story() -> None:
        store = open_storage(bucket_settings(endpoint, "apart"))
        await store.blobs.put(b"body")
        await store.blobs.put(MARKED)
        await store.claims.claim("default:job", "0" * 64)

    asyncio.run(story())
    found = client(endpoint).list_objects_v2(Bucket=NAME, Prefix="apart/")["Contents"]
    assert sorted(one["Key"].split("/")[1] for one in found) == ["bodies", "claims", "marks"]


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (403, "InvalidAccessKeyId", "refuses this key"),
        (403, "SignatureDoesNotMatch", "refuses this key"),
        (401, "Unauthorized", "refuses this key"),
        (400, "ExpiredToken", "refuses this key"),
        (403, "RequestTimeTooSkewed", "clock"),
        (400, "AuthorizationHeaderMalformed", "another region"),
        (404, "NoSuchBucket", "does not exist"),
        (503, "SlowDown", "fewer requests"),
        (429, "TooManyRequests", "fewer requests"),
        (500, "InternalError", "answers with an error"),
    ],
)
def test_troubles_of_the_store_are_told_apart(status: int, code: str, says: str) -> None:
    async def story(endpoint: str) -> None:
        store = open_storage(bucket_settings(endpoint))
        with pytest.raises(BlobStoreError, match=says):
            await store.blobs.put(b"x")
        with pytest.raises(BlobStoreError, match=says):
            await store.blobs.get("0" * 64)
        complaint = store.complaint()
        assert complaint is not None
        assert says in complaint
        assert endpoint not in complaint
        assert code not in complaint
        assert await store.claims.claim("j", "1" * 64) is None, "the log decides alone"

    with answering(Answers(status, code)) as endpoint:
        asyncio.run(story(endpoint))


def test_an_unreachable_store_is_an_error_and_not_a_missing_blob() -> None:
    async def story() -> None:
        store = open_storage(bucket_settings("http://127.0.0.1:1"))
        with pytest.raises(BlobStoreError, match="can't be reached"):
            await store.blobs.get("0" * 64)

    asyncio.run(story())


def test_a_missing_bucket_is_an_error_and_not_a_missing_blob(endpoint: str) -> None:
    async def story() -> None:
        store = open_storage(bucket_settings(endpoint, name="no-such-bucket"))
        for asking in (store.blobs.get("0" * 64), store.blobs.put(b"x"), store.blobs.has(MARKED)):
            with pytest.raises(BlobStoreError, match="does not exist"):
                await asking

    asyncio.run(story())


def test_trouble_and_its_end_are_known_without_traffic() -> None:
    async def story(endpoint: str, answers: Answers) -> None:
        watched = bucket(endpoint)
        probing = asyncio.create_task(watched.probe_for_ever())
        try:
            async with asyncio.timeout(20):
                while watched.complaint() is None:
                    await asyncio.sleep(0.02)
                answers.status, answers.code = 404, "NoSuchKey"
                with pytest.raises(FileNotFoundError):
                    await watched.get("probe")
                assert watched.complaint() is None
        finally:
            probing.cancel()
            await asyncio.gather(probing, return_exceptions=True)

    answers = Answers(403, "AccessDenied")
    with answering(answers) as endpoint:
        asyncio.run(story(endpoint, answers))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"blobs": "s3://bodies/p", "blob_dir": Path("x")}, "two blob stores"),
        ({"blobs": "s3://bodies/p", "blob_keep_days": 30}, "lifecycle rules"),
        ({"blobs": "https://bodies/p"}, "pattern"),
        ({"blobs": "s3://bodies/a/../b"}, "pattern"),
        ({"blobs": "s3://bodies/a//b"}, "pattern"),
        ({"blobs": "s3://bodies/."}, "pattern"),
        ({"blobs_key_id": "k"}, "go together"),
        ({"blobs_endpoint": "http://minio.example:9000"}, "clear text|https://"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        RuntimeSettings(**{"blobs": "s3://bodies", **given})  # type: ignore[arg-type]


def test_a_folder_that_can_not_be_read_is_no_missing_blob(tmp_path: Path) -> None:
    async def story() -> None:
        store = open_storage(RuntimeSettings(blob_dir=tmp_path))
        (tmp_path / "00" / ("0" * 64)).mkdir(parents=True)
        with pytest.raises(BlobStoreError, match="can't be read"):
            await store.blobs.get("0" * 64)

    asyncio.run(story())


def test_a_blob_is_removed_unless_it_was_put_again_since(storage: Storage) -> None:
    async def story() -> None:
        sha256 = await storage.blobs.put(b"x")
        assert await storage.remover.remove(sha256, 0) == "recent"
        assert await storage.blobs.get(sha256) == b"x"
        assert await asyncio.gather(*(storage.remover.remove(sha256, 1 << 60) for _ in range(2))) != ["absent"] * 2
        assert await storage.remover.remove(sha256, 1 << 60) == "absent"
        with pytest.raises(BlobMissingError):
            await storage.blobs.get(sha256)

    run(storage, story())


def test_a_large_blob_is_removed_without_delay(storage: Storage) -> None:
    async def story() -> None:
        sha256 = await storage.blobs.put(bytes(24 << 20))
        async with asyncio.timeout(10):
            assert await storage.remover.remove(sha256, 1 << 60) == "removed"

    run(storage, story())


def test_a_removal_that_was_killed_between_its_two_steps_is_finished_by_the_next(tmp_path: Path) -> None:
    async def story() -> None:
        blobs = FolderBlobs(tmp_path)
        sha256 = await blobs.put(b"x")
        path = tmp_path / sha256[:2] / sha256
        path.rename(path.with_name(f"{path.name}.swept"))
        assert await blobs.remove(sha256, 1 << 60) == "removed"
        assert not list(path.parent.iterdir())

    asyncio.run(story())
