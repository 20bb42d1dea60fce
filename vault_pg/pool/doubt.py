"""After one connection has turned out dead, no other is handed out unasked."""

from __future__ import annotations

import math
from time import monotonic
from typing import Generic
from weakref import WeakSet

from psycopg_pool.abc import ACT, AsyncConnectionCB

from vault_pg.pool.check import ask


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

    async def check(self, conn: ACT) -> None:
        if conn not in self._asked and getattr(conn, "_created_at", -math.inf) <= self._raised_at:
            await ask(conn)
            self._asked.add(conn)
        if self._also is not None:
            await self._also(conn)
