"""A whole job's spans through a real OpenTelemetry collector, built from its own modules by `tests/collector`."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.request import Request, urlopen

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from backstop.dev.broker import Owned
from backstop.dev.fast_provider import BRISK
from backstop.dev.ports import Ports
from backstop.dev.system import Shape
from tests.kafka.held import held
from tests.support.otlp_sink import otlp_sink
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_200)]

SOURCE: Final = Path(__file__).parents[1] / "collector"
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PROMPT: Final = "A prompt that no span may hold."


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> str:
    go = shutil.which("go")
    if go is None:
        pytest.skip("TRACES ARE NOT SENT THROUGH A REAL COLLECTOR: no Go on PATH to build it")
    built = tmp_path_factory.mktemp("collector") / "collector"
    subprocess.run([go, "build", "-o", str(built), "."], cwd=SOURCE, check=True, timeout=1_000)
    return str(built)


@contextmanager
def collecting(binary: str, to: str, folder: Path) -> Iterator[str]:
    ports = Ports()
    address = f"127.0.0.1:{ports.draw()}"
    config = {
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": address}}}},
        "exporters": {"otlp_http": {"endpoint": to, "compression": "none", "tls": {"insecure": True}}},
        "service": {
            "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["otlp_http"]}},
            "telemetry": {"metrics": {"level": "none"}},
        },
    }
    (folder / "config.yaml").write_text(json.dumps(config))  # YAML contains JSON
    process = subprocess.Popen([binary, f"--config={folder / 'config.yaml'}"])
    try:
        wait_until(lambda: takes(f"http://{address}/v1/traces"), 60, "the collector", poll_s=0.2)
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(20)
        ports.release()


def takes(url: str) -> bool:
    """Whether it answers an empty export."""
    headers = {"Content-Type": "application/x-protobuf"}
    with urlopen(Request(url, b"", headers), timeout=2) as answer:
        return bool(answer.status == 200)


def test_a_jobs_spans_come_through_a_real_collector(binary: str, broker: Owned, tmp_path: Path) -> None:
    (tmp_path / "system").mkdir()
    with otlp_sink() as (address, taken), collecting(binary, address, tmp_path) as collector:
        shape = Shape(
            folder=tmp_path / "system",
            environment={**BRISK, **os.environ, "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap},
            settings={"BACKSTOP_OTEL_ENDPOINT": collector},
            port=0,
            partitions=2,
            time_scale=20.0,
        )
        with held(shape) as system:
            body = json.dumps({"request": {"model": "gpt-5.2", "input": PROMPT}}).encode()
            headers = {"Content-Type": "application/json", "traceparent": f"00-{TRACE}-{CALLER}-01"}
            with urlopen(Request(f"{system.url}/v1/jobs", body, headers), timeout=20) as answer:
                job_id = json.load(answer)["job_id"]
            prefix = system.runtime.topic_prefix
            spans = wait_until(lambda: whole(taken, job_id), 90, "the spans of the job", poll_s=0.2)
    assert sorted(spans) == ["chat gpt-5.2", "job", f"send {prefix}results"]
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    job = spans.pop("job")
    assert job.parent_span_id.hex() == CALLER
    assert {span.parent_span_id for span in spans.values()} == {job.span_id}
    assert PROMPT not in str(taken)


def whole(taken: list[ExportTraceServiceRequest], job_id: str) -> dict[str, Any] | None:
    """The spans of the trace by name, once that of the job is among them."""
    found = {
        span.name: span
        for sent in taken
        for resource in sent.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
        if span.trace_id.hex() == TRACE
    }
    told = [each.value.string_value for each in found["job"].attributes if each.key == "backstop.job.id"]
    assert told == [job_id]
    return found if len(found) >= 3 else None
