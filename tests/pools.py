"""Pools on the real PostgreSQL, of its superuser or of a role that can be dropped."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool
from pydantic import SecretStr

from tests import leaks
from vault_pg import HotSwapPool
from vault_pg.dev import EmbeddedPostgres

Pool: TypeAlias = AsyncConnectionPool[psycopg.AsyncConnection[Any]]
Holder: TypeAlias = HotSwapPool[psycopg.AsyncConnection[Any]]
MakePool: TypeAlias = Callable[..., Pool]

PATIENCE = 30.0
"""Seconds for a checkout that must come."""


def pool_of(conninfo: str, *, min_size: int = 1, max_size: int = 2, **options: Any) -> Pool:
    return AsyncConnectionPool(conninfo, min_size=min_size, max_size=max_size, open=False, **options)


@asynccontextmanager
async def holding(pool: Pool, **options: Any) -> AsyncIterator[Holder]:
    async with HotSwapPool(pool, name="held", **options) as holder:
        await holder.wait(PATIENCE)
        yield holder


async def numbers(conninfo: str) -> list[int]:
    """What the table `ledger` holds."""
    async with await psycopg.AsyncConnection.connect(conninfo) as conn:
        return [n for (n,) in await (await conn.execute("select n from ledger order by n")).fetchall()]


@dataclass
class Role:
    """A role like Vault's: it is in a group that has the rights, and is dropped under its sessions."""

    postgres: EmbeddedPostgres
    name: str = field(default_factory=lambda: f"v-test-{secrets.token_hex(4)}")
    password: SecretStr = field(default_factory=lambda: SecretStr(secrets.token_hex(16)))

    def create(self) -> None:
        self._admin("CREATE ROLE {} LOGIN IN ROLE app_readwrite", sql.Identifier(self.name))
        self._admin("ALTER ROLE {} PASSWORD {}", sql.Identifier(self.name), sql.Literal(self.password.get_secret_value()))

    def drop(self) -> None:
        self._admin("DROP ROLE IF EXISTS {}", sql.Identifier(self.name))

    def let_become(self, other: str) -> None:
        """Allow SET ROLE."""
        self._admin("GRANT {} TO {}", sql.Identifier(other), sql.Identifier(self.name))

    def leave(self, group: str) -> None:
        """Take the group's rights away."""
        self._admin("REVOKE {} FROM {}", sql.Identifier(group), sql.Identifier(self.name))

    def allow_sessions(self, most: int) -> None:
        """The server has no slot for more: "too many connections"."""
        self._admin("ALTER ROLE {} CONNECTION LIMIT {}", sql.Identifier(self.name), sql.Literal(most))

    def pool(self, **options: Any) -> Pool:
        return pool_of(self.conninfo, **options)

    @property
    def conninfo(self) -> str:
        return make_conninfo(self.postgres.conninfo(), user=self.name, password=self.password.get_secret_value())

    def _admin(self, statement: str, *parts: sql.Composable) -> None:
        with self.postgres.admin() as conn:
            conn.execute(sql.SQL(statement).format(*parts))


@contextmanager
def role_in(postgres: EmbeddedPostgres) -> Iterator[Role]:
    role = Role(postgres)
    with leaks.watched(lambda: [role.password.get_secret_value()]):
        role.create()
        try:
            yield role
        finally:
            role.drop()
