"""A bundle folds elsewhere to the same rows as here, without access to the outside."""

import asyncio
import gzip
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import orjson
import pytest

from backstop.audit.bundle import BATCH_BYTES, TOPICS, BundleReader, Contents, read_bundle, refold_bundle, write_bundle
from backstop.audit.isolation import OutsideForbiddenError, sealed
from backstop.runtime.errors import ConfigurationError
from backstop.runtime.records import Record
from tests.support import builders as b
from tests.unit.backstop.audit.world import LOGS, World


def everything(world: World) -> list[list[Record]]:
    return [records for at, records in sorted(world.records.items()) if at[0] in TOPICS and records]


def written(path: Path, world: World) -> Contents:
    async def batches() -> AsyncIterator[Sequence[Record]]:
        for batch in everything(world):
            yield batch

    return asyncio.run(write_bundle(path, batches(), scope="all", made_at_ms=1))


@pytest.fixture
def world() -> World:
    world = World("a", "b", "c")
    world.append(("jobs", 0), b"\xff key", b"\xff not text", b.T0)
    world.tell(b.submitted(job_id="open"))
    world.work()
    return world


def test_a_bundle_holds_every_record_and_folds_to_the_same_rows(world: World, tmp_path: Path) -> None:
    path = tmp_path / "a.bundle"
    here = written(path, world)
    logs = {f"{topic}:{partition}" for (topic, partition), of in world.records.items() if of and topic in LOGS}
    assert set(here.digests) == logs
    assert (sum(here.rows.values()), here.poisons, here.outputs["job_result"]) == (7, 1, 3)
    assert refold_bundle(path) == here
    assert read_bundle(path) == [record for batch in everything(world) for record in batch]


def test_only_its_owner_may_read_it_and_nothing_is_overwritten(world: World, tmp_path: Path) -> None:
    path = tmp_path / "a.bundle"
    written(path, world)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="exists already"):
        written(path, World("other"))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def lines_of(path: Path) -> list[bytes]:
    return gzip.decompress(path.read_bytes()).splitlines(keepends=True)


def test_a_bundle_that_was_cut_or_changed_is_refused(world: World, tmp_path: Path) -> None:
    path = tmp_path / "a.bundle"
    written(path, world)
    lines = lines_of(path)
    for name, planted, error in (
        ("cut", lines[:-1], "its last line is missing"),
        ("shorter", [*lines[:4], *lines[5:]], "was changed after"),
        ("changed", [*lines[:4], lines[4].replace(b'"offset":', b'"offset": '), *lines[5:]], "was changed after"),
        ("foreign", [b'{"bundle":9}\n', *lines[1:]], "is not a bundle of format"),
        ("text", [b"hello"], "can't be read"),
    ):
        (tmp_path / name).write_bytes(gzip.compress(b"".join(planted)))
        with pytest.raises(ConfigurationError, match=error):
            refold_bundle(tmp_path / name)
    (tmp_path / "half").write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ConfigurationError, match="can't be read"):
        refold_bundle(tmp_path / "half")
    (tmp_path / "plain").write_bytes(b"no gzip")
    with pytest.raises(ConfigurationError, match="can't be read"):
        refold_bundle(tmp_path / "plain")


def test_a_packed_bundle_is_read_in_batches_of_bounded_size(tmp_path: Path) -> None:
    """What came from elsewhere may hold little and unpack to much."""
    line = {"topic": "jobs", "partition": 0, "offset": 0, "timestamp_ms": 0, "key": "j", "value": "x" * (2 << 20)}
    with gzip.open(tmp_path / "packed", "wb") as file:
        file.write(orjson.dumps({"bundle": 1, "scope": "all"}) + b"\n" + (orjson.dumps(line) + b"\n") * 20)
    batches = BundleReader(tmp_path / "packed").batches()
    assert sum(len(record.value or b"") for record in next(batches)) == BATCH_BYTES


def test_a_release_that_folds_to_other_rows_than_the_exporting_one_is_told_where(world: World, tmp_path: Path) -> None:
    path = tmp_path / "a.bundle"
    written(path, world)
    *lines, last = lines_of(path)
    end = orjson.loads(last)
    end["end"]["digests"]["jobs:0"] = "0" * 64
    path.write_bytes(gzip.compress(b"".join([*lines, orjson.dumps(end)])))
    assert refold_bundle(path).differs == ("jobs:0",)


def test_in_a_sealed_block_nothing_reaches_the_outside_and_after_it_all_does() -> None:
    with sealed():
        with pytest.raises(OutsideForbiddenError):
            socket.socket()
        with pytest.raises(OutsideForbiddenError):
            socket.getaddrinfo("localhost", 80)
        with pytest.raises(OutsideForbiddenError):
            subprocess.run([sys.executable, "-c", ""], check=True)
    socket.socket().close()
