"""Leaves groups in the name of the process that had this folder before, and died.

A group waits for a member that died until its session is over: for 10 to 15 s its partitions stand still, although the
process is back after a second. So a process notes its member ids in its folder, and its successor leaves in their
names. To the group, this is as if the session had ended: what is safe then (fences, commits of another generation) is
safe now. The folder's lock tells that the former process is gone: the system keeps it for one that is frozen.
"""

import asyncio
import fcntl
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import orjson
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, NoError, UnknownMemberIdError
from aiokafka.protocol.group import LeaveGroupRequest

from backstop.runtime.kafka.lifetimes import running
from backstop.runtime.process.logs import get_logger

log = get_logger("backstop.runtime.kafka.former_members")

LEAVE_WITHIN_S = 5.0


class FormerMembers:
    """The member ids of one folder's process, by group."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "members.json"
        self._ids: dict[str, str] = {}
        self._held: IO[bytes] = (folder / "members.lock").open("wb")
        self._alone = True
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # Another process has the folder, or its file system has no locks.
            self._alone = False

    def joined(self, group: str, member_id: str) -> None:
        """Note that this process is a member of `group`, as it is called at the broker.

        Where it can't be noted (a full disk), the next process waits for the end of the session, as without a note.
        """
        if not self._alone or self._ids.get(group) == member_id:
            return
        ids, half_done = {**self._ids, group: member_id}, self._path.with_suffix(".part")
        try:
            half_done.write_bytes(orjson.dumps(ids))
            half_done.replace(self._path)
        except OSError as error:
            log.warning("member_not_noted", group=group, error=repr(error))
        else:
            self._ids = ids

    async def leave(self, options: Mapping[str, Any]) -> None:
        """Leave the groups of the former process. Where that fails, they wait for the end of its sessions.

        :param options: connection options, as `backstop.runtime.kafka.client.client_options`.
        """
        former = self._former() if self._alone else {}
        if not former:
            return
        try:
            async with asyncio.timeout(LEAVE_WITHIN_S), running(AIOKafkaAdminClient(**options)) as admin:
                for group, member_id in former.items():
                    coordinator = await admin.find_coordinator(group)
                    # aiokafka 0.14 has no public way to remove a member.
                    left = await admin._send_request(LeaveGroupRequest(group, member_id), coordinator)  # noqa: SLF001
                    if left.error_code in (NoError.errno, UnknownMemberIdError.errno):
                        log.info("left_for_the_former_process", group=group)
                    else:
                        log.warning("former_process_not_left", group=group, error_code=left.error_code)
        except (KafkaError, OSError, TimeoutError) as error:
            log.warning("former_process_not_left", error=repr(error))

    def _former(self) -> dict[str, str]:
        """A file that can't be read tells nothing."""
        with suppress(OSError, ValueError):
            found = orjson.loads(self._path.read_bytes())
            if isinstance(found, dict) and all(isinstance(each, str) for each in found.values()):
                return found
        return {}

    def close(self) -> None:
        self._held.close()
