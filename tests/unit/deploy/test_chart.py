"""The chart: Helm renders it, each process understands the environment that it gets, and contradictions are refused."""

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from backstop.cli.main import SUBCOMMANDS
from backstop.cli.unknown_variables import unknown
from backstop.runtime.read_settings import read

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "deploy" / "helm" / "backstop"
HELM = shutil.which("helm", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
NEEDS_HELM = pytest.mark.skipif(
    HELM is None, reason="NOT RENDERED: the package helm-binary has no Helm for this machine"
)
GOOD = {
    "kafka": {"bootstrapServers": "kafka-1:9093,kafka-2:9093", "username": "backstop"},
    "secrets": {
        "name": "backstop",
        "entries": {
            "kafkaPassword": "kafka-password", "kafkaCa": "ca.pem", "outgoingKeys": "outgoing-keys",
            "blobsSecretKey": "blobs-secret-key",
        },
    },
    "blobs": "s3://bucket/backstop",
    "settings": {"BACKSTOP_LOG_LEVEL": "warning", "BACKSTOP_BLOBS_KEY_ID": "AKIAEXAMPLE"},
    "openai": {"baseUrl": "https://gateway.example/v1"},
    "outgoing": {"enabled": True},
    "serve": {"ingress": {"enabled": True, "host": "backstop.example.com", "tlsSecret": "tls"}},
    "worker": {"replicas": 4, "settings": {"BACKSTOP_HEDGE_SHARE": 0.01, "BACKSTOP_LOG_LEVEL": "debug"}},
    "monitoring": {"podMonitor": True},
    "networkPolicy": {"clients": [{"namespaceSelector": {"matchLabels": {"team": "apps"}}}]},
}  # fmt: skip
SETTINGS = {
    "serve": ("receiver.settings", "ReceiverSettings"),
    "worker": ("streams.settings", "StreamSettings"),
    "projection": ("backstop.readmodel.settings", "ProjectionSettings"),
    "outgoing": ("backstop.outgoing.settings", "OutgoingSettings"),
    "topics": ("backstop.runtime.settings", "RuntimeSettings"),
}
CONTENT = {
    "keys.json": json.dumps({"keys": []}), "database-url": "postgresql://backstop@db/backstop?sslmode=verify-full",
    "webhook-secrets": "whsec_" + "A" * 32, "ticket-secrets": "t" * 32, "outgoing-keys": "o" * 32,
    "openai-api-key": "sk-secret", "kafka-password": "correct horse", "blobs-secret-key": "secret",
}  # fmt: skip


def helm(*arguments: str, values: str | None = None) -> subprocess.CompletedProcess[str]:
    assert HELM is not None
    return subprocess.run([HELM, *arguments], input=values, capture_output=True, text=True, check=False, timeout=60)


@cache
def _rendered(values: str) -> tuple[dict[str, Any], ...]:
    done = helm("template", "mine", str(CHART), "-f", "-", values=values)
    if done.returncode:
        raise ValueError(done.stderr)
    return tuple(document for document in yaml.safe_load_all(done.stdout) if document)


def rendered(**changes: Any) -> tuple[dict[str, Any], ...]:
    return _rendered(json.dumps(merged(GOOD, changes)))


def merged(values: Any, changes: Any) -> Any:
    if not isinstance(values, dict) or not isinstance(changes, dict):
        return changes
    return {**values, **{name: merged(values.get(name), value) for name, value in changes.items()}}


def pods(**changes: Any) -> dict[str, dict[str, Any]]:
    """The template of each process's pods."""
    return {
        document["spec"]["template"]["spec"]["containers"][0]["name"]: document["spec"]["template"]
        for document in rendered(**changes)
        if document["kind"] in {"Deployment", "StatefulSet", "Job"}
    }


def environment(pod: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "mine-worker-0") for entry in pod["spec"]["containers"][0]["env"]}


@NEEDS_HELM
def test_helm_finds_nothing_wrong():
    assert helm("lint", "--strict", str(CHART), *_set("kafka.bootstrapServers=k:1", "secrets.name=s", "blobs=s3://b/p",
                "kafka.username=u", "secrets.entries.kafkaPassword=p")).returncode == 0  # fmt: skip


def _set(*values: str) -> list[str]:
    return [part for value in values for part in ("--set", value)]


@NEEDS_HELM
@pytest.mark.parametrize("process", sorted(SETTINGS))
def test_each_process_understands_its_environment(process, monkeypatch, tmp_path):
    given = environment(pods()[process])
    assert unknown(given) == []
    for entry, content in CONTENT.items():
        (tmp_path / entry).write_text(content)
    for name in [name for name in os.environ if name.startswith(("BACKSTOP_", "OPENAI_", "KAFKA_"))]:
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value.replace("/secrets/", f"{tmp_path}/"))
    module, kind = SETTINGS[process]
    settings = read(getattr(import_module(module), kind))
    assert settings.partitions == 16
    assert settings.kafka_sasl_password.get_secret_value() == "correct horse"
    assert settings.log_level == ("debug" if process == "worker" else "warning"), "a process's own setting wins"


