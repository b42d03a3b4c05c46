"""The cost ledger: what counts, once, whatever the order and repetition of facts."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from backstop.readmodel import ledger, queries
from backstop.readmodel.batch import Known, project
from backstop.readmodel.costs import BYS, PRICED_BY, By, CostQuestion, CostsView, columns_of, costs, day_of, number_of
from backstop.readmodel.ledger import sums_between
from backstop.readmodel.retention import Removable, remove_ended
from backstop.readmodel.spending import (
    COUNTS,
    GROUP,
    NO_USAGE,
    RANK,
    SPEND_OUTCOMES,
    Spend,
    SpendOutcome,
    SpendOwner,
    Sums,
    add,
    merged,
)
from schemas.base import InlineBody, Message, Terms, Usage
from schemas.jobs import AdoptionRefused, AttemptEnd, UsageBooked
from streams.fold.job import Absent, step
from streams.policy.prices import read_prices
from streams.price_settings import SHIPPED_PRICES
from tests.unit.backstop.readmodel.logs import (
    DEADLINE_MS,
    Log,
    accepted,
    adopted,
    cancelled,
    rejected,
    result_of,
    settled,
    submitted,
    timer,
    unknown,
    whole_job,
)
from tests.unit.backstop.readmodel.projection import Projection

USAGE = Usage(input_tokens=5, output_tokens=7, total_tokens=12)
Told = dict[tuple[int, str], tuple[SpendOutcome, int, int]]


def booked(response_id: str = "resp_1", usage: Usage = USAGE, at_ms: int = 9_900, **changes: Any) -> UsageBooked:
    fields = {"id": f"{response_id}/usage", "at_ms": at_ms, "job_id": "j", "tenant": "default", "attempt": 1}
    return UsageBooked(**fields | {"response_id": response_id, "usage": usage} | changes)


def spends(*facts: Message) -> dict[tuple[int, str], Spend]:
    """The spends of job `j` after its log."""
    known = Known()
    project(Log().put(*facts), known)
    return known.spends.get("j", {})


def told(*facts: Message) -> Told:
    """By attempt and response: outcome, how sure the usage is, output tokens."""
    return {key: (each.outcome, each.reported, each.usage.output_tokens) for key, each in spends(*facts).items()}


def first_due_ms(*facts: Message) -> int:
    state: Any = Absent()
    for fact in facts:
        state = step(state, fact).state  # type: ignore[arg-type]  # facts of a job
    return min(item.report_by_ms for item in state.attempts.items)


UNHEARD = timer(due_ms=first_due_ms(submitted()), at_ms=first_due_ms(submitted()))
END = AttemptEnd(status="completed", response=InlineBody(value={}), usage=USAGE)
LATE = settled(at_ms=9_000).model_copy(update={"status": "cancelled", "usage": None})
EARLY: tuple[Message, ...] = (submitted(), accepted())


@pytest.mark.parametrize(
    ("facts", "then"),
    [
        ((submitted(),), {}),
        ((submitted(), rejected()), {}),
        (EARLY, {(1, "resp_1"): ("running", 0, 0)}),
        ((*EARLY, settled()), {(1, "resp_1"): ("completed", 2, 7)}),
        ((*EARLY, settled(), settled(), booked()), {(1, "resp_1"): ("completed", 2, 7)}),
        ((submitted(), accepted().model_copy(update={"end": END})), {(1, "resp_1"): ("completed", 2, 7)}),
        # An attempt without a report, and what becomes of it.
        ((submitted(), unknown()), {(1, ""): ("unknown", 0, 0)}),
        ((submitted(), UNHEARD), {(1, ""): ("unknown", 0, 0)}),
        ((submitted(), UNHEARD, UNHEARD), {(1, ""): ("unknown", 0, 0)}),
        ((submitted(), unknown(), accepted()), {(1, "resp_1"): ("running", 0, 0)}),
        ((submitted(), unknown(), rejected(cause="never")), {}),
        # The job ends before its attempt.
        ((*EARLY, cancelled()), {(1, "resp_1"): ("running", 0, 0)}),
        ((*EARLY, cancelled(), LATE), {(1, "resp_1"): ("cancelled", 0, 0)}),
        ((*EARLY, cancelled(), settled()), {(1, "resp_1"): ("completed", 2, 7)}),
        ((*EARLY, cancelled(), LATE, booked(estimated=True)), {(1, "resp_1"): ("cancelled", 1, 7)}),
        ((submitted(), cancelled()), {(1, ""): ("unknown", 0, 0)}),
        ((submitted(), cancelled(), rejected(at_ms=4_000)), {}),
        ((submitted(), cancelled(), accepted(at_ms=4_000)), {(1, "resp_1"): ("running", 0, 0)}),
        ((submitted(), timer(due_ms=DEADLINE_MS, at_ms=DEADLINE_MS)), {(1, ""): ("unknown", 0, 0)}),
        ((submitted(), timer(due_ms=DEADLINE_MS - 1, at_ms=DEADLINE_MS)), {}),  # The fold expects another timer.
        # A second response of one attempt.
        (
            (*EARLY, accepted(response_id="resp_2"), settled(), settled(response_id="resp_2")),
            {(1, "resp_1"): ("completed", 2, 7), (1, "resp_2"): ("completed", 2, 7)},
        ),
        # Adopted responses.
        ((adopted(),), {(1, "resp_1"): ("running", 0, 0)}),
        ((adopted(), settled()), {(1, "resp_1"): ("completed", 2, 7)}),
        (
            (adopted(), AdoptionRefused(id="x", at_ms=2_000, job_id="j", response_id="resp_1", message="")),
            {},
        ),
        # What can't be true, or is told to a job that is not there.
        ((submitted(), accepted(attempt=7)), {}),
        ((submitted(), accepted().model_copy(update={"tenant": "other"})), {}),
        ((settled(),), {}),
        ((*EARLY, booked(tenant="other")), {(1, "resp_1"): ("running", 0, 0)}),
        ((booked(),), {(1, "resp_1"): ("running", 2, 7)}),
    ],
)
def test_each_attempt_that_may_have_reached_the_provider_counts_once(facts: Sequence[Message], then: Told) -> None:
    assert told(*facts) == then


def test_facts_after_the_job_is_forgotten_do_not_count() -> None:
    facts = (*EARLY, cancelled())
    late = settled(at_ms=3_000 + submitted().policy.forget_after_ms)
    assert told(*facts, late) == told(*facts)


def test_the_figures_of_the_provider_replace_an_estimate_in_any_order() -> None:
    estimate = booked(usage=Usage(output_tokens=900, total_tokens=900), estimated=True)
    for facts in ((booked(), estimate), (estimate, booked()), (estimate, booked(), estimate)):
        assert told(*EARLY, cancelled(), *facts) == {(1, "resp_1"): ("running", 2, 7)}


def test_a_usage_that_tells_nothing_is_not_measured() -> None:
    for usage in (Usage(), Usage(total_tokens=9)):
        (spend,) = spends(*EARLY, settled().model_copy(update={"usage": usage})).values()
        assert not spend.measured
    failed = settled().model_copy(update={"usage": None, "status": "failed", "cause": "never"})
    (spend,) = spends(*EARLY, failed).values()
    assert spend.measured  # as for retries: such a failure costs nothing


usages = st.builds(
    Usage, **{name: st.integers(0, 300_000) for name in ("input_tokens", "output_tokens", "total_tokens")},
    cached_tokens=st.integers(0, 400_000), cache_write_tokens=st.none() | st.integers(0, 1_000),
)  # fmt: skip
texts = st.none() | st.sampled_from(["gpt-5", "gpt-5-2025-08-07", "gpt-6-luna", "elsewhere"])
terms = st.builds(
    Terms, model=texts, service_tier=st.sampled_from([None, "flex", "default", "odd"]),
    window=st.sampled_from([None, "8h"]), web_search_calls=st.sampled_from([None, 2]),
)  # fmt: skip
views = st.builds(
    Spend, st.just("j"), st.just(1), st.just("resp_1"), st.integers(20_660 * 1_440, 20_662 * 1_440),
    st.sampled_from(SPEND_OUTCOMES),
    st.integers(0, 2), usages, terms,
)  # fmt: skip
owners = st.builds(
    SpendOwner, st.just("acme"), st.sampled_from(["gpt-5", "gpt-6-sol", "unheard-of", ""]),
    st.lists(st.sampled_from("abc"), max_size=3).map(tuple), st.sampled_from(["", "shard"]), st.sampled_from(["", "k"]),
)  # fmt: skip


@given(st.lists(views, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_order_and_repetition_of_facts_do_not_matter(seen: list[Spend], chance: random.Random) -> None:
    def fold(views: list[Spend]) -> Spend:
        spend = views[0]
        for view in views[1:]:
            spend = merged(spend, view)
        return spend

    again = [*seen, *chance.choices(seen, k=3)]
    chance.shuffle(again)
    assert fold(again) == fold(seen)


def read(sums: Sums, by: Sequence[By]) -> CostsView:
    """The answer over these sums, made as the database makes it."""

    def rows(about: str, columns: Sequence[str]) -> list[tuple[Any, ...]]:
        return [
            (*(getattr(group, name) for name in columns), *(counts[name] for name in COUNTS))
            for group, counts in sums.items()
            if group.about == about
        ]

    asked = CostQuestion("acme", tuple(by), 0, 30_000)
    return costs(asked, rows(asked.about, columns_of(by)), rows("all", PRICED_BY), read_prices(SHIPPED_PRICES))


SEARCHED = Spend("j", 1, "resp_1", 20_660 * 1_440, "unknown", 0, NO_USAGE, Terms(web_search_calls=2))
ANSWERED = Spend("j", 1, "resp_1", 20_660 * 1_440, "running", 0, Usage(output_tokens=1), Terms())


@given(st.lists(st.tuples(views, owners), max_size=8), st.lists(st.sampled_from(BYS), unique=True, min_size=1))
@example([(SEARCHED, SpendOwner("acme", "gpt-5")), (ANSWERED, SpendOwner("acme", "gpt-5"))], ["outcome"])
def test_the_groups_add_up_to_the_total(seen: list[tuple[Spend, SpendOwner]], by: list[By]) -> None:
    assume(not {"tag", "cache_key"}.issubset(by))
    sums: Sums = {}
    for spend, owner in seen:
        add(sums, spend, replace(owner, tags=owner.tags[:1]), 1)
    answer = read(sums, by)
    for name in answer["total"]:
        if name != "cost_usd":
            groups: list[dict[str, Any]] = [dict(group) for group in answer["data"]]
            assert sum(group[name] for group in groups) == dict(answer["total"])[name], name
    parts = [group["cost_usd"] for group in answer["data"] if "cost_usd" in group]
    known = sum(atto(part) for part in parts)
    assert known == atto(answer["total"].get("cost_usd", "0"))
    assert not known or "cost_usd" in answer["total"]
    for view in (answer["total"], *answer["data"]):
        assert view.get("cost_usd") != "0" or not view["unmeasured"] + view["unpriced"], (
            "0 is known of all, or not told"
        )


def atto(text: str) -> int:
    whole, _, part = text.partition(".")
    return int(whole) * 10**18 + int(part.ljust(18, "0"))


@given(st.lists(st.tuples(views, owners), min_size=1, max_size=6))
def test_what_is_taken_out_again_leaves_nothing(seen: list[tuple[Spend, SpendOwner]]) -> None:
    sums: Sums = {}
    for sign in (1, -1):
        for spend, owner in seen:
            add(sums, spend, owner, sign)
    assert not any(count for counts in sums.values() for count in counts.values())


def test_the_sums_equal_those_of_the_spends_and_stay_when_jobs_leave(run) -> None:
    facts = [
        *whole_job("done", "resp_done", tags=("a", "b")),
        *(submitted("open", model="gpt-6-sol"), accepted("open", response_id="resp_open")),
        *(submitted("gone"), unknown("gone"), rejected("gone", cause="never")),
        *(submitted("late"), accepted("late", response_id="resp_late"), cancelled("late")),
        result_of(submitted("late"), accepted("late", response_id="resp_late"), cancelled("late")),
        settled("late", response_id="resp_late"),
    ]

    async def body(bench) -> None:
        one = await Projection(bench.another()).take_over()
        records = Log().put(*facts)
        for record in records:
            await one.take([record])
        whole = await Projection(bench.another()).take_over()
        digest = await whole.database.read(queries.digest)

        def expected(conn: Any) -> Sums:
            sums: Sums = {}
            for job_id, tags in (("done", ("a", "b")), ("open", ()), ("late", ())):
                for spend in ledger.spends_of(conn, job_id):
                    add(sums, spend, SpendOwner("default", "gpt-6-sol" if job_id == "open" else "gpt-5", tags), 1)
            return sums

        def rows(conn: Any) -> list[tuple[Any, ...]]:
            return sorted(conn.rows(f"SELECT {ledger.COST_COLUMNS} FROM costs"))

        sums = await one.database.read(expected)
        assert await one.database.read(rows) == sorted(
            (*(getattr(group, name) for name in GROUP), *(counts[name] for name in COUNTS))
            for group, counts in sums.items()
        )
        before = await one.database.read(lambda conn: sums_between(conn, "all", "default", 0, 9, PRICED_BY, 100))
        removed = await one.database.write(lambda conn: remove_ended(conn, Removable(10**15, 10**15)))
        assert removed.jobs == 2
        assert await one.database.read(lambda conn: ledger.spends_of(conn, "done")) == []
        assert before == await one.database.read(
            lambda conn: sums_between(conn, "all", "default", 0, 9, PRICED_BY, 100)
        )
        assert digest != await one.database.read(queries.digest)

    run(body)


def test_each_outcome_has_a_rank() -> None:
    assert set(RANK) == set(SPEND_OUTCOMES)


def test_day_numbers_and_dates_are_each_others_inverse() -> None:
    assert [number_of(day_of(number)) for number in (0, 20_786, 99_999)] == [0, 20_786, 99_999]
