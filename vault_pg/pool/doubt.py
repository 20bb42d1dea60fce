"""After one connection has turned out dead, no other is handed out unasked."""

from __future__ import annotations

import asyncio
import math
from time import monotonic
from typing import Generic
from weakref import WeakSet

from psycopg_pool.abc import ACT, AsyncConnectionCB

from vault_pg.pool.check import ask
from vault_pg.pool.farewell import sever

PATIENCE = 2.0
"""Seconds for the answer. A connection that is silent for as long is taken for dead."""


class Doubt(Generic[ACT]):
    """A `check` for a pool that asks each connection once after every `raise_()`; what was opened since is above it.

    So a role that is dropped, or a server that is restarted, costs a client the query that it finds out by, and not one for each
    connection that it comes across. `also` is the check that the pool has anyway.
    """

    def __init__(self, also: AsyncConnectionCB[ACT] | None) -> None:
        self._also = also
        self._raised_at = -math.inf
        self._asked: WeakSet[ACT] = WeakSet()

    def raise_(self) -> None:
        self._raised_at = monotonic()
        self._asked.clear()

    def about(self, conn: ACT) -> bool:
        """It has still to be asked."""
        return getattr(conn, "_created_at", -math.inf) <= self._raised_at and conn not in self._asked

    async def check(self, conn: ACT) -> None:
        if self.about(conn):
            raised_at = self._raised_at
            alarm = asyncio.get_running_loop().call_later(PATIENCE, sever, conn)
            try:
                await ask(conn)
            finally:
                alarm.cancel()
            if raised_at == self._raised_at:
                self._asked.add(conn)
        if self._also is not None:
            await self._also(conn)
