"""FastAPI and PostgreSQL: what a careful team writes by itself. One process, three tables' worth of state in two.

A job is `new`, `sending`, `running` and `done`. The webhook is acknowledged when it is committed. A poll by time finds
what no webhook told. After a crash every job that was `sending` is sent again: whether its create was accepted is not
known, so such a job may be paid twice.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import asyncpg
import uvicorn
from fastapi import FastAPI, Request, Response
from provider import CALLS_MAX, ENDED, POLL_S, PORT, Provider, response_of
from pydantic import BaseModel

TABLES = """
CREATE TABLE jobs (id text PRIMARY KEY, text text NOT NULL, state text NOT NULL DEFAULT 'new', response text UNIQUE,
    poll_at timestamptz, n bigserial, result text);
CREATE INDEX ON jobs (n) WHERE state = 'new';
CREATE INDEX ON jobs (poll_at) WHERE state = 'running';
CREATE TABLE inbox (webhook text PRIMARY KEY, response text NOT NULL, done boolean NOT NULL DEFAULT false);
CREATE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_notify('results', NEW.id); RETURN NULL; END $$;
CREATE TRIGGER told AFTER UPDATE ON jobs FOR EACH ROW WHEN (NEW.state = 'done') EXECUTE FUNCTION told();
"""
TAKE = """UPDATE jobs SET state = 'sending' WHERE id IN
    (SELECT id FROM jobs WHERE state = 'new' ORDER BY n LIMIT $1 FOR UPDATE SKIP LOCKED) RETURNING id, text"""
SENT = "UPDATE jobs SET state = 'running', response = $2, poll_at = now() + $3 * interval '1 s' WHERE id = $1"
END = "UPDATE jobs SET state = 'done', result = $2 WHERE response = $1 AND state = 'running'"
DUE = """UPDATE jobs SET poll_at = now() + $1 * interval '1 s' WHERE id IN
    (SELECT id FROM jobs WHERE state = 'running' AND poll_at < now() LIMIT 500) RETURNING response"""
AGAIN_S = 0.05
"""A webhook may come before the create's own answer is committed."""
AGAIN_MAX = 20


class Job(BaseModel):
    """A submission."""

    id: str
    text: str


class Worker:
    """Sends new jobs, and reads the responses that a webhook or the time names."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.pool = pool
        self.woken = asyncio.Event()
        self.provider = Provider()
        self._slots = asyncio.Semaphore(CALLS_MAX)
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def send_all(self) -> None:
        while True:
            self.woken.clear()
            jobs = await self.pool.fetch(TAKE, CALLS_MAX)
            for job in jobs:
                await self._slots.acquire()
                self.spawn(self._send(job["id"], job["text"]))
            if not jobs:
                await asyncio.wait([asyncio.ensure_future(self.woken.wait())], timeout=1)

    async def _send(self, job_id: str, text: str) -> None:
        try:
            await self.pool.execute(SENT, job_id, await self.provider.create(job_id, text), POLL_S)
        except (aiohttp.ClientError, OSError):
            await self.pool.execute("UPDATE jobs SET state = 'new' WHERE id = $1", job_id)
        finally:
            self._slots.release()

    async def read(self, response: str, webhook: str | None = None) -> None:
        for _ in range(AGAIN_MAX):
            found = await self.provider.retrieve(response)
            if found["status"] not in ENDED:
                return
            async with self.pool.acquire() as connection, connection.transaction():
                changed = await connection.execute(END, response, json.dumps(found["output"]))
                state = "done" if changed == "UPDATE 1" else await connection.fetchval(
                    "SELECT state FROM jobs WHERE response = $1", response)  # fmt: skip
                if state == "done":
                    await connection.execute("UPDATE inbox SET done = true WHERE webhook = $1", webhook)
                    return
            await asyncio.sleep(AGAIN_S)

    async def poll_by_time(self) -> None:
        while True:
            await asyncio.sleep(0.25)
            for row in await self.pool.fetch(DUE, POLL_S):
                self.spawn(self.read(row["response"]))


@asynccontextmanager
async def lifespan(application: FastAPI) -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ["PEER_DATABASE_URL"], min_size=16, max_size=16) as pool:
        if await pool.fetchval("SELECT to_regclass('jobs')") is None:
            await pool.execute(TABLES)
        await pool.execute("UPDATE jobs SET state = 'new' WHERE state = 'sending'")
        application.state.worker = worker = Worker(pool)
        for row in await pool.fetch("SELECT webhook, response FROM inbox WHERE NOT done"):
            worker.spawn(worker.read(row["response"], row["webhook"]))
        worker.spawn(worker.send_all())
        worker.spawn(worker.poll_by_time())
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/jobs", status_code=202)
async def submit(job: Job) -> dict[str, str]:
    worker: Worker = app.state.worker
    await worker.pool.execute("INSERT INTO jobs (id, text) VALUES ($1, $2) ON CONFLICT DO NOTHING", job.id, job.text)
    worker.woken.set()
    return {"id": job.id}


@app.post("/webhook")
async def webhook(request: Request) -> Response:
    worker: Worker = app.state.worker
    try:
        response = response_of(request.headers, await request.body())
    except ValueError:
        return Response(status_code=400)
    name = request.headers["webhook-id"]
    told = await worker.pool.execute(
        "INSERT INTO inbox (webhook, response) VALUES ($1, $2) ON CONFLICT DO NOTHING", name, response
    )
    if told == "INSERT 0 1":
        worker.spawn(worker.read(response, name))
    return Response(status_code=200)


@app.get("/health")
async def health() -> dict[str, bool]:
    return {"ok": True}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=PORT, access_log=False, log_level="warning")
