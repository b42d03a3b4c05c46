"""How a job is shown, one way in lists, reads, the search and the start of an event stream."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from backstop.readmodel.answers import JobView
from backstop.readmodel.rows import JobRow, Wait
from backstop.readmodel.view import job_view
from backstop.readmodel.waits import UNSEEN, Sight
from backstop.runtime.process.clock import NowMs, make_clock
from streams.policy.prices import Prices, read_prices
from streams.price_settings import SHIPPED_PRICES

HeldOf = Callable[[JobRow, Sight], Wait | None]
"""What holds an open job up before anything else can."""


def nothing_held(_row: JobRow, _sight: Sight) -> Wait | None:
    """Where the state of the workers is not known."""
    return None


@dataclass(frozen=True, slots=True)
class Shown:
    """Adds to a row what is known only when it is asked for: the time, what holds the job up, and prices."""

    now_ms: NowMs = field(default_factory=make_clock)
    held: HeldOf = nothing_held
    prices: Prices = field(default_factory=lambda: read_prices(SHIPPED_PRICES))

    def job(self, row: JobRow, sights: Mapping[str, Sight]) -> JobView:
        """`sights`: by job id, of the responses that run."""
        sight = sights.get(row.job_id, UNSEEN)
        return job_view(row, self.now_ms(), sight, self.held(row, sight))
