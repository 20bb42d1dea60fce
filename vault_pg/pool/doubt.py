"""After one connection has turned out dead, no other is handed out unasked."""

from __future__ import annotations

import asyncio
import math
from time import monotonic
from typing import Any, Generic
from weakref import WeakSet

import psycopg
from psycopg_pool.abc import ACT, AsyncConnectionCB

from vault_pg.pool.check import ask
from vault_pg.pool.farewell import sever

PATIENCE = 2.0
"""Seconds for the answer. A connection that is silent for as long is taken for dead."""


class Doubt(Generic[ACT]):
    """A `check` for a pool that asks before it hands out what may be dead; what was opened since the doubt is above it.

    So a role that is dropped, or a server that is restarted, costs a client the query that it finds out by, and not one for each
    connection that it comes across. A connection that may be lost has to answer itself. That a role lives, one connection of it says
    for all: a statement that may not do what it tries costs one question, however often it is tried. `also` is the check that the pool
    has anyway.
    """

    def __init__(self, also: AsyncConnectionCB[ACT] | None) -> None:
        self._also = also
        self._lost_at = self._role_at = -math.inf
        self._asked: WeakSet[ACT] = WeakSet()
        self._living: set[bytes] = set()

    def raise_(self, *, role: bool, lost: bool) -> None:
        if role:
            self._role_at = monotonic()
            self._living.clear()
        if lost:
            self._lost_at = monotonic()
            self._asked.clear()

    def about(self, conn: ACT) -> bool:
        """It has still to be asked."""
        opened_at = getattr(conn, "_created_at", -math.inf)
        return (opened_at <= self._lost_at and conn not in self._asked) or (
            opened_at <= self._role_at and _user(conn) not in self._living
        )

    async def check(self, conn: ACT) -> None:
        if self.about(conn):
            lost_at, role_at = self._lost_at, self._role_at
            alarm = asyncio.get_running_loop().call_later(PATIENCE, sever, conn)
            try:
                await ask(conn)
            finally:
                alarm.cancel()
            if lost_at == self._lost_at:
                self._asked.add(conn)
            if role_at == self._role_at:
                self._living.add(_user(conn))
        if self._also is not None:
            await self._also(conn)


def _user(conn: psycopg.AsyncConnection[Any]) -> bytes:
    """Who logged in; nobody on a connection that is closed."""
    try:
        return conn.pgconn.user
    except psycopg.OperationalError:
        return b""
