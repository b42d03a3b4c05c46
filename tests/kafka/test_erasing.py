"""An erasure on a real broker: asked for with the command, killed twice in the middle, and finished all the same."""

import asyncio
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import orjson

from backstop.runtime.blobs import FolderBlobs
from schemas.base import BlobBody, Message
from schemas.jobs import JobFact
from streams.fold.job import Absent, JobState, due_ms, step
from tests.kafka.projection_rig import Rig, jobs, rebuild
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
        [*BACKSTOP, "erase", "--subject", "ann", *arguments], env=rig.environment(""), stdout=subprocess.PIPE
    )


def blobs_of(rig: Rig) -> int:
    return sum(1 for path in rig.settings.blobs_path.glob("??/*") if path.is_file())


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
    assert erase(rig).wait(60) == 1  # no job fits any more
