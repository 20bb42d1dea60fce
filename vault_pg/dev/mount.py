"""A Vault of either kind, and a database mount of a test's own in it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import hvac
from pydantic import SecretStr

from vault_pg.dev.postgres import EmbeddedPostgres
from vault_pg.dev.provision import AppRoleLogin, RoleSpec, StaticRoleSpec, provision, provision_approle, service_policy


class VaultServer(Protocol):
    """What a test may use of the dev Vault and of a real one."""

    @property
    def address(self) -> str: ...
    @property
    def root_token(self) -> SecretStr: ...


def client_of(server: VaultServer, token: SecretStr | None = None) -> hvac.Client:
    """A client with `token`, or with the root token."""
    client = hvac.Client(url=server.address, token=(token or server.root_token).get_secret_value())
    # A proxy of whoever runs the tests must not be asked for 127.0.0.1.
    client.session.trust_env = False
    return client


@dataclass(frozen=True)
class Mount:
    """A database mount of a test's own, with a policy named like it. hvac's errors pass through."""

    server: VaultServer
    root: hvac.Client
    postgres: EmbeddedPostgres
    path: str

    @property
    def policy(self) -> str:
        return self.path

    def provision(self, roles: Mapping[str, RoleSpec], static_roles: Mapping[str, StaticRoleSpec] | None = None) -> None:
        """Set roles up, or anew; the policy then covers these."""
        provision(self.root, self.postgres, roles=roles, static_roles=static_roles, mount=self.path, policy=self.policy)

    def write_policy(self, text: str) -> None:
        self.root.sys.create_or_update_policy(self.policy, text)

    def service_policy(self, *roles: str) -> str:
        return service_policy(self.path, *roles)

    def token(self, ttl: str = "1h", **options: Any) -> SecretStr:
        """A service token with the policy, or what `options` of auth/token/create make of it."""
        options.setdefault("policies", [self.policy])
        answer = self.root.auth.token.create(ttl=ttl, **options)
        return SecretStr(answer["auth"]["client_token"])

    def approle(self, name: str = "", **options: Any) -> AppRoleLogin:
        """A login with the policy. `options` are those of provision_approle."""
        options.setdefault("policies", [self.policy])
        return provision_approle(self.root, name or self.path, **options)

    def client(self, token: SecretStr | None = None) -> hvac.Client:
        """A client with `token`, or with a new service token of the policy."""
        return client_of(self.server, token or self.token())

    def leases(self, role: str = "app") -> list[str]:
        """The ids of the role's living leases."""
        try:
            answer = self.root.sys.list_leases(f"{self.path}/creds/{role}/")
        except hvac.exceptions.InvalidPath:
            return []
        return [f"{self.path}/creds/{role}/{key}" for key in answer["data"]["keys"]]


@contextmanager
def mounted(server: VaultServer, postgres: EmbeddedPostgres, roles: Mapping[str, RoleSpec]) -> Iterator[Mount]:
    """A mount with `roles`; at the end its leases are revoked and it is taken away."""
    root = client_of(server)
    mount = Mount(server, root, postgres, f"db-{secrets.token_hex(4)}")
    mount.provision(roles)
    try:
        yield mount
    finally:
        postgres.start()
        root.sys.revoke_force(f"{mount.path}/")
        root.sys.disable_secrets_engine(mount.path)
        root.sys.delete_policy(mount.policy)
        root.adapter.close()
