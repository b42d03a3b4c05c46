"""Differences between the logs and the rest, in words for an operator, with an identity across rounds. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import orjson

from schemas.codec import sha256_hex
from streams.fold.rows import decode_row

Check = Literal["table", "results", "submissions", "polls", "jobs", "responses", "dead-letters", "read_model"]
Kind = Literal["differs", "missing", "extra", "duplicate"]

FIELDS_SHOWN_MAX = 8
VALUE_CHARS_MAX = 120

BODIES = frozenset({"request", "response", "message", "result"})
"""Fields that may hold a prompt, an output or a provider's text: only their digests are shown."""


@dataclass(frozen=True, slots=True)
class FieldDifference:
    path: str
    expected: str
    found: str


@dataclass(frozen=True, slots=True)
class Difference:
    """One deviation from the log. `expected`: the refold's side. `found`: the side of the table or topic."""

    check: Check
    kind: Kind
    partition: int | None
    key: str
    expected: str
    found: str
    fields: tuple[FieldDifference, ...] = ()

    @property
    def identity(self) -> tuple[str, str]:
        """Equal for the same key of the same check, whatever the values of both sides."""
        return self.check, self.key

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        where = "" if self.partition is None else f" (partition {self.partition})"
        text = f"{self.check} {self.kind}: {self.key}{where}: expected {self.expected}, found {self.found}"
        return text + "".join(f"\n    {f.path}: expected {f.expected}, found {f.found}" for f in self.fields)


def row_difference(topic: str, partition: int, key: bytes, refold: bytes | None, table: bytes | None) -> Difference:
    """The difference of a row whose bytes differ between refold and table."""
    kind: Kind = "missing" if table is None else "extra" if refold is None else "differs"
    fields = () if refold is None or table is None else field_differences(row_state(refold), row_state(table))
    return Difference(
        "table", kind, partition, f"{topic}/{key.decode(errors='replace')}", row_text(refold), row_text(table), fields
    )


def row_text(row: bytes | None) -> str:
    """A row in short: the kind of its state, its offset, its digest."""
    if row is None:
        return "no row"
    try:
        state, offset = decode_row(row)
        kind = orjson.loads(state).get("kind")
    except (ValueError, AttributeError):
        return f"{len(row)} bytes that are not a row"
    return f"{kind} as of offset {offset} (sha256 {sha256_hex(row)[:12]})"


def row_state(row: bytes) -> Any:
    try:
        state, offset = decode_row(row)
        return {"offset": offset, "state": orjson.loads(state)}
    except ValueError:
        return None


def field_differences(expected: Any, found: Any) -> tuple[FieldDifference, ...]:
    """The first `FIELDS_SHOWN_MAX` paths at which two JSON values differ."""
    places: list[FieldDifference] = []
    for path, one, other in _walk((), expected, found):
        if len(places) == FIELDS_SHOWN_MAX:
            break
        hidden = bool(BODIES.intersection(path))
        places.append(FieldDifference(".".join(path), _shown(one, hidden=hidden), _shown(other, hidden=hidden)))
    return tuple(places)


_NOTHING = object()


def _walk(path: tuple[str, ...], one: Any, other: Any) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for name in sorted({*one, *other}):
            yield from _walk((*path, name), one.get(name, _NOTHING), other.get(name, _NOTHING))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from _walk((*path, str(index)), left, right)
    elif one != other or type(one) is not type(other):
        yield path, one, other


def _shown(value: Any, *, hidden: bool) -> str:
    if value is _NOTHING:
        return "nothing"
    data = orjson.dumps(value)
    if hidden:
        return f"sha256 {sha256_hex(data)[:12]}"
    text = data.decode()
    return text if len(text) <= VALUE_CHARS_MAX else f"{text[:VALUE_CHARS_MAX]}…"
