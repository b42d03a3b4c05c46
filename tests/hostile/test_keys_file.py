"""A keys file of ten thousand keys: following it holds up no request for long."""

import asyncio
import shutil
import threading
from datetime import timedelta
from ipaddress import ip_network
from itertools import cycle
from pathlib import Path

import pytest

from backstop.runtime.http.keys import SCOPES, ApiKey, KeysFile, TenantLimits, make_token, save_keys
from tests.hostile.pauses import least_pause_s
from tests.unit.receiver.ingress import SUBMIT, Ingress, with_ingress
from tests.unit.receiver.test_sdk_keys import CREATED, Ring, ring

__all__ = ["ring"]

KEYS = 10_000
PAUSE_S_MAX = 0.05
NETWORKS = (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two keys files in which every key differs. All of their keys expire soon."""
    folder = tmp_path_factory.mktemp("keys")
    return [written(folder / f"{round_}.json", round_) for round_ in range(2)]


def written(path: Path, round_: int) -> Path:
    keys = tuple(
        ApiKey(
            id=f"{number:012x}", tenant=f"t{number}", scopes=SCOPES, sha256=make_token("0" * 12, secret(number))[1],
            created_at=CREATED, expires_at=CREATED + timedelta(days=10, hours=round_), addresses=NETWORKS,
        )
        for number in range(KEYS)
    )  # fmt: skip
    tenants = {f"t{number}": TenantLimits(requests_per_s=1_000_000) for number in range(KEYS)}
    save_keys(path, KeysFile(keys=keys, tenants=tenants))
    return path


def secret(number: int) -> bytes:
    return number.to_bytes(32)


def with_key(number: int) -> dict[str, str]:
    return {"Authorization": f"Bearer {make_token(f'{number:012x}', secret(number))[0]}"}


@pytest.mark.parametrize("changes", ["every key", "no key"])
@pytest.mark.usefixtures("settled")
def test_a_changed_file_of_many_keys_is_read_without_a_long_pause(changes: str, ring: Ring, files: list[Path]) -> None:
    others = cycle(files if changes == "every key" else files[:1])
    ring.add("acme")

    async def story(ingress: Ingress) -> None:
        async def changed() -> None:
            part = ring.path.with_suffix(".part")
            shutil.copy(next(others), part)
            part.replace(ring.path)
            status, _, _ = await ingress.call("POST", "/v1/jobs", json=SUBMIT, headers=with_key(KEYS - 1))
            assert status == 401, "the key works from its addresses alone"
            assert await ingress.metric('backstop_api_keys{state="expiring"}') == KEYS

        assert await least_pause_s(PAUSE_S_MAX, changed) <= PAUSE_S_MAX

    with_ingress(story, keys_file=ring.path)


def test_a_changed_file_is_read_while_other_work_has_all_threads(ring: Ring) -> None:
    acme = ring.add("acme")

    async def story(ingress: Ingress) -> None:
        over = threading.Event()
        waiting = [asyncio.create_task(asyncio.to_thread(over.wait, 60)) for _ in range(64)]
        ring.keys[0] = ring.keys[0].model_copy(update={"revoked_at": CREATED})
        ring.save()
        answer = asyncio.create_task(ingress.call("GET", "/v1/responses/nothing", headers=acme))
        try:
            assert (await asyncio.wait_for(answer, 10))[0] == 401
        finally:
            over.set()
            await asyncio.gather(*waiting)

    with_ingress(story, keys_file=ring.path)
