"""What holds up the system, in sentences for operators. Pure."""

from collections.abc import Sequence
from typing import Final

from backstop.readmodel.waits import time_of
from backstop.runtime.kafka.holdings import Holding
from backstop.runtime.kafka.lives import SHORT_S
from backstop.runtime.kafka.troubles import Troubles
from backstop.runtime.process.identity import name_from

CLIENT_CHARS_MAX: Final = 100


def unassigned_sentences(unassigned: Sequence[Holding]) -> list[str]:
    """`no worker holds partitions 0, 2 since 01:25:47 UTC (jobs, responses)`; what moves together is told together."""
    topics: dict[tuple[str, int, int], list[str]] = {}
    for each in unassigned:
        topics.setdefault((each.group, each.unassigned_since_ms or 0, each.partition), []).append(each.topic)
    numbers: dict[tuple[str, int, tuple[str, ...]], list[int]] = {}
    for (group, since_ms, number), names in topics.items():
        numbers.setdefault((group, since_ms, tuple(names)), []).append(number)
    return [
        f"no {reader_of(group)} holds partition{'s' if len(found) > 1 else ''} "
        f"{', '.join(map(str, sorted(found)))} since {time_of(since_ms)} ({', '.join(names)})"
        for (group, since_ms, names), found in sorted(numbers.items(), key=lambda each: (each[0][0], min(each[1])))
    ]


def missing_sentences(names: Sequence[str]) -> list[str]:
    return [
        f"the topic {name} does not exist, or serve may not see it: `backstop topics create` makes it" for name in names
    ]


def blocked_sentences(found: Sequence[Holding]) -> list[str]:
    return [
        f"a transaction that its producer left open at offset {each.end} of partition {each.partition} of {each.topic} "
        f"blocks {each.blocked} records for the {reader_of(each.group)} since "
        f"{time_of(each.blocked_since_ms)}: the broker aborts it after the producer's transaction.timeout.ms, or "
        "`kafka-transactions.sh abort` does"
        for each in found
    ]


def still_sentences(found: Sequence[Holding]) -> list[str]:
    return [
        f"{place_of(each.holder or '')} holds partition {each.partition} of {each.topic}, and has not moved since "
        f"{time_of(each.moved_at_ms)}: {each.lag} records wait"
        for each in found
    ]


def near_sentences(found: Sequence[Holding]) -> list[str]:
    return [
        f"retention may soon delete records of partition {each.partition} of {each.topic} that the "
        f"{reader_of(each.group)} has not read"
        for each in found
    ]


def trouble_sentences(troubles: Troubles) -> list[str]:
    told = [f"{each.component} {each.place}: {each.said} (since {time_of(each.since_ms)})" for each in troubles.now()]
    return told + [
        f"{each.component} on {each.host} ended {each.ends} times within {SHORT_S // 60} minutes of its start, "
        f"first at {time_of(each.since_ms)}: its log says why"
        for each in troubles.short_lives()
    ]


def reader_of(group: str) -> str:
    """What a member of the group is called."""
    return {"readmodel": "projection"}.get(group, group)


def place_of(client_id: str) -> str:
    """Host and process id; the client id where it tells none."""
    name = name_from(client_id)
    return name.place if name is not None else client_id[:CLIENT_CHARS_MAX]
