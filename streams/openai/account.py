"""An account at OpenAI, or at a server that speaks as OpenAI does."""

import ssl
from dataclasses import dataclass

from pydantic import SecretStr

from streams.provider import account_name


@dataclass(frozen=True, slots=True)
class OpenAIAccount:
    """Where the API is, and what it is asked with. With an empty key no `Authorization` is sent."""

    base_url: str
    api_key: SecretStr
    organization: str | None = None
    project: str | None = None
    tls: ssl.SSLContext | None = None
    """Trusted certificates and a certificate to show; the environment's if None."""

    @property
    def name(self) -> str:
        return account_name(self.base_url, self.api_key.get_secret_value(), self.organization, self.project)
