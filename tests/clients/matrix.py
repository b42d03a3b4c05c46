"""Which clients are tried with which features, and the page that says what came of it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
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

    @property
    def version(self) -> str:
        """As its lock has it."""
        match self.folder.name:
            case "python":
                lock = (self.folder / "requirements.lock").read_text()
                found = re.search(rf"^{re.escape(self.package)}(?:\[[^]]*])?==(\S+)", lock, re.MULTILINE)
            case "node":
                locked = json.loads((self.folder / "package-lock.json").read_text())["packages"]
                return str(locked[f"node_modules/{self.package}"]["version"])
            case _:
                lock = (self.folder / "go.mod").read_text()
                found = re.search(rf"{re.escape(self.package)} v(\S+)", lock)
        assert found is not None, self.package
        return found[1]


def _python(name: str, package: str, script: str, features: tuple[str, ...] = tuple(FEATURES)) -> Client:
    return Client(name, package, (str(HERE / ".venv/bin/python"), f"{script}.py"), features, HERE / "python")


def _node(name: str, package: str, script: str) -> Client:
    return Client(name, package, ("node", f"{script}.mjs"), folder=HERE / "node")


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
    _python("instructor", "instructor", "instructor_responses", ("structured", "error", "cut", "lost")),
)
LANGUAGES: Final = {
    "openai-sync": "Python, synchronous",
    "openai-async": "Python, asynchronous",
    "openai-node": "Node",
    "openai-go": "Go",
}

_HEAD: Final = """# Clients that are tried

Made by `make test-clients`, which runs each of these, unmodified and at the version that its lock names, against the whole system with the stand-in for
OpenAI. All that is set is `OPENAI_BASE_URL` and `OPENAI_API_KEY`; nothing says `background`. Each cell is a tenant of its own, whose jobs and whose creates at the
provider are counted.

"""
_FOOT: Final = """
**The connection breaks** while the answer is waited for, and **the answer is lost**: the server has sent it, and the client sees none of it. *Repeats*: the client asks again by
itself; *raises*: whoever called it asks again. Either way one response is created and paid, but where the table says *a second response*: that client does
not say that it repeats, and whether an answer that was sent has arrived, nobody knows but the client. An `Idempotency-Key` header makes it one.

**An error** is the HTTP status of the exception that the client raises, here of a model that does not exist. One job was made of it.

Also run: `confluent-kafka` (a job in over `requests`, its result out of `results`), `standardwebhooks` and `webhooks.unwrap` of the OpenAI SDK over what is sent to
webhook endpoints; and clients that are generated of `/openapi.json` by openapi-typescript (checked by `tsc --strict`), openapi-python-client, and
openapi-generator for Python, Go and Java: each is compiled or imported.
"""


def page(seen: Mapping[tuple[str, str], str]) -> str:
    rows = ["| client | version | " + " | ".join(FEATURES.values()) + " |", "|---" * (len(FEATURES) + 2) + "|"]
    for client in CLIENTS:
        package = client.package.removeprefix("github.com/")
        shown = f"`{package}`" + (f" ({LANGUAGES[client.name]})" if client.name in LANGUAGES else "")
        cells = [seen.get((client.name, feature), "") for feature in FEATURES]
        rows.append(f"| {shown} | {client.version} | " + " | ".join(cells) + " |")
    return _HEAD + "\n".join(rows) + "\n" + _FOOT
