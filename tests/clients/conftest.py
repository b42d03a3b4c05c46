"""One system for all clients. Each feature of each client has a tenant of its own, so that its jobs can be counted."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from backstop.dev.broker import Owned
from backstop.dev.fast_provider import BRISK
from backstop.dev.system import Shape, System
from backstop.runtime.http.keys import Scope
from tests.clients.matrix import CLIENTS, FEATURES, cells, page
from tests.kafka.held import held
from tests.support.api_keys import write_keys

PAGE = "BACKSTOP_CLIENTS_PAGE"
SCOPES: tuple[Scope, ...] = ("submit", "read")
SEEN: dict[tuple[str, str], str] = {}
"""What each feature of each client did, by their names: what the page shows."""
VERSIONS: dict[str, str] = {}
"""Of the clients of Kafka."""


@dataclass(frozen=True)
class Running:
    """The system, and a key of each tenant."""

    system: System
    keys: Mapping[str, str]

    def environment(self, tenant: str, url: str | None = None) -> dict[str, str]:
        """All that is set for a client."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "BACKSTOP_"))}
        base_url = f"{url or self.system.url}/v1"
        return {**kept, "OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": self.keys[tenant]}

    def creates_of(self, tenant: str) -> int:
        """How many responses the provider accepted of a tenant."""
        lines = (self.system.ledgers / "creates.jsonl").read_text().splitlines()
        return sum(str(json.loads(line).get("job")).startswith(f"{tenant}:") for line in lines)


def tenant_of(client: str, feature: str) -> str:
    return f"{client}-{feature}"[:27].rstrip("-")


@pytest.fixture(scope="session")
def running(broker: Owned, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("system")
    tenants = [tenant_of(client.name, feature) for client in CLIENTS for feature in FEATURES] + [
        "generated",
        "kafka",
        "services",
    ]
    keys = write_keys(folder / "keys.json", dict.fromkeys(tenants, SCOPES))
    with pytest.MonkeyPatch.context() as patched:
        for name in [name for name in os.environ if name.startswith(("BACKSTOP_", "OPENAI_"))]:
            patched.delenv(name)
        patched.setenv("BACKSTOP_REQUEST_TENANTS", "kafka")
        shape = Shape(
            folder=folder,
            environment={**BRISK, **os.environ, "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap},
            settings={"BACKSTOP_KEYS_FILE": str(folder / "keys.json")},
            port=0,
            partitions=2,
            time_scale=20.0,
        )
        with held(shape) as system:
            yield Running(system, keys)


def pytest_sessionfinish() -> None:
    """The table of the documentation, where the whole of it was run."""
    wanted = os.environ.get(PAGE)
    if wanted and cells() <= set(SEEN):
        Path(wanted).write_text(page(SEEN, VERSIONS))
