"""Schemathesis against the whole system. No request that it makes of the document ends in a failure of Backstop. Each
answer is as the document says: status, content type, headers, body. What the document allows is taken; what it forbids
is refused.
"""

import base64
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

from backstop.dev.broker import Owned
from backstop.dev.fast_provider import BRISK
from backstop.dev.ports import Ports
from backstop.dev.system import Shape, System
from backstop.runtime.http.keys import SCOPES
from tests.kafka.held import held
from tests.support.api_keys import write_keys
from tests.support.waiting import wait_until

HERE = Path(__file__).parent
ENDED_WITHIN_S = 60.0
SINGLE, CHAINS = "coverage,fuzzing", "stateful"
FUZZED_ONLY = "fuzzing"
"""Without the cases at the edges of each schema, of which there are some hundreds an operation."""

FUZZED_WITHIN_S = {FUZZED_ONLY: 200.0, SINGLE: 900.0}
"""By phases. Each create without `background` lasts as long as its run."""

EXAMPLES = {SINGLE: 5, FUZZED_ONLY: 1}
"""By phases: of each operation, beside the cases at the edges."""
CHAINED = {SINGLE: 2, FUZZED_ONLY: 1}
"""Of chains of operations."""
PARTS = {SINGLE: 5, FUZZED_ONLY: 1}
"""Processes that share the operations, as most of the time is waiting; CPython 3.11 parses in one thread only."""

UNDECIDABLE = {
    400: ["listJobs", "getSession", "listInputItems", "listDeadLetters", "createResponse", "retrieveResponse"],
    422: ["createWebhookEndpoint", "updateWebhookEndpoint", "cancelJobs", "changeJobs", "retryJobs"],
}
"""What a schema can't say, by the status of its refusal: a cursor was given by Backstop, a previous response has ended,
a stream belongs to a response that was created as one, a URL names a public host, and a deadline is near enough.
"""

NAMED_LIKE_A_JOB = ["adoptResponse", "cancelJobs", "changeJobs", "retryJobs"]
"""A job may have the last word of these paths as its id: `GET` is allowed there, and belongs to another operation."""

OUTGOING_KEY = base64.b64encode(b"k" * 32).decode()

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Running:
    system: System
    token: str
    other_token: str
    """Of another tenant: chains of operations find what they may delete by themselves, and here they do not find it."""
    admin_url: str

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = requests.request(
            method, f"{self.system.url}{path}", json=body, headers={"Authorization": f"Bearer {self.token}"}, timeout=30
        )
        assert answer.status_code < 300, answer.text
        return answer.json()


