"""What is unusual of open jobs, compared with ended ones and with other tenants: slow runs, and floods."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from backstop.readmodel.database import Connection
from backstop.readmodel.figures import EndedJob, quantile
from backstop.readmodel.lane_load import lane_load, tenants
from backstop.readmodel.turn_text import span

RUNNING_MAX: Final = 1_000
"""Running jobs of a tenant that are compared, the oldest first."""
ENDED_MIN: Final = 20
"""With fewer ends of a model its usual run time is not known."""
SLOW_MIN: Final = 5
SLOW_SHARE: Final = 0.5
SLOW_TIMES: Final = 2
"""A run is slow once it takes this many times as long as 95 % of those that ended. As most runs that are under way at
a time are long ones, a finding needs half of them."""

FLOOD_MIN: Final = 100
FLOOD_COUNTED_MAX: Final = 1_000
"""Jobs of a tenant that are counted, for each status."""
FLOOD_SHARE: Final = 0.5
NAMED_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class Unusual:
    count: int = 0
    of: int = 0
    because: str = ""
    job_ids: tuple[str, ...] = ()


def slow_runs(conn: Connection, tenant: str, ended: Sequence[EndedJob], now_ms: int) -> Unusual:
    """The tenant's responses that run for much longer than those of the same model that ended; `ended` gives these."""
    usual: defaultdict[str, list[int]] = defaultdict(list)
    for job in ended:
        if job.running_ms is not None and job.model is not None:
            usual[job.model].append(job.running_ms)
    ages: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for job_id, model, wait in conn.rows(
        "SELECT job_id, model, wait FROM jobs WHERE tenant = ? AND status = 'running' AND wait IS NOT NULL "
        "ORDER BY submitted_at_ms LIMIT ?",
        (tenant, RUNNING_MAX),
    ):
        ages[model or ""].append((now_ms - orjson.loads(bytes(wait))["since_ms"], job_id))
    told, slow, running = list[str](), list[tuple[int, str]](), 0
    for model, mine in sorted(ages.items()):
        if len(usual[model]) < ENDED_MIN:
            continue
        p95_ms = quantile(sorted(usual[model]), 0.95) or 0
        late = sorted((each for each in mine if each[0] > SLOW_TIMES * p95_ms), reverse=True)
        if len(late) >= SLOW_MIN and len(late) >= SLOW_SHARE * len(mine):
            slow += late
            running += len(mine)
            told.append(
                f"{len(late)} of {len(mine)} runs of {model} at the provider take longer than usual: the longest for "
                f"{span(late[0][0])}, and 95 % of those that ended took {span(p95_ms)} or less"
            )
    return Unusual(len(slow), running, "; ".join(told), tuple(job_id for _, job_id in slow[:NAMED_MAX]))


def floods(conn: Connection) -> Unusual:
    """The tenant, if there is one, whose jobs are most of those that wait to begin."""
    waiting = {tenant: _waiting(conn, tenant) for tenant in tenants(conn)}
    total = sum(waiting.values())
    most = max(waiting, key=lambda tenant: waiting[tenant], default="")
    if not most or waiting[most] < FLOOD_MIN or waiting[most] <= FLOOD_SHARE * total:
        return Unusual()
    by_model = {model: sum(counts.values()) for model, counts in lane_load(conn, most).by_model.items()}
    model = max(by_model, key=lambda each: by_model[each], default="")
    more = "or more " if waiting[most] >= FLOOD_COUNTED_MAX else ""
    return Unusual(
        waiting[most], total,
        f"{waiting[most]} {more}of {total} jobs that wait to begin are of the tenant {most}, most of them for {model}: "
        "other tenants keep their turns, and its own jobs wait",
    )  # fmt: skip


def _waiting(conn: Connection, tenant: str) -> int:
    """Jobs that wait for a turn or back off. Those of the class `bulk` ask for no haste."""
    return sum(
        conn.rows(
            "SELECT COUNT(*) FROM (SELECT 1 FROM jobs WHERE tenant = ? AND status = ? "
            "AND (priority IS NULL OR priority <> 'bulk') LIMIT ?) counted",
            (tenant, status, FLOOD_COUNTED_MAX),
        )[0][0]
        for status in ("waiting", "backing_off")
    )
