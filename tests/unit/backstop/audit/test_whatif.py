"""A what-if's policy file, its range, and the command line; what it computes: `tests/simulation/test_whatif.py`."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backstop.audit.bundle import TOPICS, write_bundle
from backstop.audit.whatif.policy import Policy, PolicyFileError, Polling, RetryBudgets, parse_policy
from backstop.audit.whatif.recorded import RangeReading, ReplayRangeError
from backstop.cli.audit import app
from backstop.runtime.records import Record
from tests.support import builders as b
from tests.unit.backstop.audit.world import World


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it changes nothing: known are polling, retry, hedging"),
        ("[pollin]\n", "pollin is not a key of a policy; known are polling, retry, hedging"),
        ("[retry]\nretries = 3\n", r"retry.retries is not a key of a policy; known are retries_max, "),
        ("[retry]\nretries_max = -1\n", "retry.retries_max: "),
        ("[retry]\nretries_max = '3'\n", "retry.retries_max: "),
        ("[polling]\nspacing_min_ms = 9000\nspacing_max_ms = 1000\n", "polling: polls: spacing_min_ms"),
        ("[polling]\nspacing_factor = nan\n", "polling"),
        ("[polling\n", "it is no TOML: "),
        ("x" * 70_000, "it has 70000 characters"),
    ],
)
def test_a_file_that_is_no_policy_is_refused_with_a_sentence(text: str, said: str) -> None:
    with pytest.raises(PolicyFileError, match=said):
        parse_policy(text)


def test_a_section_replaces_what_it_names() -> None:
    policy = parse_policy("[retry]\nretries_max = 0\n[polling]\nfirst_poll_ms = 5_000\n")
    assert policy == Policy(retry=RetryBudgets(retries_max=0), polling=Polling(first_poll_ms=5_000))
    assert policy.retry is not None
    assert policy.retry.of(b.POLICY) == b.POLICY.model_copy(update={"retries_max": 0})


def reading_of(world: World, since_ms: int, until_ms: int) -> RangeReading:
    reading = RangeReading(since_ms, until_ms)
    for topic in ("jobs", "responses", "results"):
        for at, records in sorted(world.records.items()):
            if at[0] == topic:
                reading.take(records)
    return reading


def test_a_range_holds_the_jobs_that_were_submitted_in_it() -> None:
    world = World("a", "b", "c")
    recorded = reading_of(world, b.T0 + 1_000, b.T0 + 2_000).done()
    assert set(recorded.models) == {"b"}
    assert recorded.truths["resp_b"].end_age_ms is not None
    with pytest.raises(ReplayRangeError, match="no job was submitted in the range"):
        reading_of(world, b.T0 + 60_000, b.T0 + 61_000).done()


def test_a_job_whose_beginning_is_missing_is_left_out_and_counted() -> None:
    world = World("a")
    world.tell(b.accepted(b.T0 + 5, job_id="cut", response_id="resp_cut"))
    assert reading_of(world, 0, 1 << 40).done().left_out.total() == 1


def bundle_of(world: World, path: Path) -> Path:
    async def batches() -> AsyncIterator[Sequence[Record]]:
        for at, records in sorted(world.records.items(), reverse=True):
            if at[0] in TOPICS and records:
                yield records

    asyncio.run(write_bundle(path, batches(), scope="all", made_at_ms=1))
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return bundle_of(World("a", "b", "c"), tmp_path / "a.bundle")


def asked(tmp_path: Path, bundle: Path, policy: str = "[retry]\nretries_max = 0\n", since: str = "1") -> list[str]:
    file = tmp_path / "policy.toml"
    file.write_text(policy)
    return ["replay", "--policy", str(file), "--since", since, "--bundle", str(bundle)]


@pytest.mark.parametrize(
    ("policy", "since", "code", "said"),
    [
        ("[retry]\nx = 1\n", "1", 2, "policy.toml is no policy: retry.x is not a key"),
        ("[retry]\nretries_max = 0\n", "1s", 1, "no job was submitted in the range"),
    ],
)
def test_bad_input_is_answered_with_a_sentence_and_an_exit_code(
    tmp_path: Path, bundle: Path, policy: str, since: str, code: int, said: str
) -> None:
    found = CliRunner().invoke(app, asked(tmp_path, bundle, policy, since))
    assert (found.exit_code, said in found.output) == (code, True), found.output
