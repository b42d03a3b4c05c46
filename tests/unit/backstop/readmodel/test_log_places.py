"""Where a job's facts stand in the logs, on every kind of database."""

import pytest

from backstop.readmodel import log_places as module
from backstop.readmodel.log_places import LogPlaces, log_places
from tests.unit.backstop.readmodel.conftest import Bench
from tests.unit.backstop.readmodel.logs import Log, claimed, submitted, webhook, whole_job
from tests.unit.backstop.readmodel.projection import Projection


def test_places_are_those_of_the_jobs_own_facts_and_are_found_by_either_id(run) -> None:
    async def body(bench: Bench) -> None:
        projection, log = await Projection(bench.another()).take_over(), Log()
        # The second claim of resp_2 is of no use to its job.
        records = log.put(
            *whole_job("j", "resp_1"),
            *whole_job("other", "resp_2"),
            claimed("j", "resp_2", made_elsewhere=True),
            webhook("resp_9"),
        )
        await projection.take(records)
        expected: dict[tuple[str, int], list[int]] = {}
        for record in records:
            at = record.position
            if record.fact.key in ("j", "resp_1"):
                expected.setdefault((at.topic, at.partition), []).append(at.offset)

        async def places(identifier: str) -> LogPlaces | None:
            return await projection.database.read(lambda conn: log_places(conn, identifier))

        found = await places("j")
        assert found is not None
        assert (found.job_id, found.offsets, found.responses) == ("j", expected, frozenset({"resp_1"}))
        assert {at: end for at, end in found.applied.items() if at[0] != "dead-letters"} == {
            at: max(r.position.offset for r in records if r.position.topic == at[0]) + 1
            for at in (("jobs", 0), ("responses", 0), ("results", 0))
        }
        assert await places("resp_1") == found
        assert [await places(unknown) for unknown in ("nothing", "resp_9")] == [None, None]

    run(body)


def test_a_job_with_too_many_facts_is_read_otherwise(run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(bench: Bench) -> None:
        projection = await Projection(bench.another()).take_over()
        await projection.take(Log().put(submitted("j"), submitted("j"), submitted("k")))
        for most, is_known in ((2, True), (1, False)):
            monkeypatch.setattr(module, "LOG_PLACES_MAX", most)
            found = await projection.database.read(lambda conn: log_places(conn, "j"))
            assert (found is not None) is is_known

    run(body)
