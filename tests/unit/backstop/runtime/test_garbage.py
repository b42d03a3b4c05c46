"""Python's collector while modules are imported."""

import gc

import pytest

from backstop.runtime.process.garbage import imports_uncollected


def test_the_collector_rests_during_imports_and_works_after_them_even_failed_ones() -> None:
    assert gc.isenabled()
    with imports_uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ImportError), imports_uncollected():
        raise ImportError("no module named faust")
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with imports_uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
