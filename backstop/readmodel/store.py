"""All statements that write the read model. Plain functions of a `Connection`, each run inside one transaction."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import orjson

from backstop.readmodel.batch import Keys, Known, ParsedRecord, Writes, keys_of, project
from backstop.readmodel.database import Connection, FencedError
from backstop.readmodel.dead_letters import dead_letter_name
from backstop.readmodel.in_lists import in_lists
from backstop.readmodel.ledger import load_spends, write_ledger
from backstop.readmodel.minutes import write_refusals
from backstop.readmodel.rows import DeadLetterRow, HeldResult, JobRow, Position, UnclaimedEntry, Wait
from backstop.readmodel.view import job_view
from schemas.codec import canonical
from schemas.jobs import UsageBooked

JOB_COLUMNS = (
    "job_id, tenant, status, version, fold_state, submitted_at_ms, updated_at_ms, topic, part, log_offset, model, "
    "session_id, tags, deadline_at_ms, next_action_at_ms, request_sha256, attempts, result, found_by, finished_at_ms, "
    "queued_ms, running_ms, webhook_lag_ms, detection_ms, input_tokens, output_tokens, cache_policy, cache_key, "
    "priority, wait, reason_code, reason_message, retry_of"
)
_JOB_NAMES = JOB_COLUMNS.split(", ")
SET_ONCE = frozenset(
    {
        "job_id",
        "tenant",
        "submitted_at_ms",
        "model",
        "session_id",
        "tags",
        "request_sha256",
        "cache_policy",
        "cache_key",
        "retry_of",
    }
)
"""Columns that the first fact of a job sets. An update that names them would rewrite their indexes, too."""
_UPSERT_JOB = (
    f"INSERT INTO jobs ({JOB_COLUMNS}) VALUES ({', '.join('?' * len(_JOB_NAMES))}) ON CONFLICT (job_id) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _JOB_NAMES if name not in SET_ONCE)
    + " WHERE excluded.version > jobs.version"
)
DEAD_LETTER_COLUMNS = (
    "dead_letter_id, at_ms, tenant, component, reason, detail, origin_topic, origin_part, origin_offset, record_key, "
    "size_bytes, preview, topic, part, log_offset, resolution, resolved_at_ms"
)
# A repeated dead letter (a redelivery, a second component) keeps the first row.
_INSERT_DEAD_LETTER = (
    f"INSERT INTO dead_letters ({DEAD_LETTER_COLUMNS}) "
    f"VALUES ({', '.join('?' * len(DEAD_LETTER_COLUMNS.split(', ')))}) "
    "ON CONFLICT (dead_letter_id) DO NOTHING"
)

# A figure from the provider replaces an estimate; otherwise the first stays.
_BOOK_USAGE = (
    "INSERT INTO late_usage (job_id, response_id, tenant, at_ms, attempt, input_tokens, output_tokens, total_tokens, "
    "cached_tokens, reasoning_tokens, estimated) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (job_id, response_id) DO UPDATE SET at_ms = excluded.at_ms, input_tokens = excluded.input_tokens, "
    "output_tokens = excluded.output_tokens, total_tokens = excluded.total_tokens, "
    "cached_tokens = excluded.cached_tokens, reasoning_tokens = excluded.reasoning_tokens, "
    "estimated = excluded.estimated WHERE excluded.estimated < late_usage.estimated"
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OwnedPartition:
    """A claimed partition: its next offset, and the epoch of the claim."""

    next_offset: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Move:
    """A partition's progress in one batch, from `old` to `new`, under the claim's `epoch`."""

    topic: str
    partition: int
    old: int
    new: int
    epoch: int


def claim(conn: Connection, partitions: Iterable[tuple[str, int]]) -> dict[tuple[str, int], OwnedPartition]:
    """Claim these (topic, partition) pairs; former owners are fenced from now on."""
    owned: dict[tuple[str, int], OwnedPartition] = {}
    for topic, part in sorted(partitions):
        ((next_offset, epoch),) = conn.rows(
            "INSERT INTO consumer_offsets (topic, part, next_offset, epoch) VALUES (?, ?, 0, 1) "
            "ON CONFLICT (topic, part) DO UPDATE SET epoch = consumer_offsets.epoch + 1 RETURNING next_offset, epoch",
            (topic, part),
        )
        owned[topic, part] = OwnedPartition(next_offset, epoch)
    return owned


def offsets(conn: Connection) -> dict[tuple[str, int], int]:
    """(topic, partition) → the next offset to read."""
    return {(topic, part): at for topic, part, at in conn.rows("SELECT topic, part, next_offset FROM consumer_offsets")}


def apply(
    conn: Connection,
    moves: Sequence[Move],
    records: Sequence[ParsedRecord],
    now_ms: int,
    build: int,
    *,
    tell: bool = True,
) -> Writes:
    """Write one batch: offsets first, then rows, timeline and changes. `tell=False` writes no changes (for a rebuild).

    :raises FencedError: a partition has another owner, or another offset than expected.
    :raises RecordFailedError: see `backstop.readmodel.batch.project`.
    """
    for move in moves:
        _advance(conn, move)
    writes = project(records, load(conn, keys_of(records)))
    _write(conn, writes)
    if tell:
        _tell(conn, writes.rows.values(), now_ms, build)
    return writes


def load(conn: Connection, keys: Keys) -> Known:
    """The database's content for these keys."""
    known = Known()
    for marks, ids in in_lists(keys.job_ids):
        for values in conn.rows(f"SELECT {JOB_COLUMNS} FROM jobs WHERE job_id IN ({marks})", ids):
            known.rows[values[0]] = row_from(values)
        for job_id, at_ms, record, topic, part, offset in conn.rows(
            f"SELECT job_id, at_ms, record, topic, part, log_offset FROM held_results WHERE job_id IN ({marks})",
            ids,
        ):
            known.held[job_id] = HeldResult(job_id, at_ms, bytes(record), Position(topic, part, offset))
    for marks, ids in in_lists(keys.response_ids):
        known.claims.update(conn.rows(f"SELECT response_id, job_id FROM claims WHERE response_id IN ({marks})", ids))
        for response_id, at_ms, topic, part, offset, kind, summary in conn.rows(
            "SELECT response_id, at_ms, topic, part, log_offset, kind, summary FROM unclaimed "
            f"WHERE response_id IN ({marks}) ORDER BY response_id, at_ms, topic, part, log_offset",
            ids,
        ):
            entry = UnclaimedEntry(response_id, at_ms, kind, bytes(summary), Position(topic, part, offset))
            known.unclaimed.setdefault(response_id, []).append(entry)
    known.spends = load_spends(conn, keys.spenders)
    return known


