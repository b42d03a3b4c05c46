"""What processes say is wrong with themselves, and how little of it a stranger can fake."""

from pathlib import Path

import pytest

from backstop.runtime.http.health import Health
from backstop.runtime.kafka.troubles import HEARD_MS, PROCESSES_MAX, SAID_CHARS_MAX, Troubles, trouble_headers
from backstop.runtime.process.disk import nearly_full_probe
from backstop.runtime.process.identity import own_name

AT_MS = 5_147_000


class Told:
    """What one process hears, at a time that a test moves."""

    def __init__(self) -> None:
        self.now_ms = AT_MS
        self.troubles = Troubles(lambda: self.now_ms)

    def hear(self, said: str | None, component: str = "worker") -> list[str]:
        self.troubles.heard(trouble_headers(component, lambda: said), self.now_ms)
        return [each.said for each in self.troubles.now()]


def test_a_complaint_is_in_force_until_the_process_is_content_or_silent() -> None:
    told = Told()
    assert told.hear(None) == []
    assert told.hear("2 MiB left on the disk of /data") == ["2 MiB left on the disk of /data"]
    told.now_ms += 30_000
    assert told.hear("1 MiB left on the disk of /data") == ["1 MiB left on the disk of /data"]
    (trouble,) = told.troubles.now()
    assert (trouble.place, trouble.component, trouble.since_ms) == (own_name("worker").place, "worker", AT_MS)
    assert told.hear(None) == []
    told.hear("again")
    told.now_ms += HEARD_MS + 1
    assert told.troubles.now() == []


@pytest.mark.parametrize(
    "headers", [[], [("trouble", b"x")], [("process", b"\xff"), ("trouble", b"x")], [("process", b"a/b\nc/d/1")]]
)
def test_headers_that_name_no_process_are_ignored(headers: list[tuple[str, bytes]]) -> None:
    told = Told()
    told.troubles.heard(headers, AT_MS)
    assert told.troubles.now() == []


def test_what_a_stranger_says_is_one_bounded_line_of_few_processes() -> None:
    told = Told()
    for number in range(PROCESSES_MAX + 5):
        name = f"worker/0.1.0/node/{number}".encode()
        told.troubles.heard([("process", name), ("trouble", b"\x1b[2J" + b"x" * 5_000)], AT_MS)
    found = told.troubles.now()
    assert len(found) == PROCESSES_MAX
    assert {(len(each.said), each.said[:4]) for each in found} == {(SAID_CHARS_MAX, "?[2J")}


def test_conditions_of_a_start_are_no_trouble_and_probes_are() -> None:
    health = Health("worker")
    health.expect("topics")
    assert health.trouble() is None
    health.watch("disk", lambda: "the disk of /data is read-only")
    health.watch("webhooks", lambda: "off", "note")
    health.watch("deliveries", lambda: "2 partitions are still being read", "start")
    assert health.not_ready()["deliveries"] == "2 partitions are still being read"
    health.watch("progress", lambda: "no progress for 20 s in jobs/0", "live")
    assert health.trouble() == "the disk of /data is read-only; no progress for 20 s in jobs/0"


def test_a_disk_is_nearly_full_by_share_and_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert nearly_full_probe(tmp_path / "not made yet")() is None
    monkeypatch.setattr("backstop.runtime.process.disk.NEARLY_FULL_BYTES", 1 << 60)
    monkeypatch.setattr("backstop.runtime.process.disk.NEARLY_FULL_SHARE", 1.0)
    assert "MiB left on the disk of" in (nearly_full_probe(tmp_path)() or "")
