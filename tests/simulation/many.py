"""Many seeds, on more than one core; and the two lists that stand beside: seeds to run first, things that a run must
meet.
"""

import gc
import multiprocessing
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from tests.simulation.run import Outcome, quiet, simulate
from tests.simulation.wrong import Wrong

HERE = Path(__file__).parent
SEEDS_KEPT = HERE / "seeds.txt"
MUST_MEET = HERE / "must_meet.txt"

CHUNK = 10


def kept_seeds() -> list[int]:
    return [int(line.split()[0]) for line in _lines(SEEDS_KEPT)]


def must_meet() -> list[str]:
    return _lines(MUST_MEET)


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]


def prepare() -> None:
    """Once per process. What has been imported is never collected; the rest of a run is short-lived."""
    quiet()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


def run_many(
    seeds: Sequence[int], jobs: int, wrong: Wrong, processes: int, *, operators: bool = False
) -> Iterator[Outcome]:  # fmt: skip
    if processes == 1:
        prepare()
        yield from (simulate(seed, jobs, wrong, operators=operators) for seed in seeds)
        return
    with multiprocessing.get_context("spawn").Pool(processes, initializer=prepare) as pool:
        yield from pool.imap_unordered(
            partial(simulate, jobs=jobs, wrong=wrong, operators=operators), seeds, chunksize=CHUNK
        )
