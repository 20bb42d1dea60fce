"""The servers that tests run against: the dev Vault, or a real one where VAULT_PG_TEST_VAULT names a binary; and what PostgreSQL sees."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from tests import leaks
from vault_pg.dev import DevVault, EmbeddedPostgres
from vault_pg.dev.mount import Mount, VaultServer, client_of, mounted
from vault_pg.dev.real import real_vault

__all__ = ["REAL_VAULT", "DatabaseView", "Mount", "VaultServer", "any_vault", "client_of", "dev_vault", "mounted"]

REAL_VAULT = os.environ.get("VAULT_PG_TEST_VAULT")


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
