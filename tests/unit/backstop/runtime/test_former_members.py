"""A process leaves its groups in the name of the one that had its folder before, if that one is gone."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backstop.runtime.kafka import former_members
from backstop.runtime.kafka.former_members import FormerMembers


class Admin:
    """A broker that notes who leaves which group."""

    left: list[tuple[str, str]]

    def __init__(self, **options: Any) -> None:
        self.fails = options.get("fails")

    async def start(self) -> None:
        if self.fails:
            raise OSError("refused")

    async def close(self) -> None:
        """Nothing is open."""

    async def find_coordinator(self, group: str) -> str:
        return f"coordinator of {group}"

    async def _send_request(self, request: Any, node: str) -> SimpleNamespace:
        assert node == f"coordinator of {request._group}"
        Admin.left.append((request._group, request._member_id))
        return SimpleNamespace(error_code=0)


@pytest.fixture(autouse=True)
def _admin(monkeypatch: pytest.MonkeyPatch) -> None:
    Admin.left = []
    monkeypatch.setattr(former_members, "AIOKafkaAdminClient", Admin)


def leave(members: FormerMembers, **options: Any) -> list[tuple[str, str]]:
    asyncio.run(members.leave(options))
    return Admin.left


def test_the_last_member_of_each_group_is_left_by_the_next_process(tmp_path: Path) -> None:
    first = FormerMembers(tmp_path)
    assert leave(first) == []
    for group, member_id in (("a", "a-1"), ("b", "b-1"), ("a", "a-2")):
        first.joined(group, member_id)
    first.close()
    second = FormerMembers(tmp_path)
    assert leave(second) == [("a", "a-2"), ("b", "b-1")]
    second.close()


def test_a_process_that_still_has_the_folder_keeps_its_groups(tmp_path: Path) -> None:
    first = FormerMembers(tmp_path)
    first.joined("a", "a-1")
    second = FormerMembers(tmp_path)
    second.joined("a", "a-2")
    assert leave(second) == []
    second.close()
    first.close()
    third = FormerMembers(tmp_path)
    assert leave(third) == [("a", "a-1")]
    third.close()


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b'{"a": 1}', b"\xff"])
def test_a_file_that_tells_nothing_is_passed_over(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "members.json").write_bytes(text)
    members = FormerMembers(tmp_path)
    assert leave(members) == []
    members.close()


def test_a_member_that_cannot_be_noted_ends_no_rebalance_and_is_noted_later(tmp_path: Path) -> None:
    first = FormerMembers(tmp_path)
    (tmp_path / "members.part").mkdir()
    first.joined("a", "a-1")
    (tmp_path / "members.part").rmdir()
    first.joined("a", "a-1")
    first.close()
    second = FormerMembers(tmp_path)
    assert leave(second) == [("a", "a-1")]
    second.close()


def test_a_broker_that_does_not_answer_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "members.json").write_bytes(b'{"a": "a-1"}')
    members = FormerMembers(tmp_path)
    assert leave(members, fails=True) == []
    members.close()
