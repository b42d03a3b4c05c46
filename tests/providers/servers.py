"""Servers that are not ours, as processes: OGX with a stub as its model, and a LiteLLM proxy before it."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from backstop.dev.ports import HOST
from tests.providers.stub import MODEL
from tests.support.waiting import wait_until

UP_WITHIN_S = 120.0
END_WITHIN_S = 60.0
ASK_WITHIN_S = 10.0
OGX_PAGE = 50


class Process:
    """One that may be killed with -9 and started again at the same place."""

    def __init__(
        self, name: str, command: tuple[str, ...], environment: Mapping[str, str], log: Path, ready: str
    ) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self._log = log
        self._ready = ready
        self._running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._running = subprocess.Popen(
                self._command, env=dict(self._environment), stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        wait_until(self._answers, UP_WITHIN_S, f"{self.name} to answer (see {self._log})", poll_s=0.2)

    def kill(self) -> None:
        """At once, as `kill -9` does it. Without effect on one that does not run."""
        if self._running is not None:
            self._running.kill()
            self._running.wait()
            self._running = None

    def end(self) -> None:
        """As a deploy does it: SIGTERM, and wait."""
        assert self._running is not None
        self._running.terminate()
        assert self._running.wait(END_WITHIN_S) == 0, f"{self.name} did not end well (see {self._log})"
        self._running = None

    def signal(self, number: int) -> None:
        assert self._running is not None
        self._running.send_signal(number)

    def _answers(self) -> bool:
        assert self._running is not None
        if self._running.poll() is not None:
            raise AssertionError(f"{self.name} ended with {self._running.returncode}: {self._log.read_text()[-2_000:]}")
        return ask(self._ready) is not None


def ask(url: str, key: str = "") -> Any:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with urlopen(Request(url, headers=headers), timeout=ASK_WITHIN_S) as answer:
        return json.loads(answer.read() or b"null") or {}


class Stub:
    def __init__(self, folder: Path, port: int, run_s: float) -> None:
        self.root = f"http://{HOST}:{port}"
        command = (sys.executable, "-m", "tests.providers.stub", "--port", str(port), "--run-s", f"{run_s:g}")
        self.process = Process("the stub", command, os.environ, folder / "stub.log", f"{self.root}/v1/models")

    def calls(self) -> Counter[str]:
        return Counter(ask(f"{self.root}/calls"))


class Ogx:
    """OGX with `remote::openai` at the stub. A kill leaves its stored responses, and ends the running ones."""

    model = f"openai/{MODEL}"

    def __init__(self, venv: Path, folder: Path, port: int, stub: Stub) -> None:
        self.base_url = f"http://{HOST}:{port}/v1"
        folder.mkdir()
        config = folder / "config.yaml"
        config.write_text(json.dumps(_ogx_config(folder, port, stub)))  # JSON is YAML
        environment = {**_inherited(), "OGX_CONFIG_DIR": str(folder), "OTEL_SDK_DISABLED": "true"}
        command = (str(venv / "bin" / "ogx"), "run", str(config), "--insecure")
        self.process = Process("OGX", command, environment, folder / "ogx.log", f"{self.base_url}/health")

    def responses(self) -> list[Any]:
        """All responses that it keeps, in any status."""
        found: list[Any] = []
        after = ""
        while True:
            page = ask(f"{self.base_url}/responses?limit={OGX_PAGE}{after}")
            found += page["data"]
            if not page["has_more"]:
                return found
            after = f"&after={page['last_id']}"


class LiteLlm:
    """A LiteLLM proxy before OGX, with nothing of its own: what it must know it writes into the ids."""

    model = "behind-the-proxy"
    key = "sk-litellm-0123456789"

    def __init__(self, venv: Path, folder: Path, port: int, ogx: Ogx) -> None:
        self.base_url = f"http://{HOST}:{port}/v1"
        folder.mkdir()
        config = folder / "config.yaml"
        parameters = {"model": f"openai/{ogx.model}", "api_base": ogx.base_url, "api_key": "sk-ogx"}
        config.write_text(
            json.dumps(
                {
                    "model_list": [{"model_name": self.model, "litellm_params": parameters}],
                    "general_settings": {"master_key": self.key},
                    "litellm_settings": {"telemetry": False},
                }
            )
        )
        environment = {**_inherited(), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        command = (str(venv / "bin" / "litellm"), "--config", str(config), "--host", HOST, "--port", str(port))
        ready = f"http://{HOST}:{port}/health/liveliness"
        self.process = Process("LiteLLM", command, environment, folder / "litellm.log", ready)


def _inherited() -> dict[str, str]:
    """Keys and addresses of ours are not theirs."""
    ours = ("BACKSTOP_", "OPENAI_", "KAFKA_", "OGX_", "LITELLM_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def _ogx_config(folder: Path, port: int, stub: Stub) -> dict[str, Any]:
    sql, kv = "sql_default", "kv_default"
    provider = {
        "provider_id": "openai",
        "provider_type": "remote::openai",
        "config": {"api_key": "sk-stub", "base_url": f"{stub.root}/v1"},
    }
    responses = {
        "provider_id": "builtin",
        "provider_type": "inline::builtin",
        "config": {"persistence": {"responses": {"table_name": "responses", "backend": sql}}},
    }
    files = {
        "provider_id": "builtin-files",
        "provider_type": "inline::localfs",
        "config": {
            "storage_dir": str(folder / "files"),
            "metadata_store": {"table_name": "files_metadata", "backend": sql},
        },
    }
    return {
        "version": 2,
        "distro_name": "backstop-providers",
        "apis": ["inference", "responses", "files", "file_processors", "vector_io", "tool_runtime"],
        "providers": {
            "inference": [provider], "responses": [responses], "files": [files],
            "file_processors": [], "vector_io": [], "tool_runtime": [],
        },
        "storage": {
            "backends": {
                kv: {"type": "kv_sqlite", "db_path": str(folder / "kv.db")},
                sql: {"type": "sql_sqlite", "db_path": str(folder / "sql.db")},
            },
            "stores": {
                "metadata": {"namespace": "registry", "backend": kv},
                "inference": {"table_name": "inference_store", "backend": sql},
                "conversations": {"table_name": "openai_conversations", "backend": sql},
                "prompts": {"table_name": "prompts", "backend": sql},
                "connectors": {"table_name": "connectors", "backend": sql},
            },
        },
        "registered_resources": {"models": [], "vector_stores": []},
        "server": {"port": port, "host": HOST},
    }  # fmt: skip
