"""PostgreSQL in memory, as far as a pool looks at it: connections that open at once, or fail on demand, in virtual time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import psycopg
from psycopg.pq import ConnStatus, TransactionStatus

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn


class _PGconn:
    """As much of libpq's connection as is looked at."""

    def __init__(self) -> None:
        self.status = ConnStatus.OK
        self.transaction_status = TransactionStatus.IDLE

    def finish(self) -> None:
        self.status, self.transaction_status = ConnStatus.BAD, TransactionStatus.UNKNOWN


class MemoryConnection(psycopg.AsyncConnection[Any]):
    """Opened ones are counted by their server, which makes a class of its own of this one."""

    server: ClassVar[MemoryPostgres]
    user: str

    @classmethod
    async def connect(cls, _conninfo: str = "", **kwargs: Any) -> Self:  # type: ignore[override] # no options of libpq's
        await asyncio.sleep(cls.server.latency)
        if cls.server.failure is not None:
            raise cls.server.failure
        if cls.server.passwords.get(kwargs["user"], kwargs["password"]) != kwargs["password"]:
            raise psycopg.OperationalError(f'FATAL:  password authentication failed for user "{kwargs["user"]}"')
        conn = cls(cast("PGconn", _PGconn()))
        conn.user = kwargs["user"]
        cls.server.open.append(conn)
        return conn

    async def execute(self, query: str, *_: object, **__: object) -> Any:  # type: ignore[override] # no parameters
        self.server.executed.append((self.user, query))

    async def rollback(self) -> None: ...

    async def commit(self) -> None: ...

    async def close(self) -> None:
        if not self.closed:
            self.server.open.remove(self)
        await super().close()

    def fileno(self) -> int:
        raise psycopg.OperationalError("no socket in memory")


class MemoryPostgres:
    def __init__(self) -> None:
        self.open: list[MemoryConnection] = []
        self.executed: list[tuple[str, str]] = []
        self.failure: psycopg.Error | None = None
        self.passwords: dict[str, str] = {}
        """Of the users who have to give the right one."""
        self.latency = 0.01
        """Seconds that a login takes."""
        self.connection_class: Any = type("Connection", (MemoryConnection,), {"server": self})

    @property
    def users(self) -> set[str]:
        return {conn.user for conn in self.open}
