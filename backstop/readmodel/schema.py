"""The tables. A change to them needs a new `SCHEMA_VERSION`, and a rebuild as migration: the logs hold all data.

The statuses come from `schemas.statuses`, so a new status changes the tables; a test compares them with the version's.
"""

from collections.abc import Iterable
from typing import Literal

from schemas.statuses import JOB_OUTCOMES, JOB_STATUSES, OPEN_JOB_STATUSES

SCHEMA_VERSION = 10


def texts(values: Iterable[str]) -> str:
    """Identifiers as a list of SQL literals."""
    names = tuple(values)
    assert all(name.isidentifier() for name in names), names
    return ", ".join(f"'{name}'" for name in names)


Dialect = Literal["sqlite", "postgres"]

_TYPES: dict[Dialect, dict[str, str]] = {
    "sqlite": {"BIG": "INTEGER", "BYTES": "BLOB", "SERIAL": "INTEGER PRIMARY KEY AUTOINCREMENT",
               "CLUSTERED": "WITHOUT ROWID", "TEXT": "TEXT"},
    "postgres": {"BIG": "BIGINT", "BYTES": "BYTEA", "SERIAL": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
                 "CLUSTERED": "", "TEXT": 'TEXT COLLATE "C"'},
}  # fmt: skip

_TABLES = (
    """CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)""",
    """CREATE TABLE consumer_offsets (
        topic TEXT NOT NULL, part {BIG} NOT NULL, next_offset {BIG} NOT NULL, epoch {BIG} NOT NULL,
        PRIMARY KEY (topic, part)
    )""",
    """CREATE TABLE jobs (
        job_id TEXT PRIMARY KEY, tenant TEXT NOT NULL, version {BIG} NOT NULL,
        status TEXT NOT NULL CHECK (status IN ({STATUSES})),
        fold_state {BYTES} NOT NULL, submitted_at_ms {BIG} NOT NULL, updated_at_ms {BIG} NOT NULL,
        topic TEXT NOT NULL, part {BIG} NOT NULL, log_offset {BIG} NOT NULL,
        model TEXT, session_id TEXT, tags TEXT NOT NULL, deadline_at_ms {BIG}, next_action_at_ms {BIG},
        request_sha256 TEXT, attempts {BIG} NOT NULL, result {BYTES}, found_by TEXT, finished_at_ms {BIG},
        queued_ms {BIG}, running_ms {BIG}, webhook_lag_ms {BIG}, detection_ms {BIG},
        input_tokens {BIG}, output_tokens {BIG}, cache_policy TEXT, cache_key TEXT, priority TEXT,
        wait {BYTES}, reason_code TEXT, reason_message TEXT, retry_of TEXT
    )""",
    """CREATE INDEX jobs_by_time ON jobs (tenant, submitted_at_ms DESC, job_id DESC)""",
    """CREATE INDEX jobs_by_session ON jobs (tenant, session_id, submitted_at_ms DESC, job_id DESC)
        WHERE session_id IS NOT NULL""",
    """CREATE INDEX jobs_by_status ON jobs (tenant, status, submitted_at_ms DESC, job_id DESC)""",
    """CREATE INDEX jobs_by_model ON jobs (tenant, model, submitted_at_ms DESC, job_id DESC)""",
    # Covers the figures of `backstop.readmodel.figures` and a tenant's load by the index alone: rows carry whole
    # results.
    """CREATE INDEX jobs_by_end ON jobs (
        tenant, finished_at_ms DESC, model, status, found_by, queued_ms, running_ms, webhook_lag_ms, detection_ms,
        input_tokens, output_tokens, reason_code
    ) WHERE finished_at_ms IS NOT NULL""",
    # For the retention, which works across tenants.
    """CREATE INDEX jobs_by_finish ON jobs (finished_at_ms, job_id) WHERE finished_at_ms IS NOT NULL""",
    """CREATE INDEX jobs_open ON jobs (status, next_action_at_ms)
        WHERE status IN ({OPEN})""",
    # For the place of a job that waits for its turn.
    """CREATE INDEX jobs_waiting ON jobs (tenant, model, priority, submitted_at_ms, job_id) WHERE status = 'waiting'""",
    """CREATE TABLE job_tags (tag TEXT NOT NULL, job_id TEXT NOT NULL, PRIMARY KEY (tag, job_id)) {CLUSTERED}""",
    # Apart from `jobs`, whose rows are written at each fact: a request is written once.
    """CREATE TABLE requests (job_id TEXT PRIMARY KEY, body {BYTES} NOT NULL) {CLUSTERED}""",
    """CREATE TABLE held_results (
        job_id TEXT PRIMARY KEY, at_ms {BIG} NOT NULL, record {BYTES} NOT NULL,
        topic TEXT NOT NULL, part {BIG} NOT NULL, log_offset {BIG} NOT NULL
    )""",
    """CREATE TABLE timeline (
        job_id TEXT NOT NULL, at_ms {BIG} NOT NULL, topic TEXT NOT NULL, part {BIG} NOT NULL, log_offset {BIG} NOT NULL,
        kind TEXT NOT NULL, summary {BYTES} NOT NULL,
        PRIMARY KEY (job_id, at_ms, topic, part, log_offset)
    ) {CLUSTERED}""",
    """CREATE TABLE claims (response_id TEXT PRIMARY KEY, job_id TEXT NOT NULL, at_ms {BIG} NOT NULL) {CLUSTERED}""",
    """CREATE TABLE late_usage (
        job_id TEXT NOT NULL, response_id TEXT NOT NULL, tenant TEXT NOT NULL, at_ms {BIG} NOT NULL,
        attempt {BIG} NOT NULL, input_tokens {BIG} NOT NULL, output_tokens {BIG} NOT NULL,
        total_tokens {BIG} NOT NULL, cached_tokens {BIG} NOT NULL, reasoning_tokens {BIG} NOT NULL,
        estimated {BIG} NOT NULL,
        PRIMARY KEY (job_id, response_id)
    ) {CLUSTERED}""",
    """CREATE INDEX late_usage_by_time ON late_usage (tenant, at_ms, input_tokens, output_tokens)""",
    """CREATE TABLE spends (
        job_id TEXT NOT NULL, attempt {BIG} NOT NULL, response_id TEXT NOT NULL, minute {BIG} NOT NULL,
        outcome TEXT NOT NULL, reported {BIG} NOT NULL, detail {BYTES} NOT NULL,
        PRIMARY KEY (job_id, attempt, response_id)
    ) {CLUSTERED}""",
    # Without ids of jobs: the sums stay when jobs leave the read model.
    """CREATE TABLE costs (
        about TEXT NOT NULL, tenant TEXT NOT NULL, day {BIG} NOT NULL, model TEXT NOT NULL, served TEXT NOT NULL,
        tier TEXT NOT NULL, win TEXT NOT NULL, is_long {BIG} NOT NULL, outcome TEXT NOT NULL,
        cache_policy TEXT NOT NULL, name TEXT NOT NULL,
        attempts {BIG} NOT NULL, measured {BIG} NOT NULL, estimated {BIG} NOT NULL, input_tokens {BIG} NOT NULL,
        cached_tokens {BIG} NOT NULL, cache_write_tokens {BIG} NOT NULL, output_tokens {BIG} NOT NULL,
        reasoning_tokens {BIG} NOT NULL, web_search_calls {BIG} NOT NULL, file_search_calls {BIG} NOT NULL,
        containers {BIG} NOT NULL,
        PRIMARY KEY (about, tenant, day, model, served, tier, win, is_long, outcome, cache_policy, name)
    ) {CLUSTERED}""",
    """CREATE TABLE refusals (
        tenant TEXT NOT NULL, minute {BIG} NOT NULL, cause TEXT NOT NULL, creates {BIG} NOT NULL,
        PRIMARY KEY (tenant, minute, cause)
    ) {CLUSTERED}""",
    """CREATE TABLE unclaimed (
        response_id TEXT NOT NULL, at_ms {BIG} NOT NULL, topic TEXT NOT NULL, part {BIG} NOT NULL,
        log_offset {BIG} NOT NULL, kind TEXT NOT NULL, summary {BYTES} NOT NULL,
        PRIMARY KEY (response_id, at_ms, topic, part, log_offset)
    ) {CLUSTERED}""",
    """CREATE TABLE dead_letters (
        dead_letter_id TEXT PRIMARY KEY, at_ms {BIG} NOT NULL, tenant TEXT, component TEXT NOT NULL,
        reason TEXT NOT NULL, detail TEXT NOT NULL, origin_topic TEXT, origin_part {BIG}, origin_offset {BIG},
        record_key TEXT NOT NULL, size_bytes {BIG}, preview TEXT NOT NULL, topic TEXT NOT NULL, part {BIG} NOT NULL,
        log_offset {BIG} NOT NULL, resolution TEXT, resolved_at_ms {BIG}
    )""",
    """CREATE INDEX dead_letters_by_time ON dead_letters (at_ms DESC, dead_letter_id DESC)""",
    """CREATE TABLE changes (
        seq {SERIAL}, build {BIG} NOT NULL, tenant TEXT NOT NULL, job_id TEXT NOT NULL, session_id TEXT,
        version {BIG} NOT NULL, status TEXT NOT NULL, at_ms {BIG} NOT NULL, payload {BYTES} NOT NULL
    )""",
)