def trim(conn: Connection, changes_max: int, changes_before_ms: int, unclaimed_keep_ms: int) -> int:
    """Delete changes that are older than the time or beyond
    `changes_max`, and old unclaimed entries. Returns their number.
    """
    # By sequence, the primary key: a scan over times would block the only writer.
    ((last,),) = conn.rows("SELECT COALESCE(MAX(seq), 0) FROM changes")
    kept = conn.rows("SELECT seq FROM changes WHERE at_ms >= ? ORDER BY seq LIMIT 1", (changes_before_ms,))
    # The last change stays, whatever its age: a cursor needs a position.
    first_kept = max(min(kept[0][0] if kept else last, last), last - changes_max + 1)
    gone = conn.execute("DELETE FROM changes WHERE seq < ?", (first_kept,))
    # By the log's time, not the clock's: a projection that catches up with old logs meets claims as old as the entries.
    newest = "(SELECT MAX(at_ms) FROM unclaimed)"
    return gone + conn.execute(f"DELETE FROM unclaimed WHERE at_ms < {newest} - ?", (unclaimed_keep_ms,))


def trim_dead_letters(conn: Connection, dead_letters_max: int) -> int:
    """Delete all but the newest `dead_letters_max` dead letters; their topic keeps them. Returns their number."""
    newest = conn.rows(
        "SELECT at_ms, dead_letter_id FROM dead_letters ORDER BY at_ms DESC, dead_letter_id DESC LIMIT 1 OFFSET ?",
        (dead_letters_max,),
    )
    return conn.execute("DELETE FROM dead_letters WHERE (at_ms, dead_letter_id) <= (?, ?)", newest[0]) if newest else 0


