"""Fixtures for the tests of services: a throw-away PostgreSQL, a dev Vault, and its bad days. PYTEST_DONT_REWRITE

A conftest at the top of the tests asks for them by `pytest_plugins = ["vault_pg.testing"]`; docs/testing.md tells what they do. They
are plain functions, so that they go with pytest-asyncio, with anyio and with neither.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, TypeAlias

import pytest

try:
    from vault_pg.dev import DevError, DevVault, EmbeddedPostgres, Faults, RoleSpec
    from vault_pg.dev.mount import Mount, VaultServer, mounted
    from vault_pg.dev.real import real_vault
except ImportError as error:  # psycopg comes without a libpq of its own
    raise pytest.UsageError(f"vault_pg.testing lacks a library ({error}): install it with  pip install 'vault_pg[dev]'") from None

from vault_pg.settings import AppRoleAuth, DatabaseSettings, Settings, VaultSettings

__all__ = [
    "DevVault",
    "EmbeddedPostgres",
    "Faults",
    "MakeMount",
    "MakeSettings",
    "Mount",
    "RoleSpec",
    "VaultServer",
    "vault_pg_environment",
    "vault_pg_faults",
    "vault_pg_mount",
    "vault_pg_own_environment",
    "vault_pg_postgres",
    "vault_pg_settings",
    "vault_pg_vault",
]

MakeMount: TypeAlias = Callable[..., Mount]
MakeSettings: TypeAlias = Callable[..., Settings]

REAL_VAULT = "VAULT_PG_TEST_VAULT"
"""The variable that names the program of a real Vault."""

FOREIGN = ("VAULT_", "PG")
"""How variables begin that would have a say in where a service finds Vault and PostgreSQL, and in how it logs in."""

TOKEN_TTL = 3600


@pytest.fixture(scope="session")
def vault_pg_postgres() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL of the session's own; whoever stops it starts it again, best with `down()`."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(EmbeddedPostgres())
        except DevError as error:
            pytest.fail(str(error), pytrace=False)
        yield server


@pytest.fixture(scope="session")
def vault_pg_vault() -> Iterator[VaultServer]:
    """The dev Vault of the session, or a real `vault server -dev` where VAULT_PG_TEST_VAULT names the program."""
    binary = os.environ.get(REAL_VAULT)
    with ExitStack() as stack:
        try:
            server: VaultServer = stack.enter_context(real_vault(binary)) if binary else stack.enter_context(DevVault())
        except DevError as error:
            pytest.fail(str(error), pytrace=False)
        yield server


@pytest.fixture
def vault_pg_own_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Takes the variables of whoever runs the tests away (VAULT_*, PG*) for as long as the test runs."""
    for name in list(os.environ):
        if name.startswith(FOREIGN) and name != REAL_VAULT:
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.fixture
def vault_pg_mount(vault_pg_vault: VaultServer, vault_pg_postgres: EmbeddedPostgres) -> Iterator[MakeMount]:
    """Makes database mounts of the test's own: `vault_pg_mount(default_ttl=60, max_ttl=600)` has one role, `app`, with these TTLs in
    seconds, and `vault_pg_mount(roles={"app": RoleSpec(...), ...})` any. At the end their leases are revoked and they are taken away.
    """

    def make(roles: Mapping[str, RoleSpec] | None = None, **options: Any) -> Mount:
        return stack.enter_context(mounted(vault_pg_vault, vault_pg_postgres, roles or {"app": RoleSpec(**options)}))

    with ExitStack() as stack:
        yield make
        _calm(vault_pg_vault)  # a sealed Vault would not let the mounts go


@pytest.fixture
def vault_pg_settings(
    vault_pg_mount: MakeMount,
    vault_pg_own_environment: pytest.MonkeyPatch,  # noqa: ARG001 - what settings leave open would come from there
) -> MakeSettings:
    """Makes Settings that are ready for `LeaseManager(settings)`, with an AppRole to log in by.

    `vault_pg_settings(default_ttl=60, max_ttl=600, max_size=2)`: TTLs in seconds, all else are fields of DatabaseSettings. With
    `mount=` it is a mount that `vault_pg_mount` made, and with `role=` another role of it than `app`.
    """

    def make(
        mount: Mount | None = None, role: str = "app", *, default_ttl: int = 3600, max_ttl: int = 86400, **database: Any
    ) -> Settings:
        mount = mount or vault_pg_mount({role: RoleSpec(default_ttl, max_ttl)})
        login = mount.approle(token_ttl=TOKEN_TTL)
        return Settings(
            vault=VaultSettings(address=mount.server.address, auth=AppRoleAuth(role_id=login.role_id, secret_id=login.secret_id)),
            databases={
                "default": DatabaseSettings(**{"conninfo": mount.postgres.conninfo(), **database}, role=role, mount=mount.path)
            },
            status_socket=False,
        )

    return make


@pytest.fixture
def vault_pg_environment(
    vault_pg_mount: MakeMount, vault_pg_own_environment: pytest.MonkeyPatch
) -> Callable[..., dict[str, str]]:
    """Sets the variables that a `LeaseManager()` without arguments reads, for as long as the test runs, and returns them.

    `vault_pg_environment(default_ttl=60, max_ttl=600, VAULT_PG_MAX_SIZE="2")`: TTLs in seconds, all else are variables; `mount=` and
    `role=` as with `vault_pg_settings`.
    """

    def make(
        mount: Mount | None = None, role: str = "app", *, default_ttl: int = 3600, max_ttl: int = 86400, **variables: str
    ) -> dict[str, str]:
        mount = mount or vault_pg_mount({role: RoleSpec(default_ttl, max_ttl)})
        login = mount.approle(token_ttl=TOKEN_TTL)
        environment = {
            "VAULT_ADDR": mount.server.address,
            "VAULT_PG_AUTH": "approle",
            "VAULT_PG_APPROLE_ROLE_ID": login.role_id,
            "VAULT_PG_APPROLE_SECRET_ID": login.secret_id.get_secret_value(),
            "VAULT_PG_ROLE": role,
            "VAULT_PG_MOUNT": mount.path,
            "VAULT_PG_CONNINFO": mount.postgres.conninfo(),
            "VAULT_PG_STATUS_SOCKET": "false",
            **variables,
        }
        for name, value in environment.items():
            vault_pg_own_environment.setenv(name, value)
        return environment

    return make


@pytest.fixture
def vault_pg_faults(vault_pg_vault: VaultServer) -> Iterator[Faults]:
    """The faults of the dev Vault; all end with the test. Skips the test where the Vault is a real one."""
    if not isinstance(vault_pg_vault, DevVault):
        pytest.skip("needs failures on demand, which a real Vault does not have")
    yield vault_pg_vault.faults
    _calm(vault_pg_vault)


def _calm(server: VaultServer) -> None:
    if isinstance(server, DevVault):
        server.faults.clear()
