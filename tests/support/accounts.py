"""Clients of OpenAI for a server of the test."""

from typing import Any

from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from backstop.runtime.process.clock import NowMs
from streams.openai.account import OpenAIAccount
from streams.openai.client import OpenAIClient
from streams.openai.provider import OpenAIProvider
from streams.provider import CallLimits
from streams.workers.metrics import WorkerMetrics


def account_at(base_url: str, key: str = "sk-x", **options: Any) -> OpenAIAccount:
    return OpenAIAccount(base_url, SecretStr(key), **options)


def client_of(account: OpenAIAccount, metrics: WorkerMetrics | None = None, **limits: Any) -> OpenAIClient:
    return OpenAIClient(account, metrics or WorkerMetrics(CollectorRegistry()), CallLimits(**limits))


def provider_of(
    account: OpenAIAccount, now_ms: NowMs, metrics: WorkerMetrics | None = None, **limits: Any
) -> OpenAIProvider:
    return OpenAIProvider.open(account, metrics or WorkerMetrics(CollectorRegistry()), now_ms, CallLimits(**limits))
