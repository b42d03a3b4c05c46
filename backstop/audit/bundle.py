"""A history in one file that can be refolded anywhere: gzip, one JSON object per line.

The first line names the format and scope; then come the records of each partition in offset order, byte for byte; the
last line holds their number, their SHA-256, and the digests of the rows that they fold to. A truncated or changed file
is refused; a file that folds to other rows is reported as different.

A bundle holds prompts and outputs as the topics do (bodies in the blob store only by their hash), so only its owner can
read the file.
"""

import base64
import gzip
import hashlib
import os
from collections import Counter
from collections.abc import AsyncIterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import orjson

from backstop.audit.isolation import sealed
from backstop.audit.refold import FOLDS, PartitionRefold
from backstop.runtime.errors import ConfigurationError
from backstop.runtime.records import Partition, Record, size_bytes

FORMAT = 1
TOPICS: tuple[str, ...] = ("jobs", "responses", "submissions", "polls", "results")
LINE_BYTES_MAX = 16 << 20
"""Above the largest record, JSON escapes included."""

BATCH_RECORDS = 500
BATCH_BYTES = 16 << 20
"""A packed bundle of a few megabytes may hold thousands of lines of 16 MiB."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The result of refolding a bundle. `digests`: of the rows, by log and partition."""

    scope: str
    records: Mapping[str, int]
    """By topic."""
    digests: Mapping[str, str]
    rows: Mapping[str, int]
    outputs: Mapping[str, int]
    """By type: the refold's outputs. None of them is sent."""
    ignored: Mapping[str, int]
    poisons: int
    differs: tuple[str, ...] = ()
    """Partitions whose digest differs from the exporting release's."""


@dataclass(slots=True)
class Refolding:
    """Folds records of both logs as they arrive; records of other topics are only counted."""

    scope: str
    _refolds: dict[Partition, PartitionRefold] = field(default_factory=dict)
    _records: Counter[str] = field(default_factory=Counter)
    _outputs: Counter[str] = field(default_factory=Counter)

    def take(self, batch: Sequence[Record]) -> None:
        """Take records of one partition, in offset order."""
        topic, partition = batch[0].topic, batch[0].partition
        self._records[topic] += len(batch)
        if topic not in FOLDS:
            return
        refold = self._refolds.setdefault((topic, partition), PartitionRefold(FOLDS[topic], partition))
        self._outputs.update(str(getattr(output, "type", "")) for output in refold.take(batch).outputs)

    def contents(self, expected: Mapping[str, str] | None = None) -> Contents:
        """:param expected: digests to compare with; None compares nothing."""
        found = {f"{topic}:{partition}": refold for (topic, partition), refold in sorted(self._refolds.items())}
        digests = {name: refold.digest() for name, refold in found.items()}
        wanted = digests if expected is None else expected
        ignored: Counter[str] = Counter()
        for refold in found.values():
            ignored.update(refold.ignored)
        return Contents(
            scope=self.scope,
            records=dict(self._records),
            digests=digests,
            rows={name: len(refold.rows) for name, refold in found.items()},
            outputs=dict(self._outputs),
            ignored=dict(ignored),
            poisons=sum(refold.poisons for refold in found.values()),
            differs=tuple(sorted(n for n in {*digests, *wanted} if digests.get(n) != wanted.get(n))),
        )


