"""Clients beside those of the Responses API: of Kafka, of webhooks, and those that are generated of `/openapi.json`."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

from backstop.outgoing.wire import headers_of
from tests.clients.conftest import SEEN, VERSIONS, Running
from tests.clients.matrix import CODECS, HERE, locked_python
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PYTHON: Final = str(HERE / ".venv/bin/python")
DOCUMENT: Final = HERE.parents[1] / "docs/openapi.json"
GENERATOR: Final = "7.25.0"
JAR: Final = (
    Path.home()
    / f".m2/repository/org/openapitools/openapi-generator-cli/{GENERATOR}/openapi-generator-cli-{GENERATOR}.jar"
)


def run(command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None, given: str = "") -> str:
    done = subprocess.run(
        list(command), cwd=folder, env={**os.environ, **(environment or {})}, capture_output=True, text=True,
        timeout=500, check=False, input=given,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.parametrize("compression", CODECS)
def test_confluent_kafka_submits_a_job_and_finds_its_one_result(running: Running, compression: str) -> None:
    environment = {
        "BOOTSTRAP": running.system.bootstrap, "PREFIX": running.system.runtime.topic_prefix, "TENANT": "kafka",
        "COMPRESSION": compression,
    }  # fmt: skip
    assert json.loads(run([PYTHON, "kafka_confluent.py"], HERE / "python", environment)) == ["completed"]
    VERSIONS["confluent-kafka"], SEEN["confluent-kafka", compression] = locked_python("confluent-kafka"), "yes"


@pytest.mark.parametrize("compression", CODECS)
def test_kcat_submits_a_job_and_finds_its_one_result(running: Running, compression: str, tmp_path: Path) -> None:
    kcat = shutil.which("kcat")
    assert kcat is not None, "kcat is missing: install it (Debian: apt-get install kcat)"
    prefix, job_id = running.system.runtime.topic_prefix, f"kcat-{compression}"
    request = {"type": "submit", "job_id": job_id, "request": {"model": "gpt-5.2", "input": "Say hello."}}
    produce = ["-P", "-t", f"{prefix}requests.kafka", "-k", job_id, "-z", compression, "-X", "acks=all"]
    run([kcat, "-b", running.system.bootstrap, *produce], tmp_path, given=json.dumps(request))
    consume = ["-C", "-t", f"{prefix}results", "-o", "beginning", "-e", "-q", "-X", "isolation.level=read_committed"]

    def outcomes() -> list[str]:
        lines = run([kcat, "-b", running.system.bootstrap, *consume, "-f", "%k\\t%s\\n"], tmp_path).splitlines()
        found = [value for key, _, value in (line.partition("\t") for line in lines) if key == f"kafka:{job_id}"]
        return [json.loads(value)["outcome"] for value in found]

    assert wait_until(outcomes, 90, "a result", poll_s=1.0) == ["completed"]
    VERSIONS["kcat"] = run([kcat, "-V"], tmp_path).partition("Version ")[2].split()[0]
    SEEN["kcat", compression] = "yes"


def test_what_is_sent_to_webhook_endpoints_is_verified_by_the_libraries_of_its_receivers() -> None:
    secret = bytes(range(32))
    event = {"id": "evt_1", "object": "event", "created_at": 1, "type": "response.completed", "data": {"id": "resp_1"}}
    body = json.dumps(event)
    headers = headers_of("wh_1", int(time.time()), body.encode(), [secret], "Backstop")
    given = {"secret": "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "headers": headers, "body": body}
    seen = json.loads(run([PYTHON, "webhooks_verified.py"], HERE / "python", given=json.dumps(given)))
    assert seen == {"types": ["response.completed"] * 2, "forged_refused": True}


def test_openapi_typescript_makes_types_that_strict_typescript_takes(tmp_path: Path) -> None:
    tools = HERE / "node/node_modules/.bin"
    run([str(tools / "openapi-typescript"), str(DOCUMENT), "-o", str(tmp_path / "schema.d.ts")], tmp_path)
    (tmp_path / "use.ts").write_text(
        'import type { paths } from "./schema";\n'
        'type Job = paths["/v1/jobs/{job_id}"]["get"]["responses"]["200"]["content"]["application/json"];\n'
        "export const status = (job: Job): string => job.status;\n"
    )
    run([str(tools / "tsc"), "--strict", "--noEmit", "use.ts"], tmp_path)


OPC_USE: Final = """
import os
from made import AuthenticatedClient
from made.api.default import submit_job, get_job
from made.models import Submit, SubmitRequest

client = AuthenticatedClient(base_url=os.environ["URL"], token=os.environ["KEY"])
request = SubmitRequest(model="gpt-5.2")
request.additional_properties["input"] = "Say hello."
taken = submit_job.sync(client=client, body=Submit(request=request))
job = get_job.sync(taken.job_id, client=client, wait=30)
print(job.status)
"""


def test_openapi_python_client_makes_a_client_that_works(running: Running, tmp_path: Path) -> None:
    maker = HERE / ".venv/bin/openapi-python-client"
    run([str(maker), "generate", "--path", str(DOCUMENT), "--output-path", "made", "--meta", "none"], tmp_path)
    (tmp_path / "use.py").write_text(OPC_USE)
    called = {"URL": running.system.url, "KEY": running.keys["generated"]}
    assert "completed" in run([PYTHON, "use.py"], tmp_path, called)


GENERATED: Final[dict[str, tuple[str, ...]]] = {
    "python": (PYTHON, "-m", "compileall", "-q", "openapi_client"),
    "go": ("go", "build", "./..."),
    "java": ("mvn", "-q", "compile"),
}


@pytest.mark.parametrize("language", GENERATED)
def test_openapi_generator_makes_a_client_that_compiles(language: str, tmp_path: Path) -> None:
    if not JAR.exists():
        artifact = f"org.openapitools:openapi-generator-cli:{GENERATOR}"
        run(["mvn", "-q", "dependency:get", f"-Dartifact={artifact}"], tmp_path)
    more = {"java": ["--library", "native"], "go": ["--git-user-id", "made", "--git-repo-id", "made"]}.get(language, [])
    run(["java", "-jar", str(JAR), "generate", "-i", str(DOCUMENT), "-g", language, "-o", "out", *more], tmp_path)
    out = tmp_path / "out"
    if language == "go":
        shutil.rmtree(out / "test")  # needs a test library of its own
        run(["go", "mod", "tidy"], out)
    run(GENERATED[language], out)
