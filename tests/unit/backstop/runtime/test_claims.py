"""The first claim of an id wins, for all processes."""

import asyncio
from pathlib import Path

from backstop.runtime.claims import FolderClaims

SHAS = [f"{number:064x}" for number in range(16)]


def links(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_symlink()]


def test_of_claims_at_one_time_one_stands_and_all_hear_which(tmp_path: Path) -> None:
    async def claimed() -> list[str | None]:
        return list(await asyncio.gather(*(FolderClaims(tmp_path).claim("job", sha256) for sha256 in SHAS)))

    (first,) = set(asyncio.run(claimed()))
    assert first in SHAS
    assert asyncio.run(FolderClaims(tmp_path).claim("job", "f" * 64)) == first
    assert asyncio.run(FolderClaims(tmp_path).claim("other", "f" * 64)) == "f" * 64
    assert len(links(tmp_path)) == 2
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_link_that_holds_no_hash_is_no_claim(tmp_path: Path) -> None:
    asyncio.run(FolderClaims(tmp_path).claim("job", SHAS[0]))
    (path,) = links(tmp_path)
    path.unlink()
    path.symlink_to("somewhere")
    assert asyncio.run(FolderClaims(tmp_path).claim("job", SHAS[1])) == SHAS[1]


def test_where_a_file_is_in_the_place_of_a_claim_the_log_decides_alone(tmp_path: Path) -> None:
    asyncio.run(FolderClaims(tmp_path).claim("job", SHAS[0]))
    (path,) = links(tmp_path)
    path.unlink()
    path.write_text(SHAS[0])
    assert asyncio.run(FolderClaims(tmp_path).claim("job", SHAS[1])) is None


def test_where_the_folder_cannot_be_used_the_log_decides_alone(tmp_path: Path) -> None:
    (tmp_path / "claims").write_text("no folder")
    assert asyncio.run(FolderClaims(tmp_path / "claims").claim("job", SHAS[0])) is None


def test_old_claims_are_swept_and_younger_ones_stay(tmp_path: Path) -> None:
    claims = FolderClaims(tmp_path)
    asyncio.run(claims.claim("job", SHAS[0]))
    (path,) = links(tmp_path)
    made_ms = int(path.lstat().st_mtime * 1000)
    assert claims.sweep(made_ms - 1_000) == 0
    assert claims.sweep(made_ms + 1_000) == 1
    assert asyncio.run(claims.claim("job", SHAS[1])) == SHAS[1]


def test_claims_of_one_id_by_one_process_are_made_in_their_order(tmp_path: Path) -> None:
    async def claimed() -> list[str | None]:
        claims = FolderClaims(tmp_path)
        return list(await asyncio.gather(*(claims.claim("job", sha256) for sha256 in SHAS)))

    assert set(asyncio.run(claimed())) == {SHAS[0]}
