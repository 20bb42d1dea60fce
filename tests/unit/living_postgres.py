"""A PostgreSQL in memory whose roles are those of a living Vault's leases: sessions outlive their roles, and can do nothing then."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, ClassVar, Self, cast

import psycopg
from psycopg import errors as pg
from psycopg.pq import ConnStatus, TransactionStatus
from psycopg.pq.abc import PGconn

from tests.unit.living_vault import LivingVault

LOST = "server closed the connection unexpectedly"
ORDERS = "select count(*) from orders"
FORBIDDEN = "select * from forbidden"


class _PGconn:
    def __init__(self, server: LivingPostgres, user: str) -> None:
        self.server, self.user = server, user
        self.status, self.transaction_status = ConnStatus.OK, TransactionStatus.IDLE

    def finish(self) -> None:
        if self.status is ConnStatus.OK:
            self.server.sessions[self.user] -= 1
        self.status, self.transaction_status = ConnStatus.BAD, TransactionStatus.UNKNOWN


class LivingConnection(psycopg.AsyncConnection[Any]):
    server: ClassVar[LivingPostgres]
    user: str
    running: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<connection of {self.user}>"

    @classmethod
    async def connect(cls, _conninfo: str = "", **kwargs: Any) -> Self:  # type: ignore[override] # no options of libpq's
        server, user = cls.server, kwargs["user"]
        await asyncio.sleep(server.latency)
        server.let_in(user, kwargs["password"])
        server.sessions[user] += 1
        conn = cls(cast(PGconn, _PGconn(server, user)))
        conn.user = user
        server.open = [known for known in server.open if not known.closed] + [conn]
        return conn

    async def execute(self, query: str, *_: object, **__: object) -> Any:  # type: ignore[override] # no parameters
        if self.closed:
            raise psycopg.OperationalError("the connection is closed")
        loop = asyncio.get_running_loop()
        self.running = loop.create_future()
        alarm = loop.call_later(self.server.latency, _succeed, self.running)
        self._enter(TransactionStatus.ACTIVE)
        try:
            await self.running
            self.server.run(self.user, query)
        except asyncio.CancelledError:
            self._enter(TransactionStatus.INERROR)
            raise
        except psycopg.Error:
            self._enter(TransactionStatus.IDLE if self._autocommit else TransactionStatus.INERROR)
            raise
        finally:
            alarm.cancel()
            self.running = None
        self._enter(TransactionStatus.IDLE if self._autocommit else TransactionStatus.INTRANS)

    def _enter(self, status: TransactionStatus) -> None:
        if not self.closed:
            self.pgconn.transaction_status = status  # type: ignore[misc] # libpq's own is read-only

    async def _end_transaction(self) -> None:
        if self.closed:
            raise psycopg.OperationalError("the connection is closed")
        self._enter(TransactionStatus.IDLE)

    async def commit(self) -> None:
        await self._end_transaction()

    async def rollback(self) -> None:
        await self._end_transaction()

    async def set_autocommit(self, value: bool) -> None:
        self._autocommit = value

    async def cancel_safe(self, *, timeout: float = 30.0) -> None:
        if self.running is not None and not self.running.done():
            self.running.set_exception(pg.QueryCanceled("canceling statement due to user request"))

    def sever(self) -> None:
        """The other end of the socket is gone."""
        self.pgconn.finish()
        if self.running is not None and not self.running.done():
            self.running.set_exception(psycopg.OperationalError(LOST))

    def fileno(self) -> int:
        raise psycopg.OperationalError("no socket in memory")


class LivingPostgres:
    def __init__(self, vault: LivingVault) -> None:
        self.vault = vault
        self.open: list[LivingConnection] = []
        self.sessions: Counter[str] = Counter()
        """Open ones, by user."""
        self.latency = 0.01
        """Seconds that a login takes, and a statement."""
        self.connection_class: Any = type("Connection", (LivingConnection,), {"server": self})

    def restart(self) -> None:
        for conn in self.open:
            conn.sever()

    def let_in(self, user: str, password: str) -> None:
        if self.vault.weather.postgres_down:
            raise psycopg.OperationalError("connection failed: connection refused")
        if password != f"pw-{user}" or not self.vault.has_role(user):
            raise psycopg.OperationalError(f'connection failed: FATAL:  password authentication failed for user "{user}"')

    def run(self, user: str, query: str) -> None:
        if not self.vault.has_role(user):
            if "_user" in query:
                raise pg.UndefinedObject(f'role "{user}" does not exist')
            raise pg.InsufficientPrivilege("permission denied for table orders")
        if query == FORBIDDEN:
            raise pg.InsufficientPrivilege("permission denied for table forbidden")


def _succeed(running: asyncio.Future[None]) -> None:
    if not running.done():
        running.set_result(None)
