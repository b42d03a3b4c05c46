"""An erasure on a real broker: asked for with the command, killed twice in the middle, and finished all the same."""

import asyncio
import base64
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx2
import orjson
import pytest

from backstop.dev.fast_provider import BRISK
from backstop.dev.system import Shape
from backstop.runtime.blobs import FolderBlobs
from backstop.runtime.kafka.topic_reader import open_reader
from backstop.runtime.settings import RuntimeSettings
from schemas.base import BlobBody, Message
from schemas.jobs import JobFact
from streams.fold.job import Absent, JobState, due_ms, step
from tests.kafka.held import held
from tests.kafka.projection_rig import ROOT, Rig, jobs, rebuild
from tests.support.children import BACKSTOP
from tests.unit.backstop.readmodel.logs import accepted, claimed, result_of, settled, submitted, timer

SECRET = "what only the caller and the model may know"
TAG = "subject:ann"
FAILED = {"status": "failed", "cause": "faulty", "code": "server_error"}


def retry_ms(facts: Sequence[JobFact]) -> int:
    """When the fold begins the next attempt of a job with these facts."""
    state: JobState = Absent()
    for fact in facts:
        state = step(state, fact).state
    due = due_ms(state)
    assert due is not None
    return due


def put(rig: Rig, **value: object) -> BlobBody:
    data = orjson.dumps({**value, "text": SECRET})
    sha256 = asyncio.run(FolderBlobs(rig.settings.blobs_path).put(data))
    return BlobBody(sha256=sha256, size_bytes=len(data))


def twice_tried(rig: Rig, job_id: str) -> list[Message]:
    """A job whose first attempt failed: that answer stands in the log, and not in the result."""
    first, second = f"resp_{job_id}_1", f"resp_{job_id}_2"
    failed = settled(job_id, response_id=first).model_copy(update={**FAILED, "response": put(rig, id=first)})
    facts: list[JobFact] = [
        submitted(job_id, request=put(rig, input=job_id), tags=(TAG,), request_sha256=job_id.rjust(64, "0")),
        accepted(job_id, response_id=first),
        failed,
    ]
    due = retry_ms(facts)
    facts += [
        timer(job_id, at_ms=due, due_ms=due),
        accepted(job_id, at_ms=due + 1, attempt=2, response_id=second),
        settled(job_id, at_ms=due + 9, attempt=2, response_id=second).model_copy(
            update={"response": put(rig, id=second)}
        ),
    ]
    return [*facts, claimed(job_id, second, at_ms=due + 1), result_of(*facts)]


def erase(rig: Rig, *arguments: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, *BACKSTOP, "erase", "--subject", "ann", *arguments],
        env=rig.environment(""),
        stdout=subprocess.PIPE,
    )


def blobs_of(rig: Rig) -> int:
    return sum(1 for path in rig.settings.blobs_path.glob("??/*") if path.is_file())


@pytest.mark.long
def test_killed_twice_in_the_middle_an_erasure_finishes_and_a_rebuild_brings_nothing_back(
    broker, prefix: str, tmp_path: Path
) -> None:
    rig = Rig(broker.bootstrap, prefix, tmp_path)
    others, mine = jobs(5), [fact for n in range(6) for fact in twice_tried(rig, f"ann{n}")]
    rig.publish([*others, *mine])
    with rig.projection():
        rig.wait_for(others, mine)
    assert blobs_of(rig) == 18
    planned = erase(rig)
    assert orjson.loads(planned.communicate(timeout=60)[0])["jobs"] == 6
    asking = erase(rig, "--execute", "--why", "asked for", "--by", "Ann", "--keep-at-provider")
    for place in ("erasing.removed", "erasing.told"):
        with rig.projection(f"{place}=kill") as process:
            assert process.wait(60) == -signal.SIGKILL, place
    with rig.projection():
        said = orjson.loads(asking.communicate(timeout=60)[0])
        assert (asking.returncode, said["done"]["by"], said["done"]["why"]) == (0, "Ann", "asked for")
        assert blobs_of(rig) == 0
        rows = rig.read(lambda conn: conn.rows("SELECT job_id, tags, status FROM jobs ORDER BY job_id"))
        assert [row for row in rows if row[0].startswith("ann")] == [(f"ann{n}", "[]", "completed") for n in range(6)]
        assert [row[1] for row in rows if row[0].startswith("j")] == ['["t"]'] * 5
        assert rebuild(rig) == 0
    with erase(rig) as again:
        assert again.wait(60) == 1  # no job fits any more


