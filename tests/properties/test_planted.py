"""Each planted bug is refused by the machine, by the invariant that is there for it."""

import re

import pytest

from tests.properties.coverage import Coverage
from tests.properties.machine import run
from tests.properties.planted import Planted, planted

EXAMPLES = 150


@pytest.mark.parametrize("bug", planted(), ids=lambda bug: bug.bug.replace(" ", "_"))
def test_a_planted_bug_is_refused(bug: Planted) -> None:
    with pytest.raises((AssertionError, ValueError)) as caught:
        run(Coverage(), bug.job_step, bug.response_step, examples=EXAMPLES, shrink=False)
    assert re.search(bug.says, str(caught.value)), f"refused, but for another reason: {caught.value}"
