"""The broker itself, on the real thing: started, killed, frozen, restarted, left behind by its owner."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.conn import create_conn
from aiokafka.protocol.metadata import MetadataRequest

from backstop.dev.broker import Broker, BrokerError, BrokerFailedError, BrokerPorts, LocalKafka, Owned, processes, ready
from backstop.dev.broker.jvm import NodeOptions
from tests.support.waiting import wait_until

BACKSTOP = str(Path(sys.executable).with_name("backstop"))


async def create_topic(bootstrap: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 1, 1)])
    finally:
        await admin.close()


async def send(bootstrap: str, topic: str, *values: bytes) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    await producer.start()
    try:
        for value in values:
            await producer.send_and_wait(topic, value, partition=0)
    finally:
        await producer.stop()


async def read(bootstrap: str, topic: str, count: int) -> list[bytes]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        return [(await asyncio.wait_for(consumer.getone(), 20)).value for _ in range(count)]
    finally:
        await consumer.stop()


async def addresses(bootstrap: str) -> list[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        return [f"{one['host']}:{one['port']}" for one in (await admin.describe_cluster())["brokers"]]
    finally:
        await admin.close()


def is_bound(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_session_s_broker_takes_a_record_and_gives_it_back(broker: Owned, prefix: str) -> None:
    async def round_trip() -> list[bytes]:
        await create_topic(broker.bootstrap, f"{prefix}jobs")
        await send(broker.bootstrap, f"{prefix}jobs", b"one", b"two")
        return await read(broker.bootstrap, f"{prefix}jobs", 2)

    assert asyncio.run(round_trip()) == [b"one", b"two"]


def test_a_topic_that_nobody_created_is_not_made_by_asking_for_it(
    broker: Owned, broker_is_our_node: bool, prefix: str
) -> None:
    if not broker_is_our_node:
        pytest.skip("only a node of ours has the setting")

    async def topics() -> set[str]:
        admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
        await admin.start()
        try:
            await admin.describe_topics([f"{prefix}unheard-of"])
            return set(await admin.list_topics())
        finally:
            await admin.close()

    assert f"{prefix}unheard-of" not in asyncio.run(topics())


@pytest.mark.long
def test_a_killed_broker_starts_again_on_its_ports_with_its_records(local_kafka: LocalKafka, tmp_path: Path) -> None:
    with Broker(local_kafka, tmp_path / "node") as node:
        bootstrap, pid = node.bootstrap, node.pid
        asyncio.run(create_topic(bootstrap, "kept"))
        asyncio.run(send(bootstrap, "kept", b"before"))
        node.kill()
        assert not node.running
        assert not is_bound(node.ports.client)
        node.start()
        assert (node.bootstrap, node.pid != pid) == (bootstrap, True)
        asyncio.run(send(bootstrap, "kept", b"after the kill"))
        node.restart()
        assert asyncio.run(read(bootstrap, "kept", 2)) == [b"before", b"after the kill"]
    assert not is_bound(node.ports.client)
    assert (tmp_path / "node" / "kafka.log").stat().st_size > 0


@pytest.mark.long
def test_the_first_temporary_broker_leaves_an_archive_of_classes_to_those_after_it(local_kafka: LocalKafka) -> None:
    kafka = replace(local_kafka, java_version=f"{local_kafka.java_version}-test-{os.getpid()}")
    try:
        with Broker(kafka):
            assert not kafka.shared_classes.exists()
        assert kafka.shared_classes.exists()
    finally:
        kafka.shared_classes.unlink(missing_ok=True)


@pytest.mark.long
def test_a_frozen_broker_accepts_and_does_not_answer_until_it_goes_on(local_kafka: LocalKafka) -> None:
    with Broker(local_kafka) as node:
        node.pause()
        wait_until(lambda: Path(f"/proc/{node.pid}/stat").read_text().split()[2] == "T", 5, "the node to stand still")
        assert is_bound(node.ports.client)  # the kernel accepts for it

        async def asked() -> None:
            admin = AIOKafkaAdminClient(bootstrap_servers=node.bootstrap, request_timeout_ms=500)
            try:
                await admin.start()
            finally:
                await admin.close()

        with pytest.raises(Exception, match=r"(?i)unable|timeout|bootstrap"):
            asyncio.run(asked())
        node.resume()
        wait_until(lambda: ready.answers(node.bootstrap), 20, "the node to answer again")
        node.pause()
        folder, port = node.folder, node.ports.client
    assert not folder.exists()  # it was temporary, and stopping a frozen node ends it all the same
    assert not is_bound(port)


@pytest.mark.long
def test_an_advertised_address_is_told_to_clients_and_passed_by_on_the_direct_one(local_kafka: LocalKafka) -> None:
    with Broker(local_kafka, options=NodeOptions(advertised="localhost:1")) as node:
        assert node.bootstrap == "localhost:1"
        assert asyncio.run(addresses(node.direct)) == [node.direct]
        raw = asyncio.run(_addresses_told_at(node.listen))
    assert raw == [("localhost", 1)]


async def _addresses_told_at(address: str) -> list[tuple[str, int]]:
    """What the first metadata answer says, without connecting to what it says."""
    host, port = address.split(":")
    connection = await create_conn(host, int(port))
    try:
        answer = await connection.send(MetadataRequest([]))
        return [(broker[1], broker[2]) for broker in answer.brokers]
    finally:
        connection.close()


def test_ports_that_somebody_else_has_are_reported_and_nothing_is_left(local_kafka: LocalKafka) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        node = Broker(local_kafka, ports=BrokerPorts(port, port + 1, port + 2))
        with pytest.raises(BrokerFailedError, match="taken"):
            node.start()
    assert not node.running
    with pytest.raises(BrokerError, match="not been started"):
        _ = node.folder


@pytest.mark.long
def test_a_second_node_on_a_folder_is_refused_and_the_first_goes_on(local_kafka: LocalKafka, tmp_path: Path) -> None:
    with Broker(local_kafka, tmp_path) as first:
        with pytest.raises(BrokerError, match=f"in use by a node with pid {first.pid}"):
            Broker(local_kafka, tmp_path).start()
        assert ready.answers(first.bootstrap)


def test_a_setting_that_kafka_refuses_is_told_with_the_end_of_its_log(local_kafka: LocalKafka) -> None:
    node = Broker(local_kafka, options=NodeOptions(overrides={"num.io.threads": "none"}))
    with pytest.raises(BrokerFailedError, match=r"(?s)could not format|ended with exit code.*num\.io\.threads"):
        node.start()
    assert not node.running


def test_a_start_that_was_killed_half_way_leaves_a_node_that_down_finds(
    local_kafka: LocalKafka, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    starter = subprocess.Popen([BACKSTOP, "broker", "up"], env=clean_environment(state), stdout=subprocess.DEVNULL)
    with starter:
        pid = int(wait_until((state / "kafka" / "pid").read_text, 60, "the node to be started"))
        starter.kill()
    assert processes.is_running(pid, mark=str(state))
    assert not (state / "broker.json").exists()
    down = backstop("down", "--wipe", state=state)
    assert (down.returncode, f"Kafka with pid {pid}, left by an interrupted start" in down.stdout) == (0, True)
    assert not processes.is_running(pid, mark=str(state))


OWNER = """
import os, sys
from pathlib import Path
from backstop.dev.broker import Broker, local_kafka
node = Broker(local_kafka(os.environ)).start()
print(node.pid, node.ports.client, node.folder, flush=True)
LAST_WORDS
print("done", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    "last_words",
    [
        *(pytest.param(each, marks=pytest.mark.long) for each in ("", "node.kill()")),
        "node.kill(); node.start(); node.kill()",
    ],
)
def test_an_owner_that_is_killed_takes_its_broker_and_folder_along(local_kafka: LocalKafka, last_words: str) -> None:
    code = OWNER.replace("LAST_WORDS", last_words)
    owner = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with owner:
        assert owner.stdout is not None
        pid, port, folder = owner.stdout.readline().split()
        assert owner.stdout.readline() == "done\n"
        assert processes.is_running(int(pid), mark=folder) is not bool(last_words)
        assert Path(folder).exists()
        owner.send_signal(signal.SIGKILL)
    wait_until(lambda: not processes.is_running(int(pid), mark=folder), 10, "the broker to die with its owner")
    wait_until(lambda: not Path(folder).exists(), 10, "its folder to be removed")
    assert not is_bound(int(port))