@pytest.fixture(scope="module")
def running(broker: Owned, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("system")
    tokens = write_keys(folder / "keys.json", {"acme": SCOPES, "globex": SCOPES})
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("BACKSTOP_", "OPENAI_"))}
    ports = Ports()
    admin_port = ports.draw()
    shape = Shape(
        folder=folder,
        environment={**BRISK, **inherited, "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap},
        settings={
            "BACKSTOP_KEYS_FILE": str(folder / "keys.json"),
            "BACKSTOP_ADMIN_PORT": str(admin_port),
            "BACKSTOP_METRICS_PUBLIC": "false",
            # Endpoints can be registered; nothing runs that would send to what a fuzzer makes up.
            "BACKSTOP_OUTGOING_KEYS": OUTGOING_KEY,
        },
        port=0,
        partitions=1,
        time_scale=20.0,
    )
    try:
        with held(shape) as system:
            yield Running(system, tokens["acme"], tokens["globex"], f"http://127.0.0.1:{admin_port}")
    finally:
        ports.release()


def test_with_an_admin_port_metrics_are_on_it_alone(running: Running) -> None:
    assert "backstop_http_request_duration_seconds" in requests.get(f"{running.admin_url}/metrics", timeout=10).text
    assert requests.get(f"{running.admin_url}/readyz", timeout=10).json() == {"ok": True, "reasons": {}}
    assert requests.get(f"{running.admin_url}/v1/jobs", timeout=10).status_code == 404
    assert requests.get(f"{running.system.url}/metrics", timeout=10).status_code == 404
    assert requests.get(f"{running.system.url}/readyz", timeout=10).status_code == 200


def _ended(running: Running, job_id: str) -> Any:
    job = running.ask("GET", f"/v1/jobs/{job_id}?wait=10")
    return job["terminal"] and job


def what_there_is(running: Running) -> dict[str, list[str]]:
    """Ids that exist, for the fuzzer: alone it would see little but 404. By parameter; after a colon stands the one
    operation that they are for, so that a deleted object is not what the other operations ask for.
    """
    asked = {"model": "gpt-5.2", "input": "Say hello."}
    stuck = {**asked, "metadata": {"sim_fault": "run_stuck_in_progress"}}
    running.ask("POST", "/v1/jobs", {"job_id": "ended", "session_id": "s", "tags": ["t"], "request": asked})
    running.ask("POST", "/v1/jobs", {"job_id": "open", "request": stuck})
    response, doomed = (running.ask("POST", "/v1/responses", {**asked, "background": True})["id"] for _ in range(2))
    endpoint, unwanted = (
        running.ask("POST", "/v1/webhook_endpoints", {"url": f"https://example.com/{number}"})["id"]
        for number in range(2)
    )
    for job_id in ("ended", response):
        ended = wait_until(
            partial(_ended, running, job_id),
            ENDED_WITHIN_S, f"the end of {job_id}",
        )  # fmt: skip
        assert ended["status"] == "completed"
    return {
        "job_id": ["ended", response],
        "job_id:getJobOutput": ["ended", "open"],
        "response_id": [response],
        "response_id:deleteResponse": [doomed],
        "session_id": ["s"],
        "endpoint_id": [endpoint],
        "endpoint_id:deleteWebhookEndpoint": [unwanted],
    }


def configuration(token: str, known: dict[str, list[str]]) -> str:
    """For Schemathesis. Half of the ids are of what there is."""
    dictionaries, everywhere, here = [], [], []
    for number, (place, values) in enumerate(known.items()):
        name, _, operation = place.partition(":")
        dictionaries.append(f"d{number} = {{ values = {json.dumps(values)} }}")
        drawn = f'{name} = {{ dictionary = "d{number}", probability = 0.5 }}'
        if operation:
            here.append(f'[[operations]]\ninclude-operation-id = "{operation}"\nparameters = {{ {drawn} }}')
        else:
            everywhere.append(drawn)
    told = [
        f"[[operations]]\ninclude-operation-id = {json.dumps(operations)}\n"
        f'[operations.checks.positive_data_acceptance]\nexpected-statuses = ["2xx", 404, 409, {status}]'
        for status, operations in UNDECIDABLE.items()
    ]
    return "\n".join((
        "continue-on-failure = true", "request-timeout = 20.0", "max-stream-events = 1", "warnings = false",
        "[generation]", "allow-extra-parameters = false", 'database = "none"',
        "[auth.openapi.key]", f'bearer = "{token}"',
        *(("[dictionaries]", *dictionaries, "[parameters]", *everywhere, *here) if known else ()), *told,
        "[[operations]]", 'include-operation-id = "getJob"', "parameters = { wait = 0 }",
        # A create without `background` is answered when its run has ended.
        "[[operations]]", 'include-operation-id = "createResponse"', f"request-timeout = {ENDED_WITHIN_S}",
        "[[operations]]", f"include-operation-id = {json.dumps(NAMED_LIKE_A_JOB)}",
        "checks.allow_header_conformance.enabled = false",
    ))  # fmt: skip


@pytest.mark.parametrize(
    "phases", [FUZZED_ONLY, pytest.param(SINGLE, marks=[pytest.mark.long, pytest.mark.timeout(1_200)])]
)
def test_every_answer_is_as_the_document_says(running: Running, tmp_path: Path, phases: str) -> None:
    (tmp_path / "single.toml").write_text(configuration(running.token, what_there_is(running)))
    (tmp_path / "chains.toml").write_text(configuration(running.other_token, {}))
    document = requests.get(f"{running.system.url}/openapi.json", timeout=10).json()
    every = [operation for path in document["paths"].values() for operation in path.values()]
    # Schemathesis follows a redirect, and judges what is there: the page's files, which are no API.
    names = sorted(operation["operationId"] for operation in every if "302" not in operation["responses"])
    assert "submitJob" in names
    with ExitStack() as stack:
        parts = [
            stack.enter_context(
                fuzzing(running, names[number :: PARTS[phases]], tmp_path, "single.toml", phases, EXAMPLES[phases])
            )
            for number in range(PARTS[phases])
        ]
        chains = stack.enter_context(fuzzing(running, names, tmp_path, "chains.toml", CHAINS, CHAINED[phases]))
        assert chains[0].wait(FUZZED_WITHIN_S[phases]) == 0, chains[1].read_text()
        codes = [process.wait(FUZZED_WITHIN_S[phases]) for process, _said in parts]
    assert not any(codes), "\n".join(said.read_text() for _process, said in parts)
    tested = sum(int(found) for _process, said in parts for found in re.findall(r"Tested: +(\d+)", said.read_text()))
    assert tested == len(names)


@contextmanager
def fuzzing(
    running: Running, names: list[str], folder: Path, config: str, phases: str, examples: int
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Schemathesis at work on these operations, and the file that it writes to. `stateful` makes chains of them: an
    operation asks for what the one before it answered.
    """
    said = folder / f"{phases}-{names[0]}.txt"
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), "--config-file", config),
        *("run", f"{running.system.url}/openapi.json", "--no-color", "--seed", "1", "-n", str(examples)),
        *("--phases", phases, "--report-dir", str(folder / f"report-{phases}-{names[0]}")),
        *itertools.chain.from_iterable(("--include-operation-id", name) for name in names),
    ]
    environment = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": "tests.kafka.openapi_hooks",
        "PYTHONPATH": str(HERE.parents[1]),
    }
    with said.open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield process, said
    finally:
        process.kill()
        process.wait()
