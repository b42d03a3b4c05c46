"""Which clients are tried with which features, and the page that says what came of it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

HERE: Final = Path(__file__).parent
FEATURES: Final[dict[str, str]] = {
    "plain": "a plain call",
    "streamed": "streamed",
    "tools": "a tool call and its output",
    "structured": "structured output",
    "error": "an error of the provider's",
    "cut": "the connection breaks while it waits",
    "lost": "the answer is lost",
}


@dataclass(frozen=True)
class Client:
    name: str
    package: str
    command: tuple[str, ...]
    features: tuple[str, ...] = tuple(FEATURES)
    folder: Path = field(default=HERE)
    cannot: Mapping[str, str] = field(default_factory=dict)
    """The features that the client has not, with the reason; they are not in `features`."""

    @property
    def version(self) -> str:
        """As its lock has it."""
        match self.folder.name:
            case "python":
                return locked_python(self.package)
            case "node":
                locked = json.loads((self.folder / "package-lock.json").read_text())["packages"]
                return str(locked[f"node_modules/{self.package}"]["version"])
            case _:
                lock = (self.folder / "go.mod").read_text()
                found = re.search(rf"{re.escape(self.package)} v(\S+)", lock)
        assert found is not None, self.package
        return found[1]


def _python(name: str, package: str, script: str, cannot: Mapping[str, str] = MappingProxyType({})) -> Client:
    features = tuple(feature for feature in FEATURES if feature not in cannot)
    return Client(name, package, (str(HERE / ".venv/bin/python"), f"{script}.py"), features, HERE / "python", cannot)


def _node(name: str, package: str, script: str) -> Client:
    return Client(name, package, ("node", f"{script}.mjs"), folder=HERE / "node")


_TYPED_ONLY: Final = dict.fromkeys(("plain", "streamed", "tools"), "each call asks for a value of a type")

CLIENTS: Final = (
    _python("openai-sync", "openai", "openai_sync"),
    _python("openai-async", "openai", "openai_async"),
    _node("openai-node", "openai", "openai_node"),
    Client("openai-go", "github.com/openai/openai-go/v3", ("go", "run", "."), folder=HERE / "go"),
    _python("agents", "openai-agents", "openai_agents"),
    _node("agents-js", "@openai/agents", "openai_agents_js"),
    _python("langchain", "langchain-openai", "langchain_openai_chat"),
    _node("ai-sdk", "@ai-sdk/openai", "ai_sdk"),
    _python("litellm", "litellm", "litellm_responses"),
    _python("pydantic-ai", "pydantic-ai-slim", "pydantic_ai_agent"),
    _python("instructor", "instructor", "instructor_responses", _TYPED_ONLY),
)
LANGUAGES: Final = {
    "openai-sync": "Python, synchronous",
    "openai-async": "Python, asynchronous",
    "openai-node": "Node",
    "openai-go": "Go",
}

CODECS: Final = ("none", "gzip", "snappy", "lz4", "zstd")
KAFKA: Final = ("confluent-kafka", "kcat")
"""Clients of Kafka: each sends a job over `requests` with each codec, and reads its result from `results`."""

_HEAD: Final = """# Clients that are tried

`make test-clients` runs each client, unmodified and at the version that its lock names, against the whole system with
the stand-in for OpenAI, and makes this page. Only `OPENAI_BASE_URL` and `OPENAI_API_KEY` are set; no client says
`background`. Each cell has a tenant of its own, whose jobs and whose creates at the provider are counted.

"""
_FOOT: Final = """
- **The connection breaks** while the client waits for the answer. **The answer is lost**: the server has sent it, and
  the client receives no byte of it.
- *Repeats*: the client asks again by itself. *Raises*: the program that called the client asks again. Either way one
  response is created and paid.
- *A second response*: the client sends no sign that a request is a repeat. Where an answer was sent, only the client
  knows that it was lost, so the repeat is a new create, and is paid. To get the first response again, send an
  `Idempotency-Key` header of the caller's own with both: `generateText({ headers: { "Idempotency-Key": id }, … })` in
  the AI SDK, `litellm.responses(extra_headers={"Idempotency-Key": id}, …)` in LiteLLM.
- **An error** is the HTTP status and the class of the exception that the client raises, here for a model that does not
  exist. It made one job.
- *Cannot*: the client has no such call; the reason follows.

## Clients of Kafka
A job goes in over `requests` with each codec, and its result is read from `results`.

"""
_OTHERS: Final = """
## Other clients
- `standardwebhooks`, and `webhooks.unwrap` of the OpenAI SDK, verify what is sent to webhook endpoints.
- Clients generated from `/openapi.json`: openapi-typescript (checked by `tsc --strict`), openapi-python-client
  (imported and called), and openapi-generator for Python, Go and Java (compiled).
"""


def cells() -> set[tuple[str, str]]:
    """All that a whole run fills in."""
    told = {(client.name, feature) for client in CLIENTS for feature in client.features}
    return told | {(name, codec) for name in KAFKA for codec in CODECS}


def page(seen: Mapping[tuple[str, str], str], versions: Mapping[str, str]) -> str:
    rows = _row("client", "version", *FEATURES.values()) + "|---" * (len(FEATURES) + 2) + "|\n"
    for client in CLIENTS:
        package = client.package.removeprefix("github.com/")
        shown = f"`{package}`" + (f" ({LANGUAGES[client.name]})" if client.name in LANGUAGES else "")
        told = [
            f"cannot: {client.cannot[feature]}" if feature in client.cannot else seen[client.name, feature]
            for feature in FEATURES
        ]
        rows += _row(shown, client.version, *told)
    kafka = _row("client", "version", *CODECS) + "|---" * (len(CODECS) + 2) + "|\n"
    for name in KAFKA:
        kafka += _row(f"`{name}`", versions[name], *(seen[name, codec] for codec in CODECS))
    return _HEAD + rows + _FOOT + kafka + _OTHERS


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"


def locked_python(package: str) -> str:
    """The version in the lock of Python's clients."""
    lock = (HERE / "python/requirements.lock").read_text()
    found = re.search(rf"^{re.escape(package)}(?:\[[^]]*])?==(\S+)", lock, re.MULTILINE)
    assert found is not None, package
    return found[1]