async def write_bundle(
    path: Path, batches: AsyncIterable[Sequence[Record]], *, scope: str, made_at_ms: int
) -> Contents:  # fmt: skip
    """Write all batches (each of one partition, in offset order) and refold them; the file gets its name only when
    complete.

    :raises ConfigurationError: the file exists already, or its folder does not.
    """
    part, handle = _begin(path)
    refolding, lines = Refolding(scope), hashlib.sha256()
    try:
        with os.fdopen(handle, "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as file:
            _put(file, lines, {"bundle": FORMAT, "scope": scope, "made_at_ms": made_at_ms, "folds": sorted(FOLDS)})
            count = 0
            async for batch in batches:
                refolding.take(batch)
                for record in batch:
                    _put(file, lines, _as_line(record))
                count += len(batch)
            contents = refolding.contents()
            end = {"records": count, "sha256": lines.hexdigest(), "digests": contents.digests}
            file.write(orjson.dumps({"end": end}) + b"\n")
        part.rename(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return contents


def _begin(path: Path) -> tuple[Path, int]:
    if path.exists():
        raise ConfigurationError(f"{path} exists already: name another file")
    part = path.with_name(f"{path.name}.part")
    try:
        return part, os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"{part}: {error.strerror}") from error


def refold_bundle(path: Path) -> Contents:
    """Fold a bundle without any access to the outside (I8).

    :raises ConfigurationError: the file is not a bundle, is truncated or changed, or has another format.
    """
    bundle = BundleReader(path)
    refolding = Refolding("")
    with sealed():
        for batch in bundle.batches():
            refolding.take(batch)
        refolding.scope = bundle.scope
        return refolding.contents(bundle.digests)


def read_bundle(path: Path) -> list[Record]:
    """All records, in memory. Errors as in `refold_bundle`."""
    return [record for batch in BundleReader(path).batches() for record in batch]


class BundleReader:
    """One pass over a file. `digests` is set after it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.scope = ""
        self.digests: Mapping[str, str] = {}

    def batches(self) -> Iterator[list[Record]]:
        batch: list[Record] = []
        batch_bytes = 0
        for record in self._records():
            full = len(batch) == BATCH_RECORDS or batch_bytes >= BATCH_BYTES
            if batch and (full or (record.topic, record.partition) != (batch[0].topic, batch[0].partition)):
                yield batch
                batch, batch_bytes = [], 0
            batch.append(record)
            batch_bytes += size_bytes(record)
        if batch:
            yield batch

    def _records(self) -> Iterator[Record]:
        lines, count = hashlib.sha256(), 0
        try:
            with gzip.open(self._path, "rb") as file:
                line = file.readline(LINE_BYTES_MAX)
                first = _line(line)
                if first.get("bundle") != FORMAT:
                    raise ConfigurationError(f"{self._path} is not a bundle of format {FORMAT}")
                self.scope = str(first.get("scope", ""))
                lines.update(line)
                while line := file.readline(LINE_BYTES_MAX):
                    value = _line(line)
                    if "end" in value:
                        self._end(value["end"], count, lines.hexdigest())
                        return
                    lines.update(line)
                    count += 1
                    yield _as_record(value)
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(f"{self._path} can't be read as a bundle: {error!r}") from error
        raise ConfigurationError(f"{self._path} is truncated: its last line is missing; export it again")

    def _end(self, end: Mapping[str, Any], count: int, sha256: str) -> None:
        if end["records"] != count or end["sha256"] != sha256:
            raise ConfigurationError(
                f"{self._path} was changed after it was written: {count} records, sha256 {sha256[:12]}; export it again"
            )
        self.digests = dict(end["digests"])


def _put(file: IO[bytes] | gzip.GzipFile, lines: Any, value: Mapping[str, Any]) -> None:
    line = orjson.dumps(value) + b"\n"
    lines.update(line)
    file.write(line)


def _line(line: bytes) -> dict[str, Any]:
    value = orjson.loads(line)
    if not isinstance(value, dict):
        raise TypeError(f"a line that is a {type(value).__name__}")
    return value


def _as_line(record: Record) -> dict[str, Any]:
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms,
        **_as_field("key", record.key),
        **_as_field("value", record.value),
    }


def _as_field(name: Literal["key", "value"], data: bytes | None) -> dict[str, Any]:
    """Text as text, for people and `jq`; other bytes as base64."""
    if data is None:
        return {name: None}
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode()}


def _as_record(value: Mapping[str, Any]) -> Record:
    return Record(
        topic=str(value["topic"]),
        partition=int(value["partition"]),
        offset=int(value["offset"]),
        timestamp_ms=int(value["timestamp_ms"]),
        key=_as_bytes("key", value),
        value=_as_bytes("value", value),
    )


def _as_bytes(name: Literal["key", "value"], value: Mapping[str, Any]) -> bytes | None:
    coded = value.get(f"{name}_base64")
    if coded is not None:
        return base64.b64decode(coded)
    text = value[name]
    return None if text is None else str(text).encode()
