"""The servers that tests run against: the dev Vault, or a real one where VAULT_PG_TEST_VAULT names a binary; and what PostgreSQL sees."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import hvac
import requests
from psycopg import sql
from pydantic import SecretStr

from tests import leaks
from tests.waiting import until
from vault_pg.dev import (
    AppRoleLogin,
    DevVault,
    EmbeddedPostgres,
    RoleSpec,
    StaticRoleSpec,
    provision,
    provision_approle,
    service_policy,
)

REAL_VAULT = os.environ.get("VAULT_PG_TEST_VAULT")


class VaultServer(Protocol):
    """What tests may use of either."""

    @property
    def address(self) -> str: ...
    @property
    def root_token(self) -> SecretStr: ...


@dataclass(frozen=True)
class RealVault:
    """A `vault server -dev`."""

    address: str
    root_token: SecretStr


@contextmanager
def real_vault(binary: str) -> Iterator[RealVault]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{probe.getsockname()[1]}"
    server = RealVault(f"http://{listen}", SecretStr(f"root-{secrets.token_hex(12)}"))
    command = [binary, "server", "-dev", "-dev-no-store-token", f"-dev-listen-address={listen}"]
    environment = {**os.environ, "VAULT_DEV_ROOT_TOKEN_ID": server.root_token.get_secret_value()}
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        until(lambda: _healthy(server, process), "the real Vault answers")
        yield server
    finally:
        process.terminate()
        process.wait()


def _healthy(server: RealVault, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "the real Vault ended; start it by hand to see why"
    try:
        return requests.get(f"{server.address}/v1/sys/health", timeout=5).ok
    except requests.ConnectionError:
        return False


@contextmanager
def dev_vault(**options: Any) -> Iterator[DevVault]:
    """A dev Vault whose secrets no test may show."""
    with DevVault(**options) as server, leaks.watched(server.secrets):
        yield server


@contextmanager
def any_vault() -> Iterator[VaultServer]:
    """The server of this run: the dev Vault, or the real one that was asked for."""
    if REAL_VAULT:
        with real_vault(REAL_VAULT) as server, leaks.watched(lambda: [server.root_token.get_secret_value()]):
            yield server
    else:
        with dev_vault(revoke_retry_base=0.5) as dev:
            yield dev


def client_of(server: VaultServer, token: SecretStr | None = None) -> hvac.Client:
    """A client with `token`, or with the root token."""
    client = hvac.Client(url=server.address, token=(token or server.root_token).get_secret_value())
    # A proxy of whoever runs the tests must not be asked for 127.0.0.1.
    client.session.trust_env = False
    return client


@dataclass(frozen=True)
class DatabaseView:
    """What the administrator of PostgreSQL sees."""

    postgres: EmbeddedPostgres

    def roles(self, like: str = "v-%") -> set[str]:
        """The leased roles that exist."""
        with self.postgres.admin() as conn:
            return {name for (name,) in conn.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE %s", [like])}

    def sessions(self, like: str = "v-%") -> int:
        """Server connections that leased roles hold. A role that was dropped under a session still counts, by its missing name."""
        count = (
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND (usename LIKE %s OR usename IS NULL)"
        )
        with self.postgres.admin() as conn:
            row = conn.execute(count, [like]).fetchone()
            assert row is not None
            return int(row[0])

    def execute(self, statement: str, *names: str) -> None:
        """Run `statement` as superuser; each {} becomes one of `names`, quoted."""
        with self.postgres.admin() as conn:
            conn.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


@dataclass(frozen=True)
class Mount:
    """A database mount of a test's own, with a policy named like it."""

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
