"""A run as Markdown for people and JSON for programs. Only what was measured."""

import asyncio
import os
import platform
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from textwrap import fill
from typing import Any

from backstop.dev.broker.toolchain import LocalKafka
from tests.torture.decay import POINTS_MAX, REPEATS_PERCENT_MAX, Decay, expired_percent
from tests.torture.failpoint_deck import FAILPOINTS, REBUILD
from tests.torture.plan import BOUND_S, TIME_SCALE
from tests.torture.run import Outcome

PACKAGES = ("faust-streaming", "aiokafka", "rocksdict", "openai", "aiohttp", "uvloop")
ROOT = Path(__file__).parents[2]
COLUMNS_MAX = 120
NOT_REPEATED = ("jobs", "minutes", "seed", "report", "keep")
"""Options that the call names otherwise, or that change nothing in the run."""


def command(asked: Mapping[str, Any], usual: Mapping[str, Any]) -> str:
    """The call that repeats a run: `asked` and `usual` are the values of all options by name."""
    options: list[str] = []
    for name, value in asked.items():
        if name in NOT_REPEATED or value == usual[name]:
            continue
        if isinstance(value, bool):
            options.append(f"--{name}" if value else f"--no-{name}")
        else:
            options += [f"--{name}", f"{value:g}" if isinstance(value, float) else str(value)]
    more = f' TORTURE="{shlex.join(options)}"' if options else ""
    return f"make torture JOBS={asked['jobs']} MINUTES={asked['minutes']:g} SEED={asked['seed']}{more}"


async def as_json(outcome: Outcome, kafka: LocalKafka, command: str) -> dict[str, Any]:
    plan, evidence, children = outcome.plan, outcome.evidence, outcome.children
    failpoints = children.failpoints()
    failpoints[REBUILD] += outcome.broken.rebuild_kills
    kills = children.kills()
    kills["rebuild"] += outcome.broken.rebuild_kills
    asked = Counter(death.kind for death in children.deaths if death.how == "asked")
    itself = Counter(
        f"{death.kind}, exit {death.code} {death.why}".strip() for death in children.deaths if death.how == "itself"
    )
    per_job = Counter(str(create.job_id) for create in evidence.creates)
    broken_s = outcome.seconds["broken"]
    return {
        "ok": not outcome.verdict.violations,
        "command": command,
        "plan": {
            "jobs": plan.jobs, "minutes": plan.minutes, "seed": plan.seed, "workers": plan.workers,
            "projections": plan.projections, "partitions": plan.partitions, "faults": plan.faults,
            "timeout_ms": plan.timeout_ms, "time_scale": TIME_SCALE, "short": plan.short,
            "limits": plan.limits, "operators": plan.operators, "budget": plan.budget, "hedges": plan.hedges,
        },
        "machine": await machine(kafka),
        "seconds": {name: round(value, 1) for name, value in outcome.seconds.items()},
        "jobs": {
            "acknowledged": len(outcome.submitted.acknowledged),
            "by_ingress": dict(Counter(known.ingress for known in outcome.submitted.acknowledged)),
            "http_answers": {str(status): n for status, n in sorted(outcome.submitted.statuses.items())},
            "cancels": outcome.submitted.cancels,
            "poisons": outcome.submitted.poisons,
            "outcomes": dict(Counter(result.outcome for result in evidence.results.first.values()).most_common()),
            "found_by": dict(Counter(str(result.found_by) for result in evidence.results.first.values()).most_common()),
            "per_second": round(len(outcome.submitted.acknowledged) / broken_s, 1),
        },
        "creates": {
            "accepted": len(evidence.creates),
            "answer_kept_back": sum(not create.replied for create in evidence.creates),
            "jobs_with_more_than_one": sum(count > 1 for count in per_job.values()),
            "unknown_outcomes": evidence.jobs.unknown_outcomes,
            "hedges": evidence.races.as_json(),
            "adopted": sum(
                brief.adopted for result in evidence.results.first.values() for brief in result.attempts
            ),
        },
        "kills": {
            "total": kills.total(),
            "by_kind": dict(kills),
            "by_failpoint": {n: failpoints[n] for n in FAILPOINTS},
        },
        "stops": {"total": children.stops.total(), "at": dict(children.stops.most_common())},
        "ended": {
            "asked": dict(asked),
            "by_itself": dict(itself),
            "drain_max_s": round(max(children.drains_s, default=0), 1),
        },
        "faults": dict(outcome.broken.faults.most_common()),
        "webhooks": {
            "tries": dict(Counter(line.outcome for line in evidence.deliveries).most_common()),
            "forged": sum(not line.authentic for line in evidence.deliveries),
        },
        "results_uncommitted_extra": evidence.results_uncommitted - evidence.results.count.total(),
        "dead_letters": dict(evidence.letters.most_common()),
        "audit": {
            "verdict": outcome.audit.verdict, "rounds": outcome.audit.rounds,
            "facts": sum(p.facts for p in outcome.audit.partitions),
            "rows": sum(p.rows for p in outcome.audit.partitions),
            "outputs": {topic: dict(counts) for topic, counts in outcome.audit.outputs.items()},
            "read_model_rows": outcome.audit.read_model_rows, "ignored": dict(outcome.audit.ignored),
        },
        "decay": _decay_json(evidence.decay),
        "overshoot_max_ms": outcome.verdict.overshoot_max_ms,
        "invariants": outcome.verdict.counts,
        "violations": [str(violation) for violation in outcome.verdict.violations],
    }  # fmt: skip