def dead_letter_from(values: Sequence[Any]) -> DeadLetterRow:
    """A dead letter from the values of `DEAD_LETTER_COLUMNS`."""
    dead_letter_id, at_ms, tenant, component, reason, detail, origin_topic, origin_part, origin_offset, *rest = values
    origin = None if origin_topic is None else Position(origin_topic, origin_part, origin_offset)
    record_key, size_bytes, preview, topic, part, offset, resolution, resolved_at_ms = rest
    return DeadLetterRow(
        dead_letter_id, at_ms, tenant, component, reason, detail, origin, record_key, size_bytes, preview,
        Position(topic, part, offset), resolution, resolved_at_ms,
    )  # fmt: skip


def dead_letter_values(row: DeadLetterRow) -> tuple[Any, ...]:
    """The values of `DEAD_LETTER_COLUMNS`."""
    origin = (None, None, None) if row.origin is None else _place(row.origin)
    return (
        row.dead_letter_id, row.at_ms, row.tenant, row.component, row.reason, row.detail, *origin, row.record_key,
        row.size_bytes, row.preview, *_place(row.position), row.resolution, row.resolved_at_ms,
    )  # fmt: skip


def row_from(values: Sequence[Any]) -> JobRow:
    """A row from the values of `JOB_COLUMNS`."""
    job_id, tenant, status, version, fold_state, submitted_at_ms, updated_at_ms, topic, part, offset, *rest = values
    model, session_id, tags, deadline_at_ms, next_action_at_ms, request_sha256, attempts, result, *told = rest
    *told, wait, reason_code, reason_message, retry_of = told
    return JobRow._make((
        job_id, tenant, status, version, bytes(fold_state), submitted_at_ms, updated_at_ms,
        Position(topic, part, offset), model, session_id, tuple(orjson.loads(tags)), deadline_at_ms,
        next_action_at_ms, request_sha256, attempts, None if result is None else bytes(result), *told,
        None if wait is None else Wait(**orjson.loads(bytes(wait))), reason_code, reason_message, retry_of,
    ))  # fmt: skip


def row_values(row: JobRow) -> tuple[Any, ...]:
    """The values of `JOB_COLUMNS`."""
    return (
        row.job_id, row.tenant, row.status, row.version, row.fold_state, row.submitted_at_ms, row.updated_at_ms,
        row.position.topic, row.position.partition, row.position.offset, row.model, row.session_id,
        canonical(row.tags).decode(), row.deadline_at_ms, row.next_action_at_ms, row.request_sha256, row.attempts,
        row.result, row.found_by, row.finished_at_ms, row.queued_ms, row.running_ms, row.webhook_lag_ms,
        row.detection_ms, row.input_tokens, row.output_tokens, row.cache_policy, row.cache_key, row.priority,
        None if row.wait is None else canonical(asdict(row.wait)), row.reason_code, row.reason_message,
        row.retry_of,
    )  # fmt: skip


def _advance(conn: Connection, move: Move) -> None:
    changed = conn.execute(
        "UPDATE consumer_offsets SET next_offset = ?, epoch = ? "
        "WHERE topic = ? AND part = ? AND next_offset = ? AND epoch <= ?",
        (move.new, move.epoch, move.topic, move.partition, move.old, move.epoch),
    )
    if changed != 1:
        raise FencedError(f"{move.topic}/{move.partition} is not at {move.old} under epoch {move.epoch}")


