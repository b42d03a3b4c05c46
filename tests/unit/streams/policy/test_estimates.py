"""How well what is reserved fits what is used, once learned: 1,000 jobs of unknown size, in virtual time."""

import heapq
from collections.abc import Iterator
from random import Random

import pytest

from streams.policy.admission import Admission, Grant
from streams.policy.limits import read_rules
from streams.policy.sizes import Asked
from streams.policy.waiting import Waiter

JOBS, LEARNING = 1_000, 300
ERROR_MAX = 0.10
FAR_MS = 10**12
RUN_MS = 20_000
EVERY_MS = 700
TENANTS = "abc"


def runs(seed: int) -> Iterator[tuple[float, int]]:
    """Tokens reserved for each job at its grant, and tokens that it used. Outputs are lognormal; a tenth has files."""
    random = Random(seed)
    admission = Admission(read_rules('[{"tokens_per_min": 200000}]'), "a")
    ends: list[tuple[int, bytes, int, int]] = []
    now_ms, number = 0, -1
    while number < LEARNING + JOBS or ends:
        now_ms += EVERY_MS
        while ends and ends[0][0] <= now_ms:
            _, key, inputs, outputs = heapq.heappop(ends)
            admission.ended((0, key), (inputs, outputs), now_ms, ran=True)
        number += 1
        if number < LEARNING + JOBS:
            size_bytes = random.randrange(800, 3_200) * (40 if number % 10 == 0 else 1)
            asked = Asked(TENANTS[number % 3], "m", size_bytes, None)
            admission.put(Waiter(0, b"%d" % number, asked, FAR_MS, "normal"), now_ms)
        while isinstance(turn := admission.next("m", now_ms), Grant):
            size = turn.waiter.asked.request_bytes
            inputs, outputs = round(size / random.uniform(3, 4)), round(random.lognormvariate(6.2, 1.0))
            heapq.heappush(ends, (now_ms + RUN_MS, turn.waiter.key, inputs, outputs))
            yield turn.tokens, inputs + outputs


@pytest.mark.parametrize("seed", range(1, 4))
def test_what_is_reserved_fits_what_is_used_within_a_tenth(seed: int) -> None:
    reserved, used = (sum(part) for part in zip(*list(runs(seed))[LEARNING:], strict=True))
    assert abs(reserved / used - 1) <= ERROR_MAX, f"{reserved / used - 1:+.1%}"
