"""Logins by a signed JSON Web Token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vault_pg.errors import LoginFailed
from vault_pg.settings import JwtAuth, KubernetesAuth
from vault_pg.vault.endpoints import Client, Grant
from vault_pg.vault.logins.login import Blocking, Supply, ask, content, either


@dataclass(frozen=True, slots=True)
class Kubernetes(Blocking):
    """The service account's token, read anew at each login."""

    auth: KubernetesAuth
    method: ClassVar[str] = "kubernetes"
    supply: ClassVar[Supply] = "repeatable"

    def login(self, client: Client) -> Grant:
        auth = self.auth
        token = content(auth.token_file, "Kubernetes", "service account's token")

        def log_in() -> object:
            return client.auth.kubernetes.login(auth.role, token, use_token=False, mount_point=auth.mount)

        return ask(client, "Kubernetes", auth.mount, "service account", log_in)


@dataclass(frozen=True, slots=True)
class Jwt(Blocking):
    """A JWT of any issuer that Vault trusts."""

    auth: JwtAuth
    method: ClassVar[str] = "jwt"
    supply: ClassVar[Supply] = "repeatable"

    def login(self, client: Client) -> Grant:
        auth = self.auth
        jwt = either(auth.jwt, auth.jwt_file, "JWT", "JWT")
        if jwt is None:
            raise LoginFailed("the JWT login failed: there is no JWT: set VAULT_PG_JWT_JWT or VAULT_PG_JWT_JWT_FILE")

        def log_in() -> object:
            return client.auth.jwt.jwt_login(auth.role, jwt, use_token=False, path=auth.mount)

        return ask(client, "JWT", auth.mount, "JWT", log_in)
