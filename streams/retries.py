"""Retries of ended jobs on request: a new job with the request of the ended one. Pure.

A job has one result, so a retry is a job of its own, which names the ended one. Its id and its hash are derived from
the ended job's id: a retry that is asked for again means the same job.
"""

from dataclasses import replace

from schemas.codec import canonical, sha256_hex
from schemas.jobs import RetryOf
from schemas.requests import Submit
from streams.submission import Prepared, prepare


def own_id_of_retry(job_id: str) -> str:
    """The id, as shown to the tenant, of the job that repeats `job_id` (the qualified form).

    Never change its form: a retry that is asked for again would become another job.
    """
    return f"retry_{sha256_hex(job_id.encode())[:32]}"


def prepare_retry(submit: Submit, retry: RetryOf) -> Prepared:
    """As `prepare`, with a hash that depends on the ended job alone: deadlines of repeats may differ."""
    sha256 = sha256_hex(canonical({"type": "retry", "retry_of": retry.job_id}))
    return replace(prepare(submit), sha256=sha256, retry=retry)
