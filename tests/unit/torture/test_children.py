"""Stopping a child: it is thawed if it freezes on the way, killed if it does not end, and judged by its drain."""

import asyncio
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.torture import children
from tests.torture.children import Child, Log
from tests.torture.failpoint_deck import FAILPOINTS, REBUILD, FailpointDeck, kind_of

FREEZES = (
    "import os, pathlib, signal\n"
    "def end(*_):\n"
    "    os.kill(os.getpid(), signal.SIGSTOP)\n"
    "    os._exit(0)\n"
    "signal.signal(signal.SIGTERM, end)\n"
    "pathlib.Path('ready').touch()\n"
    "while True: signal.pause()\n"
)
STAYS = (
    "import pathlib, signal\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "pathlib.Path('ready').touch()\n"
    "while True: signal.pause()\n"
)
FREEZE_S = 0.5


async def _stopped(folder: Path, program: str) -> Log:
    log = Log()

    async def ready() -> bool:
        return (folder / "ready").exists()

    child = Child(
        "c",
        "worker",
        [sys.executable, "-c", program],
        {},
        folder,
        folder / "log",
        ready,
        log,
        lambda _kind: "",
        FREEZE_S,
    )
    child.start()
    await child.until_ready()
    await child.stop()
    assert child.pid is None
    return log


def test_a_child_that_freezes_after_its_sigterm_is_thawed_and_its_sleep_is_no_part_of_its_drain(tmp_path: Path) -> None:
    log = asyncio.run(_stopped(tmp_path, FREEZES))
    assert [death.code for death in log.deaths] == [0]
    assert log.stops.total() == 1
    assert log.drains_s[0] >= 0


def test_a_child_that_does_not_end_is_killed_and_its_drain_is_the_judges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "TERM_TIMEOUT_S", 0.2)
    log = asyncio.run(_stopped(tmp_path, STAYS))
    assert [death.code for death in log.deaths] == [-9]
    assert log.drains_s[0] >= 0.2 + FREEZE_S


def test_the_deck_knows_what_is_missing_and_deals_it_again_at_its_first_hit() -> None:
    hits: Counter[str] = Counter()
    deck = FailpointDeck(1, lambda: hits, share=1.0, short=True)
    deck.on = True
    wanted = {name for name in FAILPOINTS if kind_of(name) == "projection" and name != REBUILD}
    assert deck.missing("projection") == wanted
    first = {deck.deal("projection").partition(":")[0] for _ in wanted}
    assert first == wanted, "one after the other, each once"
    (name, *_) = sorted(wanted)
    hits.update(wanted - {name})
    assert deck.missing("projection") == {name}
    assert deck.deal("projection") == f"{name}:1=kill"
    hits[name] += 1
    assert not deck.missing("projection")
    assert deck.deal("projection") == ""
