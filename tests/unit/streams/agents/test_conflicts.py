"""A submission under another submission's job id changes nothing and becomes a dead letter for its sender to see."""

from dataclasses import dataclass

import pytest

from schemas.base import Message
from schemas.codec import encode
from streams.fold.batch import JOB_FOLD, fold_batch
from tests.support.builders import T0, accepted, cancel_requested, submitted


@dataclass(frozen=True)
class Stored:
    offset: int
    key: bytes | None
    value: bytes | None


def stored(*facts: Message) -> list[Stored]:
    return [Stored(offset, fact.key.encode(), encode(fact)) for offset, fact in enumerate(facts)]


OTHER = submitted(T0 + 5, request_sha256="sha-2")


@pytest.mark.parametrize("between", [(), (accepted(T0 + 2),), (cancel_requested(T0 + 2),)])
def test_the_second_of_two_submissions_under_one_id_is_a_dead_letter_in_every_state_of_the_job(
    between: tuple[Message, ...],
) -> None:
    records = stored(submitted(), *between, OTHER, submitted(T0 + 9))
    folded = fold_batch(JOB_FOLD, lambda _: None, records)
    ((record, error),) = folded.poisons
    assert (record.offset, error.reason) == (1 + len(between), "conflict")
    assert folded.last_poisoned_run == 0, "it is no sign of a log that can't be read"
    assert folded.rows == fold_batch(JOB_FOLD, lambda _: None, [r for r in records if r.offset != record.offset]).rows
    again = fold_batch(JOB_FOLD, folded.rows.get, [record])
    assert [error.reason for _, error in again.poisons] in (["conflict"], [])


def test_another_tenants_submission_under_the_same_id_is_a_dead_letter_too() -> None:
    folded = fold_batch(JOB_FOLD, lambda _: None, stored(submitted(), submitted(T0 + 5, tenant="globex")))
    assert [error.reason for _, error in folded.poisons] == ["conflict"]
