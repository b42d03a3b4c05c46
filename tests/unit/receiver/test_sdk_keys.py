"""API keys: one 401 for all reasons, scopes, separate tenants, limits, and a keys file that changes while serving."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backstop.runtime.addresses import is_loopback_host
from backstop.runtime.http.keys import SCOPES, ApiKey, KeysFile, TenantLimits, load_last_used, make_token, save_keys
from receiver.access import keys as live_keys
from receiver.access.quotas import Load
from schemas.job_ids import own_job_id, qualified_job_id
from schemas.jobs import CancelRequested, JobSubmitted
from tests.support.waiting import eventually
from tests.unit.receiver.ingress import NOW_MS, SUBMIT, Ingress, with_ingress
from tests.unit.receiver.reads import MemoryReads

CREATED = datetime.fromtimestamp(NOW_MS / 1000, UTC)


class Ring:
    """A keys file that tests extend, and the tokens of its keys."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys: list[ApiKey] = []
        self.tenants: dict[str, TenantLimits] = {}

    def add(self, tenant: str, scopes: Any = SCOPES, **more: Any) -> dict[str, str]:
        """Headers with a new key."""
        key_id = f"{len(self.keys):012x}"
        token, sha256 = make_token(key_id, bytes([len(self.keys)]) * 32)
        self.keys.append(
            ApiKey(id=key_id, tenant=tenant, scopes=frozenset(scopes), sha256=sha256, created_at=CREATED, **more)
        )
        self.save()
        return {"Authorization": f"Bearer {token}"}

    def save(self) -> None:
        save_keys(self.path, KeysFile(keys=tuple(self.keys), tenants=self.tenants))


@pytest.fixture
def ring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ring:
    monkeypatch.setattr(live_keys, "POLL_AGAIN_S", 0.0)
    return Ring(tmp_path / "keys.json")


def test_there_is_one_401_for_every_reason(ring: Ring) -> None:
    good = ring.add("acme")
    expired = ring.add("acme", expires_at=CREATED - timedelta(seconds=1))
    revoked = ring.add("acme", revoked_at=CREATED)
    token = good["Authorization"].removeprefix("Bearer ")
    wrong: list[Any] = [
        {},
        {"Authorization": ""},
        {"Authorization": token},
        {"Authorization": f"Basic {token}"},
        {"Authorization": "Bearer sk-something"},
        {"Authorization": f"Bearer {token[:-1]}{'A' if token[-1] != 'A' else 'B'}"},
        {"Authorization": f"Bearer bsk_ffffffffffff_{token.rsplit('_', 1)[1]}"},
        [("Authorization", f"Bearer {token}"), ("Authorization", f"Bearer {token}")],
        expired,
        revoked,
    ]

    async def story(ingress: Ingress) -> None:
        assert (await ingress.call("POST", "/v1/jobs", json=SUBMIT, headers=good))[0] == 202
        seen = set()
        for headers in wrong:
            status, document, response = await ingress.call("POST", "/v1/jobs", json=SUBMIT, headers=headers)
            assert (status, response.headers["WWW-Authenticate"]) == (401, "Bearer")
            seen.add(str(document))
        assert len(seen) == 1, "a refusal does not tell its reason"
        assert len(ingress.publisher.landed) == 1
        assert await ingress.metric('backstop_authentications_total{result="refused"}') == len(wrong)
        assert await ingress.metric('backstop_api_keys{state="live"}') == 1.0

    with_ingress(story, keys_file=ring.path)


def test_scopes_are_held_on_every_route(ring: Ring) -> None:
    submits, reads = ring.add("acme", {"submit"}), ring.add("acme", {"read"})
    only_submit = [("POST", "/v1/jobs"), ("POST", "/v1/jobs/x/cancel"), ("POST", "/v1/responses"),
                   ("POST", "/v1/responses/resp_1/cancel"), ("DELETE", "/v1/responses/resp_1")]  # fmt: skip
    only_read = [("GET", "/v1/responses/resp_1"), ("GET", "/v1/responses/resp_1/input_items")]

    async def story(ingress: Ingress) -> None:
        for wanted, has, lacks in ((only_submit, submits, reads), (only_read, reads, submits)):
            for method, path in wanted:
                assert (await ingress.call(method, path, headers=lacks))[0] == 403, path
                assert (await ingress.call(method, path, headers=has))[0] not in {401, 403}, path
        # OpenAI's hooks and what tells of no tenant need no key.
        assert (await ingress.webhook()).status == 200
        assert (await ingress.call("GET", "/readyz"))[0] == 200

    with_ingress(story, keys_file=ring.path)


