"""What several tests of hostile input need."""

import gc
from collections.abc import Iterator

import pytest

from backstop.runtime.process.garbage import settle_garbage_collector


@pytest.fixture
def settled() -> Iterator[None]:
    """The garbage collector as every process of Backstop has it: its pauses depend on it."""
    before = gc.get_threshold()
    settle_garbage_collector()
    yield
    gc.set_threshold(*before)
