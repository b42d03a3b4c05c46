"""The first claim of an id wins, for all processes."""

import asyncio
from pathlib import Path

import pytest

from backstop.runtime.claims import FolderClaims

SHAS = [f"{number:064x}" for number in range(16)]


def test_of_claims_at_one_time_one_stands_and_all_hear_which(tmp_path: Path) -> None:
    async def claimed() -> list[str | None]:
        return list(await asyncio.gather(*(FolderClaims(tmp_path).claim("job", sha256) for sha256 in SHAS)))

    (first,) = set(asyncio.run(claimed()))
    assert first in SHAS
    assert asyncio.run(FolderClaims(tmp_path).claim("job", "f" * 64)) == first
    assert asyncio.run(FolderClaims(tmp_path).claim("other", "f" * 64)) == "f" * 64
    assert list(tmp_path.rglob("*.part")) == []


@pytest.mark.parametrize("text", ["", "torn"])
def test_a_claim_that_a_crash_tore_is_none(tmp_path: Path, text: str) -> None:
    asyncio.run(FolderClaims(tmp_path).claim("job", SHAS[0]))
    (path,) = (path for path in tmp_path.rglob("*") if path.is_file())
    path.write_text(text)
    assert asyncio.run(FolderClaims(tmp_path).claim("job", SHAS[1])) == SHAS[1]


def test_where_the_folder_cannot_be_used_the_log_decides_alone(tmp_path: Path) -> None:
    (tmp_path / "claims").write_text("no folder")
    assert asyncio.run(FolderClaims(tmp_path / "claims").claim("job", SHAS[0])) is None


def test_old_claims_are_swept_and_younger_ones_stay(tmp_path: Path) -> None:
    claims = FolderClaims(tmp_path)
    asyncio.run(claims.claim("job", SHAS[0]))
    (path,) = (path for path in tmp_path.rglob("*") if path.is_file())
    made_ms = int(path.stat().st_mtime * 1000)
    assert claims.sweep(made_ms - 1_000) == 0
    assert claims.sweep(made_ms + 1_000) == 1
    assert asyncio.run(claims.claim("job", SHAS[1])) == SHAS[1]


def test_claims_of_one_id_by_one_process_are_made_in_their_order(tmp_path: Path) -> None:
    async def claimed() -> list[str | None]:
        claims = FolderClaims(tmp_path)
        return list(await asyncio.gather(*(claims.claim("job", sha256) for sha256 in SHAS)))

    assert set(asyncio.run(claimed())) == {SHAS[0]}
