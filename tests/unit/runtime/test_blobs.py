"""Bodies: inline where they fit, by content hash where they do not, and never silently wrong."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from runtime.blobs import INLINE_DEPTH_MAX, FolderBlobs, get_body, put_body
from runtime.errors import BlobMissingError
from schemas.base import BlobBody, InlineBody


def stored(root: Path, value: Any, inline_bytes_max: int) -> Any:
    return asyncio.run(put_body(FolderBlobs(root), value, inline_bytes_max))


def test_a_body_is_inline_up_to_the_limit_and_a_blob_above_it(tmp_path: Path) -> None:
    value = {"a": "x" * 100}  # 108 bytes as JSON
    assert isinstance(stored(tmp_path, value, 108), InlineBody)
    body = stored(tmp_path, value, 107)
    assert isinstance(body, BlobBody)
    assert body.size_bytes == 108
    assert asyncio.run(get_body(FolderBlobs(tmp_path), body)) == value


def test_a_body_nested_too_deep_for_a_record_is_a_blob_however_small(tmp_path: Path) -> None:
    value: Any = 1
    for _ in range(INLINE_DEPTH_MAX):
        value = [value]
    assert isinstance(stored(tmp_path, value, 10_000), InlineBody)
    assert isinstance(stored(tmp_path, [value], 10_000), BlobBody)


@pytest.mark.parametrize("harm", ["gone", "cut", "changed"])
def test_a_blob_that_is_gone_cut_or_changed_is_told_apart_from_a_body(tmp_path: Path, harm: str) -> None:
    body = stored(tmp_path, {"a": 1}, 0)
    (path,) = (path for path in tmp_path.rglob("*") if path.is_file())
    if harm == "gone":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.write_bytes(path.read_bytes().replace(b"1", b"2"))
    with pytest.raises(BlobMissingError, match=body.sha256):
        asyncio.run(get_body(FolderBlobs(tmp_path), body))