# The database enforces I6: a terminal row is final, and a version never decreases.
_GUARDS: dict[Dialect, tuple[str, ...]] = {
    "sqlite": (
        """CREATE TRIGGER jobs_go_forward BEFORE UPDATE ON jobs WHEN NEW.version <= OLD.version
            BEGIN SELECT RAISE(ABORT, 'jobs_go_forward: a version would fall'); END""",
        """CREATE TRIGGER jobs_end_once BEFORE UPDATE ON jobs
            WHEN OLD.status IN ({ENDS})
            BEGIN SELECT RAISE(ABORT, 'jobs_end_once: a terminal row is final'); END""",
    ),
    "postgres": (
        """CREATE FUNCTION guard_jobs() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF OLD.status IN ({ENDS}) THEN
                    RAISE EXCEPTION 'jobs_end_once: a terminal row is final';
                END IF;
                IF NEW.version <= OLD.version THEN
                    RAISE EXCEPTION 'jobs_go_forward: a version would fall';
                END IF;
                RETURN NEW;
            END $$""",
        """CREATE TRIGGER jobs_guard BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION guard_jobs()""",
    ),
}


JOBS_VIEW = "backstop_jobs"
JOBS_VIEW_COLUMNS = (
    "job_id, tenant, status, model, session_id, tags, submitted_at_ms, updated_at_ms, deadline_at_ms, finished_at_ms, "
    "attempts, found_by, queued_ms, running_ms, input_tokens, output_tokens, priority, reason_code, reason_message, "
    "retry_of"
)
"""For SQL of other programs (docs/sql.md): a column never leaves the view or changes its meaning, and a new one comes
last. Not a part of the tables' version.
"""


def statements(dialect: Dialect) -> tuple[str, ...]:
    """The statements that create an empty read model, in order."""
    types = _TYPES[dialect]
    return (*(_typed(table, types) for table in _TABLES), *(_named(guard) for guard in _GUARDS[dialect]))


def _named(statement: str) -> str:
    for name, members in (("STATUSES", JOB_STATUSES), ("OPEN", OPEN_JOB_STATUSES), ("ENDS", JOB_OUTCOMES)):
        statement = statement.replace(f"{{{name}}}", texts(members))
    return statement


def _typed(table: str, types: dict[str, str]) -> str:
    table = _named(table)
    for name, written in types.items():
        table = table.replace(f"{{{name}}}", written)
    # SQLite compares text by its bytes. So must PostgreSQL, whatever its locale: pages and digests rely on that order.
    return table.replace(" TEXT", f" {types['TEXT']}")
