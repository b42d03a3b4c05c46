"""`backstop erase`: takes the content of jobs out of Backstop, and their responses out of the provider."""

import asyncio
from dataclasses import asdict
from typing import Annotated, Any, Final

import typer

from backstop.cli.output import DIFFERS, Quiet, emit_one, fail, tell
from backstop.cli.person import person
from backstop.cli.read_rows import read_model_url
from backstop.cli.settings import bootstrap_settings
from backstop.readmodel.erasure_rows import ScopeCounts, count
from backstop.readmodel.opening import database_at
from backstop.runtime.kafka.lifetimes import broker_errors
from backstop.runtime.kafka.publisher import KafkaPublisher
from backstop.runtime.kafka.topic_reader import open_reader
from backstop.runtime.process.clock import make_clock
from backstop.runtime.settings import RuntimeSettings
from schemas.base import DEFAULT_TENANT
from schemas.codec import decode
from schemas.erasures import ERASURE_FACT, SUBJECT_TAG, ErasureDone, ErasureRequested, ErasureScope
from schemas.job_ids import qualified_job_id

ASK_EVERY_S: Final = 1.0
ONE_OF: Final = "give one of --job, --session and --subject (of a tenant), or only --tenant for all of its jobs"


def erase(
    job_id: Annotated[str | None, typer.Option("--job", help="This job.")] = None,
    session_id: Annotated[str | None, typer.Option("--session", help="Jobs of this session.")] = None,
    subject: Annotated[
        str | None, typer.Option("--subject", help="Jobs about this person: with the tag `subject:PERSON`.")
    ] = None,
    tenant: Annotated[
        str | None, typer.Option("--tenant", help="Whose jobs; without another option: all jobs of the tenant.")
    ] = None,
    execute: Annotated[
        bool, typer.Option("--execute", help="Execute the plan. Without this option the plan is only shown.")
    ] = False,
    keep_at_provider: Annotated[
        bool, typer.Option("--keep-at-provider", help="Don't delete the responses at the provider.")
    ] = False,
    why: Annotated[str | None, typer.Option("--why", help="Reason; kept with the erasure.")] = None,
    by: Annotated[str | None, typer.Option("--by", help="Author of the decision. Default: the user's name.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until everything is erased.")] = True,
    quiet: Quiet = False,
) -> None:
    """Erase jobs: requests, responses, texts, tags; in the database, the blob store, `results` and at the provider.

    Shows the plan; --execute with --why executes it, by the running projection. Open jobs are cancelled first. What
    stays, and for how long: docs/erasure.md. Exit 1: no job fits.
    """
    given = sum(each is not None for each in (job_id, session_id, subject))
    if given > 1 or (given == 0 and tenant is None):
        fail(ONE_OF)
    if execute and not (why or "").strip():
        fail("give a reason with --why; it is kept with the erasure")
    owner = tenant or DEFAULT_TENANT
    scope = ErasureScope(
        tenant=owner,
        job_id=None if job_id is None else qualified_job_id(owner, job_id),
        session_id=session_id,
        tag=None if subject is None else f"{SUBJECT_TAG}{subject}",
    )
    settings, now_ms = bootstrap_settings(), make_clock()()
    found = asyncio.run(_count(scope, now_ms))
    plan: dict[str, Any] = {
        "scope": scope.model_dump(exclude_none=True), **asdict(found),
        "at_provider": not keep_at_provider, "executed": execute,
    }  # fmt: skip
    if not found.jobs or not execute:
        emit_one(plan)
        tell("no job fits" if not found.jobs else "nothing was changed; add --execute with --why", quiet=quiet)
        raise typer.Exit(0 if found.jobs else DIFFERS)
    asked = ErasureRequested(
        id=f"{scope.erasure_id}/{now_ms}/requested", at_ms=now_ms, scope=scope, by=person(by),
        why=why or "",
        at_provider=not keep_at_provider, submitted_until_ms=now_ms,
    )  # fmt: skip
    done = asyncio.run(_execute(settings, asked, wait=wait, quiet=quiet))
    emit_one(plan if done is None else {**plan, "done": done.model_dump(mode="json", exclude={"scope", "type", "v"})})


async def _count(scope: ErasureScope, now_ms: int) -> ScopeCounts:
    database = database_at(read_model_url(), make_clock())
    try:
        return await database.read(lambda conn: count(conn, scope, now_ms))
    finally:
        await database.close()


async def _execute(
    settings: RuntimeSettings, asked: ErasureRequested, *, wait: bool, quiet: bool
) -> ErasureDone | None:
    """:raises ConfigurationError: the topic `erasures` is missing; nothing is written."""
    async with open_reader(settings) as reader:
        partitions = reader.partitions("erasures")
        publisher = KafkaPublisher(settings, "cli")
        with broker_errors("the erasure is not written; it is safe to run the command again"):
            await publisher.start()
        try:
            await publisher.publish([asked])
        finally:
            await publisher.stop()
        tell(f"written: {asked.key}; a running projection executes it, and goes on after a crash", quiet=quiet)
        while wait:
            async for batch in reader.read(await reader.ends(partitions)):
                for record in batch:
                    fact = decode(ERASURE_FACT, record.value)
                    if isinstance(fact, ErasureDone) and fact.key == asked.key:
                        return fact
            await asyncio.sleep(ASK_EVERY_S)
        return None
