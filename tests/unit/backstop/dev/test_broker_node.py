"""What a node is told, and on which ports it stands."""

import socket
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from backstop.dev.broker.node import (
    HOST,
    PORTS_COUNT,
    PORTS_FIRST,
    BrokerPorts,
    are_free,
    draw_ports,
    offset_of,
    properties,
)

PORTS = BrokerPorts(client=20_001, direct=20_002, controller=20_003)


def told(**changes) -> dict[str, str]:
    text = properties(Path("/data"), PORTS, **({"advertised": None, "overrides": {}} | changes))
    return dict(line.split("=", 1) for line in text.splitlines())


def test_clients_are_told_the_port_that_the_node_listens_on() -> None:
    lines = told()
    assert lines["listeners"] == f"CLIENT://{HOST}:20001,CONTROLLER://{HOST}:20003"
    assert lines["advertised.listeners"] == f"CLIENT://{HOST}:20001"
    assert lines["inter.broker.listener.name"] == "CLIENT"


def test_a_proxy_is_told_to_clients_while_the_node_talks_to_itself_past_it() -> None:
    lines = told(advertised="localhost:9")
    assert lines["listeners"] == f"CLIENT://{HOST}:20001,DIRECT://{HOST}:20002,CONTROLLER://{HOST}:20003"
    assert lines["advertised.listeners"] == f"CLIENT://localhost:9,DIRECT://{HOST}:20002"
    assert lines["inter.broker.listener.name"] == "DIRECT"


def test_overrides_win_and_stand_once() -> None:
    text = properties(Path("/data"), PORTS, advertised=None, overrides={"message.max.bytes": "7"})
    assert [line for line in text.splitlines() if line.startswith("message.max.bytes")] == ["message.max.bytes=7"]


def test_a_backslash_in_a_folder_survives_java_s_reading_of_properties() -> None:
    assert "log.dirs=/a\\\\b\n" in properties(Path("/a\\b"), PORTS, advertised=None, overrides={})


def test_topics_are_not_made_by_asking_for_them_and_groups_do_not_wait() -> None:
    lines = told()
    assert lines["auto.create.topics.enable"] == "false"
    assert lines["group.initial.rebalance.delay.ms"] == lines["group.coordinator.append.linger.ms"] == "0"
    assert {lines[f"{one}.replication.factor"] for one in ("offsets.topic", "transaction.state.log")} == {"1"}


def test_ports_that_are_drawn_are_free_distinct_and_below_those_of_outgoing_connections() -> None:
    drawn = [draw_ports() for _ in range(20)]
    numbers = [port for ports in drawn for port in (ports.client, ports.direct, ports.controller)]
    assert len(set(numbers)) == len(numbers)
    assert all(PORTS_FIRST <= number < PORTS_FIRST + PORTS_COUNT <= 32_768 for number in numbers)
    assert all(map(are_free, drawn))


@given(st.integers(1, 1 << 22), st.integers(1, 12))
def test_processes_that_start_one_after_the_other_draw_two_hundred_brokers_without_meeting(
    pid: int, later: int
) -> None:
    apart = (offset_of(pid + later) - offset_of(pid)) % PORTS_COUNT
    assert min(apart, PORTS_COUNT - apart) >= 3 * 200


def test_a_port_with_a_listener_is_not_free() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        free = draw_ports()
        assert not are_free(BrokerPorts(free.client, free.direct, taken.getsockname()[1]))


@given(
    st.dictionaries(st.from_regex(r"\A[a-z.]{1,12}\Z"), st.text(st.characters(codec="ascii", categories=["L", "N"])))
)
def test_each_override_is_a_line_of_its_own(overrides: dict[str, str]) -> None:
    lines = told(overrides=overrides)
    assert {name: lines[name] for name in overrides} == overrides
