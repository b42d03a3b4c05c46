"""Creates whose commands are written beside their grants: when they may be performed, and when written again."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from backstop.runtime.records import Record
from schemas.base import Message
from schemas.codec import encode
from schemas.commands import CreateResponse
from schemas.jobs import JobAdmitted, Turn
from streams.early_creates import KNOWN_MAX, OWN_MAX, UNDECIDED_MAX, EarlyCreates
from streams.fold.batch import JOB_FOLD, Folded, fold_batch
from tests.simulation.loop import VirtualLoop
from tests.support.builders import JOB, T0, admitted, submitted
from tests.unit.streams.fold.states import create

BATCH_END = 7
GRANT = admitted(T0 + 1)


def run(part: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=lambda: VirtualLoop("early")) as runner:
        runner.run(part)


def early(job_id: str = JOB) -> CreateResponse:
    return create(T0 + 1).model_copy(
        update={"job_id": job_id, "id": f"{job_id}/1/create", "beside_grant": True}
    )  # fmt: skip


def record(message: Message, offset: int, topic: str = "jobs", partition: int = 0) -> Record:
    return Record(topic, partition, offset, T0, message.key.encode(), encode(message), ())


def of_another_job(offset: int) -> Record:
    return record(submitted(job_id="another"), offset)


def begun() -> EarlyCreates:
    creates = EarlyCreates()
    creates.performs = lambda partition: partition == 0
    creates.begin(0, early(), BATCH_END)
    return creates


def folded(*facts: Message) -> Folded[Any]:
    found: Folded[Any] = Folded()
    found.facts = [(fact.key.encode(), fact) for fact in facts]
    return found


def test_it_may_be_performed_once_its_grant_is_the_next_record_of_the_log() -> None:
    async def story() -> None:
        creates = begun()
        asked = asyncio.create_task(creates.granted(early()))
        await asyncio.sleep(1)
        assert not asked.done()
        creates.landed(record(GRANT, BATCH_END + 1))
        assert await asked

    run(story())


def test_own_records_of_other_jobs_may_stand_between() -> None:
    async def story() -> None:
        creates = begun()
        creates.landed(of_another_job(BATCH_END + 1))
        creates.landed(record(GRANT, BATCH_END + 2))
        assert await creates.granted(early())

    run(story())


@pytest.mark.parametrize(
    "between", [None, record(submitted(), BATCH_END + 1)], ids=["of another process", "of the job"]
)
@pytest.mark.parametrize("begins", [True, False])
def test_with_any_other_record_between_the_fold_of_the_grant_decides(between: Record | None, *, begins: bool) -> None:
    async def story() -> None:
        creates = begun()
        if between is not None:
            creates.landed(between)
        grant = record(GRANT, BATCH_END + 2)
        creates.landed(grant)
        asked = asyncio.create_task(creates.granted(early()))
        await asyncio.sleep(1)
        assert not asked.done()
        creates.folded(0, [of_another_job(BATCH_END + 1)], folded(submitted(job_id="another")))
        creates.folded(0, [grant], folded(*([GRANT] if begins else [])))
        assert await asked is begins

    run(story())


def test_more_records_between_than_are_remembered_are_left_to_the_fold() -> None:
    async def story() -> None:
        creates = begun()
        for number in range(OWN_MAX):
            creates.landed(of_another_job(BATCH_END + 1 + number))
        creates.landed(record(GRANT, BATCH_END + 1 + OWN_MAX))
        assert not await creates.granted(early())

    run(story())


def test_without_word_of_its_grant_it_is_not_performed() -> None:
    async def story() -> None:
        assert not await EarlyCreates().granted(early())  # Another process wrote it.
        creates = begun()
        assert not await creates.granted(early())
        creates.landed(record(GRANT, BATCH_END + 1))
        assert not await creates.granted(early())  # It was given back: the answer stays.

    run(story())


def test_after_a_rebalance_what_is_known_stays_and_what_is_not_known_is_given_back() -> None:
    async def story() -> None:
        creates = begun()
        creates.begin(0, early("b"), BATCH_END)
        creates.landed(record(GRANT, BATCH_END + 1))
        creates.own({1})
        assert await creates.granted(early())
        assert not await creates.granted(early("b"))

    run(story())


def test_the_fold_of_the_grant_writes_the_command_again_only_if_it_is_not_in_its_topic() -> None:
    async def story() -> None:
        again, other = create(T0 + 1), create(T0 + 1, attempt=2)
        creates = begun()
        assert creates.needed([again, other]) == [again, other]
        creates.written(record(again, 0, "submissions"))
        assert creates.needed([again]) == [again]
        creates.written(record(early(), 0, "submissions"))
        assert creates.needed([again, other]) == [other]
        assert EarlyCreates().needed([again]) == [again]

    run(story())


def test_the_command_is_the_one_that_the_fold_of_the_grant_makes() -> None:
    waits = submitted(turn=Turn(waits=True))
    both = fold_batch(JOB_FOLD, lambda _: None, [record(waits, 0), record(GRANT, 1)])
    (command,) = both.outputs
    assert isinstance(command, CreateResponse)
    assert encode(command.model_copy(update={"beside_grant": True})) == encode(early())


def test_what_is_kept_is_bounded_and_what_is_over_is_forgotten() -> None:
    async def story() -> None:
        creates = begun()
        for number in range(UNDECIDED_MAX - 1):
            assert creates.may_begin(0)
            creates.begin(0, early(f"some_{number}"), BATCH_END)
        assert not creates.may_begin(0)
        for number in range(KNOWN_MAX):
            creates.begin(0, early(f"more_{number}"), BATCH_END)
        assert not await creates.granted(early())  # Forgotten, so given back.
        creates.own(())
        assert creates.may_begin(0)
        assert not creates.may_begin(1)  # Its commands are another process's.

        creates.begin(0, early(), BATCH_END)
        creates.landed(record(GRANT, BATCH_END + 1))
        creates.written(record(early(), 0, "submissions"))
        assert await creates.granted(early())
        assert creates.needed([create(T0 + 1)]) == []
        creates.folded(0, [record(GRANT, BATCH_END + 1)], folded(GRANT))
        assert creates.needed([create(T0 + 1)]) == [create(T0 + 1)]

    run(story())


def test_a_grant_is_known_by_its_bytes() -> None:
    assert isinstance(GRANT, JobAdmitted)
    assert b'"type":"job_admitted"' in encode(GRANT)
    assert b'"beside_grant":true' in encode(early())
