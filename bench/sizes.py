"""How many bytes a job needs in Kafka, in the read model and in a worker's table: from the records of whole jobs.

    python -m bench.sizes --jobs 2000

Makes no broker: the product's own folds give the records of each job (submission, acceptance, webhook, poll, end), the
projection writes them to a SQLite file. Bodies are of the given size and stand in the records.
"""

import argparse
import tempfile
from collections import Counter
from pathlib import Path

from backstop.readmodel import store
from backstop.readmodel.batch import ParsedRecord
from backstop.readmodel.rows import Position
from backstop.readmodel.sqlite import SqliteConnection, connect, create
from schemas.base import InlineBody, Message, Usage
from schemas.codec import encode
from schemas.jobs import AttemptAccepted, JobSubmitted
from schemas.responses import ResponseObserved, WebhookReceived
from streams.fold import job, response
from streams.fold.rows import encode_job_state
from streams.submission import SubmissionPolicy

RECORD_OVERHEAD_BYTES = 70
"""Of Kafka for a record: key, headers of CloudEvents after compression, offsets. A batch's own 61 bytes are shared."""
T0 = 1_700_000_000_000


def records_of(n: int, prompt_bytes: int, answer_bytes: int) -> list[Message]:
    """All records of one job, in the order of their times."""
    job_id, response_id, at_ms = f"job_{n:032x}", f"resp_{n:048x}", T0 + 20 * n
    facts: list[Message] = [
        JobSubmitted(
            id=f"{job_id}/submitted", at_ms=at_ms, job_id=job_id, tenant="default", ingress="http", model="gpt-5",
            request=InlineBody(value={"model": "gpt-5", "input": "x" * prompt_bytes}), request_sha256=f"{n:064x}",
            deadline_at_ms=at_ms + 3_600_000, policy=SubmissionPolicy().stamp(None),
        )
    ]  # fmt: skip
    accepted = AttemptAccepted(
        id=f"{job_id}/1/accepted", at_ms=at_ms + 20, job_id=job_id, attempt=1, tenant="default",
        response_id=response_id, status="queued", poll_at_ms=at_ms + 20_000,
    )  # fmt: skip
    webhook = WebhookReceived(
        id=f"wh_{n:032x}", at_ms=at_ms + 9_000, response_id=response_id, webhook_id=f"wh_{n:032x}",
        event_type="response.completed", sent_at_ms=at_ms + 8_990, key_id="0123456789ab", claim_by_ms=at_ms + 30_000,
        raw='{"object":"event","created_at":1700000000,"type":"response.completed","data":{"id":"resp_0"}}',
        forget_after_ms=3_600_000,
    )  # fmt: skip
    observed = ResponseObserved(
        id=f"{response_id}/observed", at_ms=at_ms + 9_030, response_id=response_id, command_id="c",
        outcome="completed", raw_status="completed", next_poll_at_ms=at_ms + 99_000, job_id=job_id, attempt=1,
        response=InlineBody(value={"id": response_id, "status": "completed", "output": "y" * answer_bytes}),
        usage=Usage(input_tokens=50, output_tokens=90, total_tokens=140), tenant="default",
    )  # fmt: skip
    return _folded([facts[0], accepted, webhook, observed])


def _folded(given: list[Message]) -> list[Message]:
    """The given facts, with all that the folds answer to them."""
    jobs: job.JobState = job.Absent()
    responses: response.ResponseState = response.AbsentResponse()
    todo, told = list(given), list[Message]()
    while todo:
        message = todo.pop(0)
        told.append(message)
        if message.topic == "jobs":
            taken = job.step(jobs, message)  # type: ignore[arg-type]  # by its topic
            jobs, outputs = taken.state, taken.outputs
        elif message.topic == "responses":
            seen = response.step(responses, message)  # type: ignore[arg-type]  # by its topic
            responses, outputs = seen.state, seen.outputs
        else:
            continue
        todo = [*outputs, *todo]
    return told


def main(jobs: int, prompt_bytes: int, answer_bytes: int) -> None:
    topics: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sizes.db"
        create(file, 1)
        raw = connect(file)
        conn, offsets = SqliteConnection(raw), Counter[str]()
        for n in range(jobs):
            parsed = []
            for message in records_of(n, prompt_bytes, answer_bytes):
                value = encode(message)
                topics[message.topic] += len(value) + RECORD_OVERHEAD_BYTES
                if message.topic in ("jobs", "responses", "results"):
                    at = Position(message.topic, 0, offsets[message.topic])
                    parsed.append(ParsedRecord(at, message, value))  # type: ignore[arg-type]  # by its topic
                    offsets[message.topic] += 1
            raw.execute("BEGIN")
            store.apply(conn, [], parsed, T0, 1)
            raw.execute("COMMIT")
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        raw.close()
        database = file.stat().st_size
    print(f"{jobs} jobs, prompts of {prompt_bytes} and answers of {answer_bytes} bytes; bytes a job:")
    for topic, size in topics.most_common():
        print(f"  {topic:12} {size / jobs:8.0f}")
    print(f"  {'read model':12} {database / jobs:8.0f}")
    state = job.step(job.Absent(), records_of(0, prompt_bytes, answer_bytes)[0]).state  # type: ignore[arg-type]
    print(f"  {'open row':12} {len(encode_job_state(state)):8.0f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2_000)
    parser.add_argument("--prompt-bytes", type=int, default=2_000)
    parser.add_argument("--answer-bytes", type=int, default=2_000)
    given = parser.parse_args()
    main(given.jobs, given.prompt_bytes, given.answer_bytes)
