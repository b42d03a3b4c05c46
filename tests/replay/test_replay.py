"""I4 and I8 over recorded histories: today's code gives the recorded states and outputs, byte for byte."""

import hashlib
from pathlib import Path

import orjson
import pytest

from tests.replay.histories import SUMS, V1, dump, load, replayed
from tests.replay.record import STORIES, record, refused_at_the_ingress, webhook_lost

FILES = tuple(sorted(V1.glob("*.jsonl")))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_recorded_history_gives_the_states_and_outputs_of_its_day(path: Path) -> None:
    lines = load(path)
    for then, now in zip(lines, replayed(lines), strict=True):
        assert now == then
    assert dump(replayed(lines)) == path.read_bytes()


def test_no_recorded_history_was_rewritten_or_removed() -> None:
    found = {f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in FILES}
    assert found == set((V1 / SUMS).read_text().splitlines())


def test_every_story_is_recorded() -> None:
    assert {story.__name__ for story in STORIES} == {path.stem for path in FILES}


def test_every_history_that_ends_a_job_has_one_result_of_it() -> None:
    for path in FILES:
        outputs = [output for line in load(path) if line["kind"] == "step" for output in line["outputs"]]
        results = [key for topic, key, _ in outputs if topic == "results"]
        assert len(results) == len(set(results)), path.stem
        assert results or path.stem == "foreign"


def test_recording_again_adds_what_is_new_and_rewrites_nothing(tmp_path: Path) -> None:
    (first,) = record(tmp_path, [refused_at_the_ingress])
    first.write_bytes(b"as it was\n")
    (second,) = record(tmp_path, [refused_at_the_ingress, webhook_lost])
    assert (first.read_bytes(), second.name) == (b"as it was\n", "webhook_lost.jsonl")
    assert [line.split("  ")[1] for line in (tmp_path / SUMS).read_text().splitlines()] == [first.name, second.name]


def test_a_changed_output_is_noticed() -> None:
    lines = load(FILES[0])
    steps = [line for line in lines if line["kind"] == "step" and line["outputs"]]
    steps[0]["outputs"][0][2] = steps[0]["outputs"][0][2].replace('"v":1', '"v": 1')
    assert replayed(lines) != lines


def test_a_changed_row_is_noticed() -> None:
    lines = load(FILES[0])
    row = orjson.loads(lines[-1]["row"])
    lines[-1]["row"] = orjson.dumps({**row, "added": 0}).decode()
    assert replayed(lines) != lines