@pytest.mark.long
def test_a_broker_outlives_the_thread_that_started_it(local_kafka: LocalKafka) -> None:
    node = Broker(local_kafka)
    starter = threading.Thread(target=node.start)
    starter.start()
    starter.join()
    try:
        assert ready.answers(node.bootstrap)
        assert node.running
    finally:
        node.stop()


def clean_environment(state: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "KAFKA_BOOTSTRAP_SERVERS"}
    return kept | {"BACKSTOP_STATE_DIR": str(state)}


def backstop(*arguments: str, state: Path) -> subprocess.CompletedProcess[str]:
    environment = clean_environment(state)
    return subprocess.run(
        [BACKSTOP, "broker", *arguments], env=environment, capture_output=True, text=True, timeout=90, check=False
    )


@pytest.mark.long
def test_two_checkouts_have_a_broker_each_and_up_is_idempotent(local_kafka: LocalKafka, tmp_path: Path) -> None:
    left, right = tmp_path / "left", tmp_path / "right"
    try:
        first, again, other = backstop("up", state=left), backstop("up", state=left), backstop("up", state=right)
        assert [one.returncode for one in (first, again, other)] == [0, 0, 0], (
            first.stderr + again.stderr + other.stderr
        )
        assert first.stdout == again.stdout != other.stdout
        assert backstop("status", state=left).returncode == 0

        stopped = backstop("down", "--wipe", state=left)
        assert (stopped.returncode, "is stopped" in stopped.stdout) == (0, True)
        assert backstop("status", state=left).returncode == 1
        assert backstop("status", state=right).returncode == 0
        assert not (left / "kafka").exists()
        assert not is_bound(int(first.stdout.rpartition(":")[2]))
    finally:
        for state in (left, right):
            backstop("down", "--wipe", state=state)
    assert backstop("down", state=right).stdout.startswith("no broker")