def test_with_keys_no_text_is_readable_at_rest_and_an_erasure_takes_it_from_the_provider_too(
    broker, tmp_path: Path
) -> None:
    key = base64.b64encode(os.urandom(32)).decode()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BACKSTOP_", "OPENAI_"))}
    shape = Shape(
        folder=tmp_path,
        environment={**BRISK, **kept, "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap},
        settings={"BACKSTOP_PAYLOAD_KEYS": f"default:{key}", "BACKSTOP_INLINE_BYTES_MAX": "0"},
        port=0,
        partitions=2,
        time_scale=20.0,
    )
    with held(shape) as system:
        asked = {"request": {"model": "gpt-5.2", "input": SECRET}, "job_id": "job_1", "tags": [TAG]}
        httpx2.post(f"{system.url}/v1/jobs", json=asked).raise_for_status()
        made = httpx2.post(
            f"{system.url}/v1/responses", json={"model": "gpt-5.2", "input": SECRET, "background": True}
        ).json()
        ended = httpx2.get(f"{system.url}/v1/jobs/job_1?wait=30", timeout=60).json()
        (attempt,) = ended["result"]["attempts"]
        assert SECRET in httpx2.get(f"{system.url}/v1/jobs/job_1/output").text
        assert SECRET in httpx2.get(f"{system.url}/v1/responses/{made['id']}/input_items").text
        at_rest = [path for path in (*tmp_path.glob("blobs/??/*"), *tmp_path.glob("*.db*")) if path.is_file()]
        assert len(at_rest) > 4
        assert not [path for path in at_rest if SECRET.encode() in path.read_bytes()]
        assert SECRET not in asyncio.run(records(system.runtime))

        settings = system.runtime
        done = subprocess.run(
            [sys.executable, *BACKSTOP, "erase", "--subject", "ann", "--execute", "--why", "asked for"],
            timeout=90, check=True, capture_output=True, env={
                **kept, "PYTHONPATH": str(ROOT), "KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
                "BACKSTOP_TOPIC_PREFIX": settings.topic_prefix, "BACKSTOP_DATABASE_URL": f"sqlite:///{system.database}",
            },
        )  # fmt: skip
        figures = orjson.loads(done.stdout)["done"]
        assert (figures["responses"], figures["blobs"]) == (1, 2)
        assert httpx2.get(f"{system.url}/v1/jobs/job_1/output").status_code == 404
        assert httpx2.get(f"{system.url}/v1/jobs/job_1").json()["result"]["erased_at_ms"]
        answer = httpx2.get(
            f"{system.simulator_url}/v1/responses/{attempt['response_id']}",
            headers={"Authorization": f"Bearer {system.api_key}"},
        )
        assert answer.status_code == 404
        assert SECRET in httpx2.get(f"{system.url}/v1/responses/{made['id']}/input_items").text


async def records(settings: RuntimeSettings) -> str:
    """All that stands on the topics that hold bodies, as text."""
    async with open_reader(settings) as reader:
        partitions = [
            each for topic in ("jobs", "responses", "results", "submissions") for each in reader.partitions(topic)
        ]
        found = await reader.read_all(partitions)
    assert len(found) > 8
    return "".join((record.value or b"").decode() for record in found)