def _decay_json(decay: Decay) -> dict[str, Any]:
    return {
        "minutes": [asdict(minute) for minute in decay.minutes],
        "expired_percent": [round(expired_percent(part), 1) for part in decay.parts],
        "answers": decay.answers,
        "repeats": decay.repeats,
    }


async def machine(kafka: LocalKafka) -> dict[str, str]:
    """Where it ran, and what."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    commit = await _git("rev-parse", "--short=12", "HEAD") or "unknown"
    changed = await _git("status", "--porcelain", "--untracked-files=no")
    return {
        "cpus": str(len(os.sched_getaffinity(0))),
        "cpu": model,
        "memory_gib": f"{memory_gib:.0f}",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "kafka": next(
            (jar.stem.removeprefix("kafka-server-") for jar in kafka.libs.glob("kafka-server-[0-9]*.jar")), "?"
        ),
        "java": kafka.java_version,
        **{name: version(name) for name in PACKAGES},
        "commit": commit + (" and changes that are not committed" if changed else ""),
    }


def as_markdown(report: Mapping[str, Any], title: str = "Torture run") -> str:
    return "\n".join(_lines(report, title)) + "\n"


def rule_of_three(kills: int) -> str:
    """The bound (95 %) on the chance that one kill breaks something, after so many that did not."""
    return f"{300 / kills:.1f} %" if kills > 3 else "none yet"


def _filled(text: str) -> str:
    return fill(text, COLUMNS_MAX, break_long_words=False, break_on_hyphens=False)


def _lines(report: Mapping[str, Any], title: str) -> Iterator[str]:
    jobs, kills, machine_ = report["jobs"], report["kills"], report["machine"]
    yield f"# {title}"
    yield ""
    held = "every invariant held." if report["ok"] else "**an invariant was violated.**"
    yield _filled(f"`{report['command']}`: {held}")
    yield ""
    seconds = report["seconds"]
    yield _filled(
        f"{jobs['acknowledged']} jobs acknowledged ({_counts(jobs['by_ingress'])}) in {seconds['broken']} s under "
        f"faults ({jobs['per_second']} a second); {kills['total']} processes killed with SIGKILL, "
        f"{report['stops']['total']} frozen. Jobs open after the last fault ended within {seconds['until quiet']} s."
    )
    yield ""
    yield from _table("Invariants", ("counted", "found"), report["invariants"].items())
    yield _filled(
        f"Latest result during the faults: {report['overshoot_max_ms']} ms past its deadline (bound after them: "
        f"{BOUND_S:g} s)."
    )
    yield ""
    for violation in report["violations"]:
        yield f"- VIOLATED {violation}"
    if report["violations"]:
        yield ""
    decay = report["decay"]
    minutes = [(number, *minute.values()) for number, minute in enumerate(decay["minutes"], 1)]
    yield from _table(
        "Jobs by minute of submission", ("minute", "submitted", "completed", "expired", "of them avoidable"), minutes
    )
    first, last = decay["expired_percent"]
    yield _filled(
        f"Expired: {first} % at the beginning, {last} % at the end (at most {POINTS_MAX:g} points more). Answers to "
        f"polls and cancels: {decay['answers']}, of them repeats {decay['repeats']} "
        f"(at most {REPEATS_PERCENT_MAX:g} %)."
    )
    yield ""
    yield from _table("Kills by kind of process", ("process", "SIGKILL"), sorted(kills["by_kind"].items()))
    total = kills["total"]
    if report["ok"]:
        yield _filled(
            f"Rule of three: no violation in {total} kills bounds the chance that a kill breaks something at "
            f"{rule_of_three(total)} (95 %); by failpoint:"
        )
        yield ""
    bounds = [(name, n, rule_of_three(n) if report["ok"] else "") for name, n in kills["by_failpoint"].items()]
    yield from _table("Kills by failpoint", ("failpoint", "SIGKILL", "bound"), bounds)
    yield from _table(
        "Frozen (SIGSTOP for three session timeouts)", ("process or failpoint", "times"), report["stops"]["at"].items()
    )
    yield from _table("Large faults", ("fault", "times"), report["faults"].items())
    yield from _table("Ends", ("how", "times"), _ends(report["ended"]))
    yield from _table("Jobs", ("", ""), _jobs(report))
    yield from _table("Machine", ("", ""), machine_.items())


def _ends(ended: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    yield from ((f"asked (SIGTERM): {kind}", n) for kind, n in sorted(ended["asked"].items()))
    yield from ((f"by itself: {kind}", n) for kind, n in sorted(ended["by_itself"].items()))
    yield "longest from SIGTERM to the end", f"{ended['drain_max_s']} s"


def _jobs(report: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    creates = report["creates"]
    yield "outcomes", _counts(report["jobs"]["outcomes"])
    yield "end found by", _counts(report["jobs"]["found_by"])
    yield "answers to HTTP submissions (0: none came)", _counts(report["jobs"]["http_answers"])
    yield "cancels, poisons sent", f"{report['jobs']['cancels']}, {report['jobs']['poisons']}"
    yield "creates accepted by the provider", creates["accepted"]
    yield "of them with the answer kept back", creates["answer_kept_back"]
    yield "jobs with more than one", creates["jobs_with_more_than_one"]
    yield "second attempts beside slow ones", _counts(creates["hedges"])
    yield "attempts reported as unknown, adopted", f"{creates['unknown_outcomes']}, {creates['adopted']}"
    yield "webhook tries", _counts(report["webhooks"]["tries"])
    yield "of them forged", report["webhooks"]["forged"]
    yield "records on results that were never committed, and markers", report["results_uncommitted_extra"]
    yield "dead letters", _counts(report["dead_letters"])
    yield "facts refolded, rows compared", f"{report['audit']['facts']}, {report['audit']['rows']}"
    yield "facts that changed nothing", _counts(report["audit"]["ignored"])


def _table(title: str, head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> Iterator[str]:
    yield f"## {title}"
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(str(cell) for cell in row) + " |"
    yield ""


def _counts(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items()) or "none"


async def _git(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "git", *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    out, _ = await process.communicate()
    return out.decode().strip()