def test_the_tenant_comes_from_the_key_and_its_ids_are_its_own(ring: Ring) -> None:
    acme, globex = ring.add("acme"), ring.add("globex")
    body = {**SUBMIT, "job_id": "same"}

    async def story(ingress: Ingress) -> None:
        for headers in (acme, globex):
            status, document, _ = await ingress.call(
                "POST",
                "/v1/jobs",
                json=body,
                headers={**headers, "X-Tenant": "default", "OpenAI-Organization": "globex"},
            )
            assert (status, document["job_id"]) == (202, "same"), "each sees its own name of the job"
        facts = [fact for fact in ingress.publisher.landed if isinstance(fact, JobSubmitted)]
        assert [(fact.job_id, fact.tenant) for fact in facts] == [("acme:same", "acme"), ("globex:same", "globex")]
        refused = await ingress.call("POST", "/v1/jobs", json={**body, "tenant": "globex"}, headers=acme)
        assert refused[0] == 422, "a tenant in the body is no field"

    with_ingress(story, keys_file=ring.path)


def test_another_tenants_job_can_t_be_cancelled_and_is_not_there(ring: Ring) -> None:
    acme, globex = ring.add("acme"), ring.add("globex")
    reads = MemoryReads()
    reads.add("acme", "theirs")

    async def story(ingress: Ingress) -> None:
        for path in ("/v1/jobs/theirs/cancel", "/v1/jobs/nobodys/cancel", "/v1/jobs/acme:theirs/cancel"):
            assert (await ingress.call("POST", path, headers=globex))[0] == 404
        assert ingress.publisher.landed == []
        assert (await ingress.call("POST", "/v1/jobs/theirs/cancel", headers=acme))[0] == 202
        (fact,) = ingress.publisher.landed
        assert isinstance(fact, CancelRequested)
        assert fact.job_id == "acme:theirs"

    with_ingress(story, keys_file=ring.path, reads=reads, limits=quick())


def quick() -> Any:
    from receiver.limits import Limits  # noqa: PLC0415 - the one test module that shortens waits

    return Limits(appear_s=0.1)


def test_ids_of_tenants_go_both_ways() -> None:
    for tenant in ("default", "acme"):
        assert own_job_id(tenant, qualified_job_id(tenant, "x")) == "x"
    assert qualified_job_id("acme", "x") == "acme:x"
    assert own_job_id("globex", "acme:x") == "acme:x", "only the own name is taken off"


def test_the_file_is_followed_and_a_broken_one_changes_nothing(ring: Ring) -> None:
    first = ring.add("acme")

    async def status(ingress: Ingress, headers: dict[str, str]) -> int:
        return (await ingress.call("GET", "/v1/responses/nothing", headers=headers))[0]

    async def story(ingress: Ingress) -> None:
        assert await status(ingress, first) == 404
        second = ring.add("acme")
        assert await status(ingress, second) == 404, "a new key works at once"
        ring.path.write_text("{")
        assert await status(ingress, second) == 404
        ring.path.unlink()
        assert (await status(ingress, second), await status(ingress, {})) == (404, 401)
        ring.keys[0] = ring.keys[0].model_copy(update={"revoked_at": CREATED})
        ring.save()
        assert (await status(ingress, first), await status(ingress, second)) == (401, 404)

    with_ingress(story, keys_file=ring.path)