def _write(conn: Connection, writes: Writes) -> None:
    _remove_erased(conn, writes)
    conn.execute_many(_UPSERT_JOB, [row_values(row) for row in writes.rows.values()])
    conn.execute_many(
        "INSERT INTO job_tags (tag, job_id) VALUES (?, ?) ON CONFLICT DO NOTHING",
        [(tag, job_id) for job_id in writes.begun for tag in writes.rows[job_id].tags],
    )
    conn.execute_many(
        "INSERT INTO requests (job_id, body) VALUES (?, ?) ON CONFLICT DO NOTHING",
        [(job_id, canonical(body.model_dump(mode="json"))) for job_id, body in writes.requests.items()],
    )
    conn.execute_many("DELETE FROM held_results WHERE job_id = ?", [(job_id,) for job_id in writes.released])
    conn.execute_many(
        "INSERT INTO held_results (job_id, at_ms, record, topic, part, log_offset) VALUES (?, ?, ?, ?, ?, ?)",
        [(held.job_id, held.at_ms, held.record, *_place(held.position)) for held in writes.held.values()],
    )
    conn.execute_many(
        "INSERT INTO claims (response_id, job_id, at_ms) VALUES (?, ?, ?) "
        "ON CONFLICT (response_id) DO UPDATE SET job_id = excluded.job_id, at_ms = excluded.at_ms",
        [(response_id, job_id, at_ms) for response_id, (job_id, at_ms) in writes.claims.items()],
    )
    conn.execute_many("DELETE FROM unclaimed WHERE response_id = ?", [(rid,) for rid in writes.claimed])
    conn.execute_many(
        "INSERT INTO unclaimed (response_id, at_ms, topic, part, log_offset, kind, summary) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(e.response_id, e.at_ms, *_place(e.position), e.kind, e.summary) for e in writes.unclaimed],
    )
    conn.execute_many(
        "INSERT INTO timeline (job_id, at_ms, topic, part, log_offset, kind, summary) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(e.job_id, e.at_ms, *_place(e.position), e.kind, e.summary) for e in writes.timeline],
    )
    write_ledger(conn, writes.ledger)
    write_refusals(conn, writes.refusals)
    conn.execute_many(_BOOK_USAGE, [_usage_values(fact) for fact in writes.booked])
    conn.execute_many(_INSERT_DEAD_LETTER, [dead_letter_values(row) for row in writes.letters])
    conn.execute_many(
        "UPDATE dead_letters SET resolution = ?, resolved_at_ms = ? WHERE dead_letter_id = ?",
        [(fact.resolution, fact.at_ms, dead_letter_name(fact.dead_letter_id)) for fact in writes.resolved],
    )


def _remove_erased(conn: Connection, writes: Writes) -> None:
    for marks, ids in in_lists(tuple(writes.erased)):
        for table in ("jobs", "requests", "held_results"):
            conn.execute(f"DELETE FROM {table} WHERE job_id IN ({marks})", ids)
    conn.execute_many(
        "DELETE FROM job_tags WHERE tag = ? AND job_id = ?",
        [(tag, job_id) for job_id, tags in writes.erased.items() for tag in tags],
    )


def _tell(conn: Connection, rows: Iterable[JobRow], now_ms: int, build: int) -> None:
    conn.execute_many(
        "INSERT INTO changes (build, tenant, job_id, session_id, version, status, at_ms, payload) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                build,
                row.tenant,
                row.job_id,
                row.session_id,
                row.version,
                row.status,
                now_ms,
                canonical(job_view(row, now_ms)),
            )
            for row in rows
        ],
    )


def _usage_values(fact: UsageBooked) -> tuple[Any, ...]:
    usage = fact.usage
    return (
        fact.job_id, fact.response_id, fact.tenant, fact.at_ms, fact.attempt, usage.input_tokens,
        usage.output_tokens, usage.total_tokens, usage.cached_tokens, usage.reasoning_tokens,
        int(fact.estimated is True),
    )  # fmt: skip


def _place(position: Position) -> tuple[str, int, int]:
    return position.topic, position.partition, position.offset
