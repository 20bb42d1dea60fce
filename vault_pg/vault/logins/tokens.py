"""Tokens that somebody else got."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import SecretStr

from vault_pg.errors import TokenInvalid
from vault_pg.vault.answers import origin
from vault_pg.vault.endpoints import Client, Grant, look_up_self
from vault_pg.vault.logins.login import Blocking, Supply, content


@dataclass(frozen=True, slots=True)
class GivenToken(Blocking):
    """It is looked up, renewed, and never revoked."""

    token: SecretStr
    method: ClassVar[str] = "token"
    supply: ClassVar[Supply] = "given"

    def login(self, client: Client) -> Grant:
        client.token = self.token.get_secret_value()
        return look_up_self(client)


@dataclass(frozen=True, slots=True)
class TokenFile(Blocking):
    """A file with a token, which somebody (an agent) rewrites when there is a new one."""

    file: Path
    method: ClassVar[str] = "token"
    supply: ClassVar[Supply] = "watched"

    def read(self, _client: Client | None = None) -> SecretStr:
        """The token that stands in the file now. Raises LoginFailed."""
        return SecretStr(content(self.file, "token", "token"))

    def login(self, client: Client) -> Grant:
        client.token = self.read().get_secret_value()
        try:
            return look_up_self(client)
        except TokenInvalid:
            pass
        raise TokenInvalid(
            f"Vault at {origin(client.url)} does not accept the token in {self.file} (expired, revoked or half written): "
            "put a new one there; it will be noticed"
        )


@dataclass(frozen=True, slots=True)
class AgentToken(Blocking):
    """The token that a Vault Agent or Proxy puts on each request. We never see it, only what Vault says of it."""

    method: ClassVar[str] = "agent"
    supply: ClassVar[Supply] = "proxied"

    def login(self, client: Client) -> Grant:
        client.token = ""
        try:
            return look_up_self(client)
        except TokenInvalid:
            pass
        raise TokenInvalid(
            f"Vault at {origin(client.url)} adds no token that lives to our requests: the agent there needs auto_auth and "
            "use_auto_auth_token = true; look at its log"
        )
