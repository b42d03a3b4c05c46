"""A drawn port is given to no other process, and a child of its holder can still listen there."""

import socket
import sys
import tempfile
from pathlib import Path

import pytest

from backstop.dev.ports import HOST, Ports

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a port can't be held for a child")


def listens(port: int) -> socket.socket:
    """Listen as a child does: reuse the address, bind, listen."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((HOST, port))
    server.listen()
    return server


def test_ports_drawn_are_distinct_and_can_be_listened_on() -> None:
    ports = Ports()
    try:
        drawn = [ports.draw() for _ in range(20)]
        assert len(set(drawn)) == 20
        listens(drawn[0]).close()
    finally:
        ports.release()


def test_two_holders_that_prefer_the_same_port_get_different_ones_before_either_listens() -> None:
    first, second = Ports(), Ports()
    try:
        wanted = first.draw()
        first.release()
        assert first.draw(wanted) == wanted
        assert second.draw(wanted) != wanted
    finally:
        first.release()
        second.release()


def test_a_preferred_port_on_which_another_process_listens_is_not_taken() -> None:
    ports = Ports()
    with listens(0) as server:
        taken = server.getsockname()[1]
        try:
            assert ports.draw(taken) != taken
        finally:
            ports.release()


def test_a_released_port_is_free_again() -> None:
    ports = Ports()
    wanted = ports.draw()
    ports.release()
    try:
        assert ports.draw(wanted) == wanted
    finally:
        ports.release()


def test_nothing_is_left_in_the_folder_of_temporary_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ports = Ports()
    wanted = ports.draw()
    ports.release()
    assert ports.draw(wanted) == wanted
    assert list(tmp_path.iterdir())
    ports.release()
    assert not list(tmp_path.iterdir())