@NEEDS_HELM
def test_no_secret_is_in_an_environment_and_a_process_sees_only_its_own():
    seen = {}
    for process, pod in pods().items():
        (volume,) = (volume["secret"] for volume in pod["spec"]["volumes"] if volume["name"] == "secrets")
        mounted = {item["path"] for item in volume["items"]}
        used = {value.removeprefix("/secrets/") for value in environment(pod).values() if value.startswith("/secrets/")}
        assert used == mounted, process
        seen[process] = mounted - {"kafka-password", "ca.pem", "blobs-secret-key"}
    assert seen == {
        "serve": {"database-url", "webhook-secrets", "keys.json", "ticket-secrets", "outgoing-keys"},
        "worker": {"openai-api-key"}, "projection": {"database-url"}, "outgoing": {"outgoing-keys"}, "topics": set(),
    }  # fmt: skip


@NEEDS_HELM
def test_a_projection_that_erases_at_the_provider_sees_its_key():
    pod = pods(projection={"erasesAtProvider": True})["projection"]
    (volume,) = (volume["secret"] for volume in pod["spec"]["volumes"] if volume["name"] == "secrets")
    assert "openai-api-key" in {item["path"] for item in volume["items"]}
    assert environment(pod)["OPENAI_API_KEY_FILE"] == "/secrets/openai-api-key"


@NEEDS_HELM
def test_each_pod_runs_a_command_of_ours_without_rights_and_is_probed_on_a_port_that_it_has():
    for process, pod in pods().items():
        (container,) = pod["spec"]["containers"]
        assert container["command"][0] == "backstop"
        assert container["command"][1] in SUBCOMMANDS
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert pod["spec"]["automountServiceAccountToken"] is False
        ports = {port["name"] for port in container.get("ports", [])}
        probed = {
            container[probe]["httpGet"]["port"]
            for probe in ("startupProbe", "livenessProbe", "readinessProbe")
            if probe in container
        }
        assert probed == (set() if process == "topics" else {"health"}) <= ports


@NEEDS_HELM
def test_workers_keep_their_names_and_stores_and_are_given_time_to_end():
    (worker,) = (document for document in rendered() if document["kind"] == "StatefulSet")
    assert worker["spec"]["replicas"] == 4
    pod = worker["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 90
    assert environment(worker["spec"]["template"])["BACKSTOP_DATA_DIR"] == "/stores"
    assert [claim["metadata"]["name"] for claim in worker["spec"]["volumeClaimTemplates"]] == ["stores"]
    (name,) = (e for e in pod["containers"][0]["env"] if e["name"] == "BACKSTOP_WORKER_INSTANCE_ID")
    assert name["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}


@NEEDS_HELM
def test_selectors_find_the_pods_that_they_mean():
    labels = [pod["metadata"]["labels"] for pod in pods().values()]
    for document in rendered():
        selector = document.get("spec", {}).get("selector") or document.get("spec", {}).get("podSelector")
        if selector:
            wanted = selector.get("matchLabels", selector)
            assert any(wanted.items() <= have.items() for have in labels), document["metadata"]["name"]


@NEEDS_HELM
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"kafka": {"bootstrapServers": ""}}, "kafka.bootstrapServers is empty: name the brokers"),
        ({"secrets": {"name": ""}}, "secrets.name is empty"),
        ({"blobs": ""}, "blobs is empty: pods share no folder"),
        ({"blobs": "/data/blobs"}, "blobs: Does not match pattern"),
        ({"worker": {"replicas": 17}}, "worker.replicas is 17, and kafka.partitions is 16"),
        ({"kafka": {"minInsyncReplicas": 4}}, "no record could ever be acknowledged"),
        ({"kafka": {"username": ""}}, "SCRAM-SHA-512 needs kafka.username and secrets.entries.kafkaPassword"),
        ({"secrets": {"entries": {"outgoingKeys": ""}}}, "outgoing.enabled needs secrets.entries.outgoingKeys"),
        ({"serve": {"ingress": {"host": ""}}}, "serve.ingress.enabled needs serve.ingress.host"),
        ({"serve": {"replica": 3}}, "Additional property replica is not allowed"),
        ({"serve": {"replicas": 0}}, "Must be greater than or equal to 1"),
        ({"settings": {"PARTITIONS": 3}}, "settings"),
    ],
)
def test_values_that_contradict_each_other_are_refused_with_a_sentence(changes, told):
    with pytest.raises(ValueError, match=r"execution error|don't meet the specifications") as refused:
        rendered(**changes)
    assert told in str(refused.value)


@NEEDS_HELM
def test_what_is_switched_off_is_not_there():
    kinds = [document["kind"] for document in rendered(
        outgoing={"enabled": False}, networkPolicy={"enabled": False}, monitoring={"podMonitor": False},
        serve={"ingress": {"enabled": False}}, kafka={"createTopics": False},
    )]  # fmt: skip
    assert not {"NetworkPolicy", "PodMonitor", "Ingress", "Job"} & set(kinds)
    assert kinds.count("Deployment") == 2


@NEEDS_HELM
@pytest.mark.long
def test_kubernetes_takes_every_resource(tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True, timeout=60)
    package = "kubernetes-validate==1.37.0"
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", package], check=True, timeout=110
    )
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump_all([one for one in rendered() if one["kind"] != "PodMonitor"]))
    for version in ("1.27.0", "1.34.0"):
        done = subprocess.run(
            [python, "-m", "kubernetes_validate", "--strict", "-k", version, file],
            capture_output=True, text=True, check=False, timeout=100,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