def test_in_development_the_first_key_ends_it(ring: Ring) -> None:
    async def story(ingress: Ingress) -> None:
        assert (await ingress.submit())[0] == 202
        # A web page under a name that was made to point to this machine must not get in.
        status, document, _ = await ingress.submit(Host="evil.example:8080")
        assert (status, document["code"]) == (403, "foreign_host")
        assert (await ingress.submit(Host="localhost"))[0] == 202
        acme = ring.add("acme")
        assert (await ingress.submit())[0] == 401, "once there are keys, they are needed"
        assert (await ingress.call("POST", "/v1/jobs", json=SUBMIT, headers={**acme, "Host": "api.example"}))[0] == 202

    with_ingress(story, data_dir=ring.path.parent)
    assert [is_loopback_host(host) for host in ("127.0.0.1", "::1", "localhost", "127.9.9.9")] == [True] * 4
    assert [is_loopback_host(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.com", "")] == [False] * 5


def test_when_a_key_was_used_is_left_beside_the_file(ring: Ring) -> None:
    acme = ring.add("acme")
    ring.add("acme")

    async def story(ingress: Ingress) -> None:
        assert (await ingress.call("POST", "/v1/jobs", json=SUBMIT, headers=acme))[0] == 202

    with_ingress(story, keys_file=ring.path)
    assert load_last_used(ring.path) == {ring.keys[0].id: NOW_MS}


def test_a_tenants_rate_is_its_own(ring: Ring) -> None:
    acme, globex = ring.add("acme"), ring.add("globex")
    ring.tenants["acme"] = TenantLimits(requests_per_s=0.001, requests_burst=2)
    ring.save()

    async def story(ingress: Ingress) -> None:
        answers = [await ingress.call("POST", "/v1/jobs", json=SUBMIT, headers=acme) for _ in range(3)]
        assert [status for status, _, _ in answers] == [202, 202, 429]
        _, document, response = answers[2]
        assert document["code"] == "rate_exceeded"
        assert "requests_per_s" in document["detail"]
        assert 900 <= int(response.headers["Retry-After"]) <= 1000
        assert (await ingress.call("POST", "/v1/jobs", json=SUBMIT, headers=globex))[0] == 202
        assert await ingress.metric('backstop_quota_refused_total{limit="requests_per_s"}') == 1.0

    with_ingress(story, keys_file=ring.path)


def test_a_tenants_submissions_have_a_size(ring: Ring) -> None:
    acme, globex = ring.add("acme"), ring.add("globex")
    ring.tenants["acme"] = TenantLimits(submission_bytes_max=100)
    ring.save()
    large = {"request": {"model": "m", "input": "x" * 100}}

    async def story(ingress: Ingress) -> None:
        status, document, _ = await ingress.call("POST", "/v1/jobs", json=large, headers=acme)
        assert (status, document["code"]) == (413, "body_too_large")
        assert "100 bytes" in document["detail"]
        assert (await ingress.call("POST", "/v1/jobs", json=large, headers=globex))[0] == 202

    with_ingress(story, keys_file=ring.path)


def test_open_jobs_count_what_the_read_model_has_and_what_was_just_taken(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.access.quotas.LOAD_AGE_S_MAX", 0.0)
    acme = ring.add("acme")
    ring.tenants["acme"] = TenantLimits(open_jobs_max=3)
    ring.save()
    reads = MemoryReads()
    reads.load_of["acme"] = Load(1, 0, frozenset())

    async def submit(ingress: Ingress, job_id: str) -> int:
        body = {**SUBMIT, "job_id": job_id}
        return (await ingress.call("POST", "/v1/jobs", json=body, headers=acme))[0]

    async def story(ingress: Ingress) -> None:
        assert [await submit(ingress, job_id) for job_id in "abc"] == [202, 202, 429]
        assert await submit(ingress, "a") == 200, "a repeat opens nothing"
        reads.load_of["acme"] = Load(3, 0, frozenset({"acme:a", "acme:b"}))
        assert await submit(ingress, "c") == 429, "the two were projected: counted once, not twice"
        reads.load_of["acme"] = Load(2, 0, frozenset())
        assert await submit(ingress, "c") == 202
        reads.away = True
        assert await submit(ingress, "d") == 429, "the read model's last answer still counts"
        monkeypatch.setattr("receiver.access.quotas.LOAD_KEPT_S", 0.0)
        assert [await submit(ingress, job_id) for job_id in "def"] == [202, 202, 429], (
            "after a while only jobs accepted by this process count"
        )

    with_ingress(story, keys_file=ring.path, reads=reads)


def test_the_tokens_of_a_day_end_with_it(ring: Ring) -> None:
    acme = ring.add("acme")
    ring.tenants["acme"] = TenantLimits(tokens_per_day_max=1_000)
    ring.save()
    reads = MemoryReads()
    reads.load_of["acme"] = Load(0, 1_000, frozenset())

    async def story(ingress: Ingress) -> None:
        status, document, response = await ingress.call("POST", "/v1/jobs", json=SUBMIT, headers=acme)
        assert (status, document["code"]) == (429, "token_budget_exceeded")
        left_s = 86_400 - NOW_MS // 1000 % 86_400
        assert abs(int(response.headers["Retry-After"]) - left_s) <= 1
        assert reads.since_ms == NOW_MS // 86_400_000 * 86_400_000
        # The same at the OpenAI-compatible API, in OpenAI's form, without retries of the SDK.
        status, document, response = await ingress.call(
            "POST", "/v1/responses", json={"model": "m", "input": "x", "background": True}, headers=acme
        )
        assert (status, document["error"]["code"], document["error"]["type"]) == (429, "rate_limit_exceeded", "tokens")
        assert response.headers["x-should-retry"] == "false"
        ingress.clock[0] += 86_400_000
        reads.load_of["acme"] = Load(0, 0, frozenset())
        assert (await ingress.call("POST", "/v1/jobs", json=SUBMIT, headers=acme))[0] == 202

    with_ingress(story, keys_file=ring.path, reads=reads)


def test_a_tenant_can_t_follow_from_a_response_of_another(ring: Ring) -> None:
    acme, default = ring.add("acme"), ring.add("default")
    reads = MemoryReads()
    reads.owners["resp_provider"] = ("globex", "globex:x")
    reads.owners["resp_own"] = ("acme", "acme:x")

    async def status(ingress: Ingress, headers: dict[str, str], previous: str) -> int:
        body = {"request": {"model": "m", "input": "x", "previous_response_id": previous}}
        return (await ingress.call("POST", "/v1/jobs", json=body, headers=headers))[0]

    async def story(ingress: Ingress) -> None:
        assert await status(ingress, acme, "resp_provider") == 422
        assert await status(ingress, acme, "resp_unknown") == 422
        assert await status(ingress, acme, "resp_own") == 202
        assert await status(ingress, default, "resp_provider") == 422
        assert await status(ingress, default, "resp_unknown") == 202, "the operator's own project"

    with_ingress(story, keys_file=ring.path, reads=reads)


def test_a_wait_with_a_revoked_key_ends_within_a_second(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "keys.json")
    acme = ring.add("acme")

    async def story(ingress: Ingress) -> None:
        assert (await ingress.call("GET", "/v1/responses/nothing", headers=acme))[0] == 404
        ring.keys[0] = ring.keys[0].model_copy(update={"revoked_at": CREATED})
        ring.save()

        async def refused() -> bool:
            return (await ingress.call("GET", "/v1/responses/nothing", headers=acme))[0] == 401

        await eventually(refused, 3, "the revoked key to be refused")

    with_ingress(story, keys_file=ring.path)


def test_only_an_admin_reads_as_another_tenant_and_changes_nothing_there(ring: Ring) -> None:
    admin, plain = ring.add("ops", {"submit", "read", "admin"}), ring.add("ops", {"submit", "read", "operate"})
    theirs = ring.add("acme")

    async def story(ingress: Ingress) -> None:
        async def whose(headers: Any, method: str = "GET", path: str = "/v1/caller", **more: Any) -> Any:
            status, document, _ = await ingress.call(method, path, headers=headers, **more)
            return document["tenant"] if status == 200 else (status, document["code"])

        assert await whose(admin) == "ops"
        assert await whose({**admin, "Backstop-Tenant": "acme"}) == "acme"
        assert await whose({**admin, "Backstop-Tenant": "ops"}) == "ops"
        assert await whose({**theirs, "Backstop-Tenant": "acme"}) == "acme", "one's own name is no other tenant"
        assert await whose({**plain, "Backstop-Tenant": "acme"}) == (403, "scope_missing")
        assert await whose({"Backstop-Tenant": "acme"}) == (401, "unauthenticated")
        for wrong in ("", "Acme", "a b", "x" * 65):
            assert await whose({**admin, "Backstop-Tenant": wrong}) == (400, "bad_parameter"), wrong
        twice = [*admin.items(), ("Backstop-Tenant", "acme"), ("Backstop-Tenant", "globex")]
        assert await whose(twice) == (400, "bad_parameter")
        for headers in ({**admin, "Backstop-Tenant": "acme"}, {**plain, "Backstop-Tenant": "acme"}):
            refused = await whose(headers, "POST", "/v1/jobs", json=SUBMIT)
            assert refused == (403, "scope_missing")
        assert ingress.publisher.landed == []

    with_ingress(story, keys_file=ring.path)