@pytest.mark.slow
def test_up_after_a_crash_goes_on_with_the_data_at_the_same_address(local_kafka: LocalKafka, tmp_path: Path) -> None:
    try:
        first = backstop("up", state=tmp_path)
        bootstrap = first.stdout.strip()
        asyncio.run(create_topic(bootstrap, "kept"))
        asyncio.run(send(bootstrap, "kept", b"before"))
        pid = json.loads((tmp_path / "broker.json").read_text())["pid"]
        os.kill(pid, signal.SIGKILL)
        mark = str(tmp_path)
        wait_until(lambda: not processes.is_running(pid, mark=mark), 10, "the broker to be gone")
        gone = backstop("status", state=tmp_path)
        assert (gone.returncode, "has ended" in gone.stdout) == (1, True)
        assert backstop("up", state=tmp_path).stdout.strip() == bootstrap
        assert asyncio.run(read(bootstrap, "kept", 1)) == [b"before"]
    finally:
        backstop("down", "--wipe", state=tmp_path)


@pytest.mark.slow
@pytest.mark.long
def test_two_ups_at_once_start_one_broker(local_kafka: LocalKafka, tmp_path: Path) -> None:
    said: list[str] = []
    ups = [
        threading.Thread(target=lambda: said.append(backstop("up", state=tmp_path).stdout.strip())) for _ in range(2)
    ]
    try:
        for one in ups:
            one.start()
        for one in ups:
            one.join()
        assert len(said) == 2
        assert said[0] == said[1] != ""
    finally:
        backstop("down", "--wipe", state=tmp_path)
