"""A request's topic on Kafka determines its tenant: each tenant has its own topic."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import ValidationError

from backstop.runtime.blobs import Bodies, FolderBlobs
from backstop.runtime.kafka.topics import wanted_topics
from backstop.runtime.settings import RuntimeSettings
from schemas.base import Message
from schemas.dead_letters import DeadLetter
from schemas.jobs import CancelRequested, JobRefused, JobSubmitted
from schemas.topics import CHANGELOGS, TOPICS
from streams.agents.intake import take_request
from streams.submission import SubmissionPolicy


@dataclass(frozen=True)
class Written:
    """A record with a header in which its writer claims another tenant."""

    topic: str
    value: bytes | None
    partition: int = 0
    offset: int = 1
    timestamp_ms: int = 0
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = (("tenant", b"globex"),)


def taken(folder: Path, tenant: str, value: Mapping[str, object]) -> list[Message]:
    record = Written(f"t.requests.{tenant}", json.dumps(value).encode())
    return list(
        asyncio.run(
            take_request(
                record,
                tenant=tenant,
                now_ms=1_000,
                policy=SubmissionPolicy(),
                bodies=Bodies(FolderBlobs(folder), 1_000),
            )
        )
    )


def test_tenants_with_a_topic_of_their_own_are_known_to_create_and_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKSTOP_REQUEST_TENANTS", "acme, globex,acme")
    settings = RuntimeSettings(topic_prefix="t.")
    assert settings.request_tenants == ("acme", "globex")
    wanted = wanted_topics(settings)
    assert [topic.name for topic in wanted[len(TOPICS) + len(CHANGELOGS) :]] == ["t.requests.acme", "t.requests.globex"]
    shared = wanted[0]
    assert (wanted[-1].config, wanted[-1].partitions, wanted[-1].fixed) == (shared.config, shared.partitions, False)
    assert len(wanted_topics(RuntimeSettings(request_tenants=()))) == len(TOPICS) + len(CHANGELOGS)


@pytest.mark.parametrize("tenants", ["Acme", "a/b", "default", "x" * 28, "acme,"[:4] + ":"])
def test_a_tenant_that_cannot_name_a_topic_is_refused(tenants: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKSTOP_REQUEST_TENANTS", tenants)
    with pytest.raises(ValidationError):
        RuntimeSettings()


def test_the_topics_tenant_is_the_jobs_whatever_the_record_says(tmp_path: Path) -> None:
    body = {"type": "submit", "job_id": "j", "request": {"model": "m", "input": "x"}}
    (fact,) = taken(tmp_path, "acme", body)
    assert isinstance(fact, JobSubmitted)
    assert (fact.tenant, fact.job_id) == ("acme", "acme:j")
    (cancel,) = taken(tmp_path, "acme", {"type": "cancel", "job_id": "j"})
    assert isinstance(cancel, CancelRequested)
    assert (cancel.tenant, cancel.job_id) == ("acme", "acme:j")
    letter, refused = taken(tmp_path, "acme", {**body, "tenant": "globex"})
    assert isinstance(letter, DeadLetter)
    assert isinstance(refused, JobRefused)
    assert (refused.tenant, refused.job_id) == ("acme", "acme:j")


def test_a_previous_response_that_cannot_be_checked_is_refused_on_a_tenants_topic(tmp_path: Path) -> None:
    body = {"type": "submit", "job_id": "j", "request": {"model": "m", "previous_response_id": "resp_1"}}
    letter, refused = taken(tmp_path, "acme", body)
    assert isinstance(letter, DeadLetter)
    assert isinstance(refused, JobRefused)
    assert "previous_response_id" in refused.message
    assert isinstance(taken(tmp_path, "default", body)[0], JobSubmitted), "the operator's own project"


def test_the_longest_tenant_and_the_longest_id_fit_a_job_id(tmp_path: Path) -> None:
    body = {"type": "submit", "job_id": "j" * 100, "request": {"model": "m"}}
    (fact,) = taken(tmp_path, "t" * 27, body)
    assert isinstance(fact, JobSubmitted)
    assert len(fact.job_id) == 128
