"""What is refused leaves nothing behind: no file, no claim of its id, no record."""

from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from tests.unit.receiver.ingress import NOW_MS, Ingress, with_ingress
from tests.unit.receiver.reads import MemoryChanges, MemoryReads
from tests.unit.receiver.sdk_caller import QUICK
from tests.unit.receiver.test_sdk_keys import CREATED, Ring, ring

__all__ = ["ring"]

LARGE: Final = "x" * 200_000
CREATES: Final[dict[str, Any]] = {
    "/v1/jobs": lambda request, job: {"request": request, **job},
    "/v1/responses": lambda request, _job: {**request, "background": True},
    "/v1/responses, stream": lambda request, _job: {**request, "stream": True},
    "/v1/responses, not stored": lambda request, _job: {**request, "stream": True, "store": False},
}
REQUEST: Final = {"model": "m", "input": LARGE}
REFUSED: Final[dict[str, tuple[int, dict[str, Any], dict[str, Any], dict[str, str]]]] = {
    "a cap without a price": (422, REQUEST, {"max_cost_usd": 0.5}, {"Backstop-Max-Cost-Usd": "0.5"}),
    "a name of another tenant": (422, {**REQUEST, "prompt": {"id": "pmpt_other"}}, {}, {}),
    "an unknown previous response": (422, {**REQUEST, "previous_response_id": "resp_x"}, {}, {}),
    "a begin that is too late": (
        422, REQUEST, {"not_before_ms": NOW_MS * 2}, {"Backstop-Not-Before-Ms": str(NOW_MS * 2)},
    ),
    "no model": (422, {"input": LARGE}, {}, {}),
    "a priority that the key may not give": (
        403, REQUEST, {"priority": "interactive"}, {"Backstop-Priority": "interactive"},
    ),
    "no key": (401, REQUEST, {}, {"Authorization": "Bearer nonsense"}),
    "a body that is packed": (415, REQUEST, {}, {"Content-Encoding": "gzip"}),
    "another kind of body": (415, REQUEST, {}, {"Content-Type": "text/plain"}),
    "another expectation": (417, REQUEST, {}, {"Expect": "a miracle"}),
    "a bad key of the repeat": (400, REQUEST, {}, {"Idempotency-Key": "ä"}),
}  # fmt: skip


def files(folder: Path) -> set[Path]:
    known = {"keys.json", "keys.used.json", "port"}
    return {path for path in folder.rglob("*") if not path.is_dir() and path.name not in known}


@pytest.mark.parametrize("named", [True, False], ids=["own id", "any id"])
@pytest.mark.parametrize("kind", CREATES)
@pytest.mark.parametrize("why", REFUSED)
def test_a_refused_create_leaves_nothing_and_its_id_is_free(
    ring: Ring, tmp_path: Path, why: str, kind: str, *, named: bool
) -> None:
    status, request, job, headers = REFUSED[why]
    mine = ring.add("acme", priorities=frozenset(("normal",)), expires_at=CREATED + timedelta(days=1))
    path, body_of = kind.partition(",")[0], CREATES[kind]
    own_id = {"Idempotency-Key": "mine"} if named else {}

    async def story(ingress: Ingress) -> None:
        before = files(tmp_path)
        body = body_of(request, job)
        given = {**mine, **own_id, **(headers if path != "/v1/jobs" or not job else {})}
        found, document, _ = await ingress.call("POST", path, json=body, headers=given)
        assert found in {status, 400}, document  # OpenAI's API has a 400 for each refusal of a body
        assert files(tmp_path) == before
        assert ingress.publisher.landed == []
        good = CREATES[path]({"model": "m", "input": "mended"}, {})
        assert (await ingress.call("POST", path, json=good, headers={**mine, **own_id}))[0] in {200, 202}

    with_ingress(
        story, keys_file=ring.path, data_dir=tmp_path, reads=MemoryReads(), changes=MemoryChanges(), limits=QUICK,
        blobs=None,
    )  # fmt: skip
