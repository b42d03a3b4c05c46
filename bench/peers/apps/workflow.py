"""Restate: one workflow a job, and a service that turns the provider's webhook into a signal of its workflow."""

import asyncio
import json
from datetime import timedelta

import hypercorn.asyncio
import restate
import uvloop
from hypercorn.config import Config
from provider import ENDED, POLL_S, PORT, Provider, response_of
from restate.serde import BytesSerde

provider = Provider()
job = restate.Workflow("Job")
webhooks = restate.Service("Webhooks")
jobs: dict[str, str] = {}


async def read(response: str) -> str | None:
    found = await provider.retrieve(response)
    return json.dumps(found["output"]) if found["status"] in ENDED else None


async def create(job_id: str, text: str) -> str:
    response = await provider.create(job_id, text)
    jobs[response] = job_id
    return response


async def job_of(response: str) -> str:
    """A webhook names the response only; the provider's metadata names the job, the same at every replay."""
    return jobs.pop(response, None) or str((await provider.retrieve(response))["metadata"]["job"])


@job.main()
async def run(ctx: restate.WorkflowContext, text: str) -> str:
    response = await ctx.run_typed("create", create, job_id=ctx.key(), text=text)
    ended = ctx.promise("ended", type_hint=str)
    signalled = False
    while True:
        if signalled:
            await ctx.sleep(timedelta(seconds=POLL_S))
        else:
            found = await restate.select(ended=ended.value(), late=ctx.sleep(timedelta(seconds=POLL_S)))
            signalled = found[0] == "ended"
        result = await ctx.run_typed("retrieve", read, response=response)
        if result is not None:
            return result


@job.handler()
async def told(ctx: restate.WorkflowSharedContext, response: str) -> None:
    await ctx.promise("ended", type_hint=str).resolve(response)


@webhooks.handler(input_serde=BytesSerde())
async def openai(ctx: restate.Context, body: bytes) -> None:
    try:
        response = response_of(ctx.request().headers, body)
    except ValueError as error:
        raise restate.TerminalError(str(error), status_code=400) from None
    ctx.workflow_send(told, await job_of(response), response)


def main() -> None:
    config = Config()
    config.bind = [f"127.0.0.1:{PORT}"]
    config.loglevel = "WARNING"
    config.h2_max_concurrent_streams = config.keep_alive_max_requests = 2**31 - 1
    uvloop.install()
    asyncio.run(hypercorn.asyncio.serve(restate.app([job, webhooks]), config))


if __name__ == "__main__":
    main()
