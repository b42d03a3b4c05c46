"""Untrusted text controls no terminal, forges no line of a log, and does not mislead a reader."""

import io
import json
import logging
import unicodedata
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backstop.cli.audit_text import ENTRY_COLUMNS
from backstop.cli.job_text import COLUMNS, fact_row, job_row, job_text
from backstop.cli.output import Form, emit, emit_one, say, tell
from backstop.runtime.process import logs
from schemas.text import printable, printable_json, printable_lines

ATTACKS = {
    "clears the screen": "\x1b[2J", "retitles the window": "\x1b]0;root\x07",
    "writes the clipboard": "\x1b]52;c;eA==\x1b\\\\",
    "C1 sequence": "\x9b2J", "C1 string": "\x90q", "turns the direction": "\u202egpj.exe", "isolates": "\u2066x\u2069",
    "backspaces": "ok\b\bno", "carriage return": "failed\rcompleted", "another line": "x\n2026-01-01 [error] forged",
    "line separator": "a\u2028b", "paragraph separator": "a\u2029b", "next line": "a\x85b", "delete": "a\x7f",
    "nothing": "a\x00b",
    "tag characters": "a\U000e0041", "byte order mark": "\ufeffa", "invisible": "a\u2060b", "vertical tab": "a\x0bb",
}  # fmt: skip


def harmless(text: str, *, lines: bool) -> bool:
    kept = {"\n", "\t", "\u200c", "\u200d"} if lines else set()
    return all(char in kept or not unicodedata.category(char).startswith(("C", "Zl", "Zp")) for char in text)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_no_command_prints_it_as_it_is(attack: str, capsys: pytest.CaptureFixture[str]) -> None:
    job: dict[str, Any] = {
        "job_id": "j", "status": "failed", "model": attack, "submitted_at_ms": 1, "updated_at_ms": 1,
        "result": {
            "reason": {"code": attack, "message": attack},
            "response": {"output": [{"content": [{"type": "output_text", "text": attack}]}]},
        },
    }  # fmt: skip
    fact = {"at_ms": 1, "kind": attack, "topic": "t", "partition": 0, "offset": 0, "summary": {attack: attack}}
    emit([job_row(job, 2)], Form.TABLE, COLUMNS)
    emit([fact_row(fact)], Form.TABLE, ENTRY_COLUMNS)
    table = capsys.readouterr().out
    assert table.count("\n") == 4, "a row is a line"
    emit([job], Form.JSON, COLUMNS)
    whole = capsys.readouterr().out
    emit_one(job)
    one = capsys.readouterr().out
    emit([job], Form.JSONL, COLUMNS)
    line = capsys.readouterr().out
    assert (json.loads(whole), json.loads(one), json.loads(line)) == ([job], job, job), "and JSON means the same"
    assert line.count("\n") == 1
    say(job_text(job))
    tell(attack)
    talk = capsys.readouterr()
    for text in (table, whole, one, line, talk.out, talk.err):
        assert harmless(text, lines=True), text


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_no_log_line_holds_it_as_it_is(attack: str, log_format: logs.LogFormat) -> None:
    out = io.StringIO()
    before = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        logs.configure(log_format, "info", "test", out)
        logs.get_logger("x").warning("seen", job_id=attack, names=[attack], told={attack: attack})
        logging.getLogger("library").warning("it said %s", attack)
        assert out.getvalue().count("\n") == 2, "a line each"
        try:
            raise ValueError(attack)
        except ValueError:
            logs.get_logger("x").exception("failed")
    finally:
        logging.getLogger().handlers[:], logging.getLogger().level = before
    assert harmless(out.getvalue(), lines=True), out.getvalue()


@given(st.text())
def test_what_is_cleaned_prints_and_what_prints_stays(text: str) -> None:
    assert printable(text).isprintable()
    assert harmless(printable_lines(text), lines=True)
    if text.isprintable():
        assert printable(text) == printable_lines(text) == text


@given(
    st.recursive(
        st.text(st.characters(exclude_categories=["Cs"])) | st.integers(0, 9),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    )
)
def test_json_that_is_cleaned_means_the_same(value: Any) -> None:
    cleaned = printable_json(orjson.dumps(value).decode())
    assert orjson.loads(cleaned) == value
    assert cleaned.isprintable()
