"""ForeignPages' records on every topic that the system reads, and its producers and consumers of other make."""

import asyncio
import io
import json
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiokafka import AIOKafkaConsumer
from confluent_kafka import Consumer, Producer

from backstop.dev.broker import LocalKafka, Owned
from backstop.dev.fast_provider import BRISK
from backstop.dev.system import Shape, System
from backstop.runtime.kafka.client import client_options
from backstop.runtime.kafka.groups import GroupReader
from schemas.topics import TOPICS
from streams.watchdog import BrokerEnds
from tests.hostile.batches import CODECS, GZIP, LZ4, SNAPPY, ZSTD, Batch, Headers, record
from tests.kafka.held import held
from tests.kafka.raw_produce import produce_raw
from tests.support.waiting import eventually, wait_until

ENDED_WITHIN_S = 60.0
PARTITIONS = 2
BAD_NAME: Headers = ((b"\xff\xfe", b"x"),)
NULLS: Headers = ((b"null", None),)
BOMB_BYTES = 64 << 20
READERS = ("worker", "serve", "projection", "outgoing")

LARGE = {
    "BACKSTOP_SUBMIT_BYTES_MAX": str(32 << 20), "BACKSTOP_POLL_TIMEOUT_MS": "60000",
    "BACKSTOP_SUBMISSION_CREATE_TIMEOUT_MS": "30000",
    "BACKSTOP_SUBMISSION_COMMAND_VALID_MS": "60000",
}  # fmt: skip
"""Time for bodies of tens of megabytes on a machine that does much else."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def system(broker: Owned, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("system")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("BACKSTOP_", "OPENAI_"))}
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("BACKSTOP_REQUEST_TENANTS", "acme")
        shape = Shape(
            folder=folder,
            environment={
                **BRISK, **environment, "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap, "BACKSTOP_REQUEST_TENANTS": "acme"
            },
            settings=LARGE,
            port=0,
            partitions=PARTITIONS,
            time_scale=20.0,
            webhooks=True,
        )  # fmt: skip
        with held(shape) as running:
            yield running


def submission(job_id: str) -> bytes:
    return json.dumps({"type": "submit", "job_id": job_id, "request": {"model": "gpt-5.2", "input": "Hi."}}).encode()


def submitted_by_librdkafka(system: System, topic: str, codec: str, *job_ids: str) -> None:
    producer = Producer(
        {"bootstrap.servers": system.bootstrap, "compression.type": codec, "linger.ms": 50, "enable.idempotence": True}
    )
    for job_id in job_ids:
        producer.produce(
            f"{system.runtime.topic_prefix}{topic}", submission(job_id), key=job_id.encode(),
            headers=[("traceparent", b"00-1"), ("null", None)],
        )  # fmt: skip
    assert producer.flush(30) == 0


def results_by_librdkafka(system: System, *job_ids: str) -> dict[str, list[str]]:
    """The outcomes that a `read_committed` consumer of librdkafka sees of each, once all have one."""
    consumer = Consumer(
        {
            "bootstrap.servers": system.bootstrap, "group.id": f"downstream-{uuid.uuid4()}",
            "isolation.level": "read_committed", "auto.offset.reset": "earliest", "enable.auto.commit": False,
        }
    )  # fmt: skip
    consumer.subscribe([f"{system.runtime.topic_prefix}results"])
    outcomes: dict[str, list[str]] = {job_id: [] for job_id in job_ids}

    def all_ended() -> bool:
        for found in consumer.consume(500, timeout=0.5):
            assert found.error() is None
            key = (found.key() or b"").decode(errors="replace")
            if key in outcomes:
                outcomes[key].append(json.loads(found.value() or b"{}")["outcome"])
        return all(outcomes.values())

    try:
        wait_until(all_ended, ENDED_WITHIN_S, f"a result of each of {job_ids}")
        return outcomes
    finally:
        consumer.close()


@pytest.mark.parametrize(
    "codec", [codec if codec == "none" else pytest.param(codec, marks=pytest.mark.long) for codec in CODECS.values()]
)
def test_librdkafkas_codecs_and_null_headers_are_taken_and_its_consumer_sees_one_result_each(
    system: System, codec: str
) -> None:
    mine, acmes = f"by-librdkafka-{codec}", f"by-librdkafka-{codec}-acme"
    submitted_by_librdkafka(system, "requests", codec, mine)
    submitted_by_librdkafka(system, "requests.acme", codec, acmes)
    expected = {mine: ["completed"], f"acme:{acmes}": ["completed"]}
    assert results_by_librdkafka(system, *expected) == expected


JAVA = """
import java.util.*;
import org.apache.kafka.clients.producer.*;
public class Submits {
  public static void main(String[] a) throws Exception {
    for (String codec : a[2].split(",")) {
      Properties p = new Properties();
      p.put("bootstrap.servers", a[0]);
      p.put("compression.type", codec);
      p.put("linger.ms", "50");
      p.put("key.serializer", "org.apache.kafka.common.serialization.StringSerializer");
      p.put("value.serializer", "org.apache.kafka.common.serialization.StringSerializer");
      try (Producer<String, String> producer = new KafkaProducer<>(p)) {
        for (int n = 0; n < 3; n++) {
          String id = "by-java-" + codec + "-" + n;
          ProducerRecord<String, String> r = new ProducerRecord<>(a[1], id, a[3].replace("JOB", id));
          r.headers().add("null", null);
          producer.send(r);
        }
      }
    }
  }
}
"""


def test_javas_producer_is_taken_with_each_codec_and_librdkafka_reads_the_results(
    system: System, local_kafka: LocalKafka, tmp_path: Path
) -> None:
    source = tmp_path / "Submits.java"
    source.write_text(JAVA)
    topic = f"{system.runtime.topic_prefix}requests"
    arguments = (system.bootstrap, topic, ",".join(CODECS.values()), submission("JOB").decode())
    done = subprocess.run(
        local_kafka.command(str(source), *arguments), capture_output=True, text=True, timeout=90, check=False
    )
    if "jdk.compiler" in done.stderr:
        pytest.skip("JAVA'S PRODUCER IS NOT TESTED: this java has no compiler")
    assert done.returncode == 0, done.stderr
    job_ids = [f"by-java-{codec}-{n}" for codec in CODECS.values() for n in range(3)]
    assert results_by_librdkafka(system, *job_ids) == {key: ["completed"] for key in job_ids}


def hostile() -> Mapping[str, bytes]:
    """Batches that a broker takes."""
    bomb = (record(bytes(BOMB_BYTES)),)
    return {
        "a name that is not UTF-8": Batch((record(b"{}", headers=BAD_NAME),)).bytes(),
        "a null header of what is no JSON": Batch((record(b"no json", headers=NULLS),)).bytes(),
        "one of three": Batch((record(b"1"), record(b"2", headers=BAD_NAME, offset=1), record(b"3", offset=2))).bytes(),
        "null everything": Batch((record(None, None, NULLS),)).bytes(),
        "a key that is no text": Batch((record(b"\xff", b"\xff" * 500),)).bytes(),
        "many headers": Batch((record(b"{}", headers=((b"", None),) * 200_000),)).bytes(),
        "a time in the future": Batch((record(b"{}", time_ms=2**40),), first_ms=2**41).bytes(),
        **{f"a bomb of {CODECS[codec]}": Batch(bomb, codec=codec).bytes() for codec in (GZIP, ZSTD, LZ4)},
        "a bomb of snappy": Batch((record(bytes(28 << 20)),), codec=SNAPPY).bytes(),
    }


def test_hostile_records_on_every_topic_end_no_process_and_librdkafkas_jobs_go_on(system: System) -> None:
    prefix = system.runtime.topic_prefix
    names = [topic.name for topic in TOPICS if topic.name != "clock"] + ["requests.acme"]
    before = dict(system.restarts)

    batches = hostile()

    async def write() -> dict[str, dict[str, int | str]]:
        return {
            f"{name}-{partition}": {
                what: await produce_raw(system.bootstrap, f"{prefix}{name}", partition, batch)
                for what, batch in batches.items()
                if partition == 0 or "bomb" not in what  # A bomb takes each reader seconds, on any partition.
            }
            for name in names
            for partition in range(PARTITIONS)
        }

    written = asyncio.run(write())
    landed = {what: at for what, at in written["requests-0"].items() if isinstance(at, int)}
    assert len(landed) > 8, written["requests-0"]
    submitted_by_librdkafka(system, "requests", "zstd", *(f"after-{n}" for n in range(8)))
    submitted_by_librdkafka(system, "requests.acme", "lz4", *(f"after-{n}" for n in range(8)))
    expected = [name for n in range(8) for name in (f"after-{n}", f"acme:after-{n}")]
    assert results_by_librdkafka(system, *expected) == {key: ["completed"] for key in expected}
    assert dict(system.restarts) == before
    wanted = {
        f"{prefix}{name}:{partition}:{at}"
        for name in ("requests", "requests.acme", "jobs", "responses", "results", "submissions", "polls")
        for partition in range(PARTITIONS)
        for what, at in written[f"{name}-{partition}"].items()
        if isinstance(at, int) and what != "one of three"
        and not (name == "results" and what == "null everything")  # a tombstone
    }  # fmt: skip
    letters = asyncio.run(dead_letters(system, wanted))
    reasons = {letters[f"{prefix}requests:0:{at}"]["reason"] for what, at in landed.items() if "bomb" in what}
    assert reasons == {"too_large"}

    for name in READERS:
        pid = system.supervisor.pid(name)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    submitted_by_librdkafka(system, "requests", "gzip", "after-a-restart")
    assert results_by_librdkafka(system, "after-a-restart") == {"after-a-restart": ["completed"]}
    risen = {name: count - before[name] for name, count in system.restarts.items()}
    assert set(risen.values()) <= {0, 1}, risen


@pytest.mark.long
def test_a_transaction_that_a_stranger_leaves_open_is_told_and_is_no_stall_of_the_worker(system: System) -> None:
    """It holds back the records behind it. The watchdog would end a worker that does not move although it could."""
    name = "requests.acme"
    topic = f"{system.runtime.topic_prefix}{name}"
    stranger = Producer({"bootstrap.servers": system.bootstrap, "transactional.id": f"stranger-{uuid.uuid4()}"})
    stranger.init_transactions(30)

    async def seen() -> tuple[int, int, int]:
        """How far the watchdog and the status say that it can be read, and what is written."""
        ends = BrokerEnds(client_options(system.runtime), 10.0)
        groups = GroupReader(system.runtime, (), (name,), lambda: 0)
        try:
            found, look = await ends.of({(topic, 0)}), await groups.snapshot()
        finally:
            await ends.close()
            await groups.close()
        assert found is not None
        return found[topic, 0], look.ends[name, 0], look.written[name, 0]

    end, _, written = asyncio.run(seen())
    assert end == written
    stranger.begin_transaction()
    stranger.produce(topic, submission("never"), key=b"never", partition=0)
    assert stranger.flush(30) == 0
    assert asyncio.run(seen()) == (end, end, written + 1)
    stranger.abort_transaction(30)
    submitted_by_librdkafka(system, name, "none", "behind-it")
    assert results_by_librdkafka(system, "acme:behind-it") == {"acme:behind-it": ["completed"]}


@pytest.mark.long
def test_a_request_of_twenty_megabytes_and_an_answer_of_forty_come_through(system: System) -> None:
    before = dict(system.restarts)
    asked = {"model": "gpt-5.2", "input": "x\n" * 7_000_000, "metadata": {"sim_output_bytes": str(40 << 20)}}

    async def scenario() -> int:
        timeout = aiohttp.ClientTimeout(total=120)
        async with aiohttp.ClientSession(system.url, timeout=timeout) as session:
            # As a file: aiohttp warns of a large body that is given as bytes.
            body = io.BytesIO(json.dumps({"job_id": "large", "request": asked}).encode())
            headers = {"Content-Type": "application/json"}
            async with session.post("/v1/jobs", data=body, headers=headers) as taken:
                assert taken.status == 202, await taken.text()

            async def is_completed() -> bool:
                async with session.get("/v1/jobs/large", params={"wait": "10"}) as told:
                    return bool((await told.json())["status"] == "completed")

            await eventually(is_completed, ENDED_WITHIN_S, "the end of the large job")
            async with session.get("/v1/jobs/large/output") as output:
                return len(await output.read())

    assert asyncio.run(scenario()) > 40 << 20
    assert dict(system.restarts) == before


async def dead_letters(system: System, wanted: set[str]) -> dict[str, Any]:
    """The dead letters, by id, once all that are wanted are there."""
    letters: dict[str, Any] = {}
    consumer = AIOKafkaConsumer(
        f"{system.runtime.topic_prefix}dead-letters", bootstrap_servers=system.bootstrap, auto_offset_reset="earliest"
    )
    await consumer.start()

    async def all_there() -> bool:
        for batch in (await consumer.getmany(timeout_ms=200)).values():
            for found in batch:
                try:
                    letter = json.loads(found.value)
                except (TypeError, ValueError):
                    continue
                if isinstance(letter, dict) and "id" in letter:
                    letters[letter["id"]] = letter
        missing = sorted(wanted - set(letters))
        assert not missing, missing[:10]
        return True

    try:
        await eventually(all_there, ENDED_WITHIN_S, "a dead letter of each hostile record")
        return letters
    finally:
        await consumer.stop()
