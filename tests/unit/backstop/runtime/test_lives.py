"""A process that ends again and again soon after its start is told; one that was deployed anew is not."""

from backstop.runtime.kafka.lives import ENDS_TOLD, LIVES_MAX, SHORT_S, SILENT_MS, WITHIN_MS, Lives, ShortLives
from backstop.runtime.kafka.troubles import Troubles, trouble_headers
from backstop.runtime.process.identity import ProcessName, life_from, own_life, own_name
from receiver.reads.system_text import trouble_sentences

AT_MS = 5_147_000
POD = ProcessName("worker", "0.1.0", "worker-0", 1)
"""In a container the process has the same name at each start."""


def life(number: int) -> str:
    return f"{number:012x}"


def looping(lives: Lives, ends: int, *, age_s: int = 0, every_ms: int = 10_000) -> int:
    """So many starts that were heard once. Returns the time of the last."""
    for number in range(ends):
        lives.heard(POD, life(number), age_s, AT_MS + number * every_ms)
    return AT_MS + (ends - 1) * every_ms


def test_starts_that_end_soon_are_told_together() -> None:
    lives = Lives()
    last_ms = looping(lives, 4)
    assert lives.short(last_ms) == []  # each may be alive yet
    assert lives.short(last_ms + SILENT_MS + 1) == [ShortLives("worker", "worker-0", 4, AT_MS)]
    assert lives.short(AT_MS + WITHIN_MS) == [ShortLives("worker", "worker-0", 4, AT_MS)]
    assert lives.short(last_ms + WITHIN_MS + 1) == []


def test_fewer_ends_are_a_deployment_that_was_taken_back() -> None:
    lives = Lives()
    last_ms = looping(lives, ENDS_TOLD - 1)
    assert lives.short(last_ms + SILENT_MS + 1) == []


def test_processes_that_ran_for_long_before_they_ended_were_replaced() -> None:
    lives = Lives()
    last_ms = looping(lives, 5, age_s=SHORT_S + 1)
    assert lives.short(last_ms + SILENT_MS + 1) == []
    last_ms = looping(lives, 5, age_s=SHORT_S - 1)
    assert lives.short(last_ms + SILENT_MS + 1) == [], "an age does not fall"


def test_processes_side_by_side_on_one_host_have_not_ended() -> None:
    lives = Lives()
    for at_ms in (AT_MS, AT_MS + 30_000, AT_MS + 60_000):
        for number in range(8):
            lives.heard(POD, life(number), (at_ms - AT_MS) // 1_000, at_ms)
    assert lives.short(AT_MS + 60_000 + SILENT_MS) == []
    assert len(list(lives.running(AT_MS + 60_000))) == 8
    assert list(lives.running(AT_MS + 60_001 + SILENT_MS)) == []


def test_so_many_starts_are_remembered_and_no_more() -> None:
    lives = Lives()
    last_ms = looping(lives, LIVES_MAX + 5, every_ms=1)
    (found,) = lives.short(last_ms + SILENT_MS + 1)
    assert found.ends == LIVES_MAX


def test_the_record_of_a_process_tells_its_start_and_age() -> None:
    known = life_from(own_life())
    assert known is not None
    assert life_from(own_life()) == (known[0], known[1]), "one start"
    troubles = Troubles(lambda: AT_MS)
    troubles.heard(trouble_headers("outgoing", lambda: None), AT_MS)
    assert list(troubles.lives.running(AT_MS)) == [own_name("outgoing")]


def test_a_start_that_is_no_start_is_ignored() -> None:
    troubles = Troubles(lambda: AT_MS)
    for text in (b"", b"\xff", b"x/1", b"4f0c1d2e3a5b/-1", b"4f0c1d2e3a5b/1\n", b"4f0c1d2e3a5b/" + b"9" * 10):
        troubles.heard([("process", str(POD).encode()), ("life", text)], AT_MS)
    assert list(troubles.lives.running(AT_MS)) == []


def test_the_sentence_says_which_and_how_often_and_it_counts_as_trouble() -> None:
    now_ms = AT_MS + 30_000 + SILENT_MS
    troubles = Troubles(lambda: now_ms)
    for number in range(3):
        given = f"{life(number)}/2".encode()
        troubles.heard([("process", str(POD).encode()), ("life", given)], AT_MS + number * 10_000)
    assert trouble_sentences(troubles) == [
        "worker on worker-0 ended 3 times within 5 minutes of its start, first at 01:25:47 UTC: its log says why"
    ]
    assert troubles.count() == 1
