"""The lifetime of a HotSwapPool: opened, filled, resized, and its end."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from types import TracebackType
from typing import Self

from psycopg import OperationalError
from psycopg_pool import PoolClosed
from psycopg_pool.abc import ACT

from vault_pg.errors import DatabaseError, NoCredential
from vault_pg.pool.connector import Connector
from vault_pg.pool.generation import RETIRE_GRACE
from vault_pg.pool.stock import pool_logger
from vault_pg.pool.succession import Succession

logger = logging.getLogger("vault_pg.pool")


class Lifetime(Succession[ACT]):
    """What else a pool does, to all of its generations."""

    __slots__ = ()

    async def open(self, wait: bool = False, timeout: float = 30.0) -> None:
        """Open the pool; with `wait`, return when `min_size` connections are ready, or raise PoolTimeout after `timeout` seconds."""
        if self._closed:
            self._check_open()
            await self._current.pool.open()
            self._closed, self._opened = False, True
        if wait:
            await self.wait(timeout)

    async def __aenter__(self) -> Self:
        self._current.pool._open_implicit = False  # opened here and now, so psycopg_pool need not warn
        await self.open()
        return self

    async def wait(self, timeout: float = 30.0) -> None:
        """Wait for `min_size` connections; after `timeout` seconds close the pool and raise PoolTimeout."""
        self._check_open_getconn()
        deadline = monotonic() + timeout
        while True:
            generation = self._current
            try:
                await generation.fill(max(0.0, deadline - monotonic()))
            except (OperationalError, NoCredential, DatabaseError):
                if generation is not self._current and not self._closed:
                    continue  # replaced while we waited
                if not self._managed:
                    await self.close()
                raise
            if not generation.retired:
                return
            self._check_serving()  # replaced while we waited, or refused

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, timeout: float = 5.0) -> None:
        """Close the pool as psycopg_pool does: who waits fails with PoolClosed, connections that are out close on their return.

        Those of a replaced pool still have the deadline that `replace()` gave them.
        """
        if self._managed and not self._closed:
            logger.info("pool %r is not closed: the LeaseManager that keeps it will", self.name)
            return
        await self._end(timeout, drain_timeout=None)

    async def finish(self, drain_timeout: float) -> None:
        """Take no more checkouts, give borrowers `drain_timeout` seconds, cut off who is left, and close."""
        await self._end(RETIRE_GRACE, drain_timeout=drain_timeout)

    async def _end(self, timeout: float, *, drain_timeout: float | None) -> None:
        """Once begun it goes on to its end, even if the caller is cancelled; who calls again waits for the same end."""
        if self._ending is None or self._ending.cancelled():
            if self._ending is None and self._closed:
                return
            self._closed = True
            self._line.fail(lambda: PoolClosed(f"the pool {self.name!r} is closed"))
            self._ending = asyncio.create_task(self._end_all(timeout, drain_timeout), name=f"{self.name}-end")
        await asyncio.shield(self._ending)

    async def _end_all(self, timeout: float, drain_timeout: float | None) -> None:
        now = asyncio.get_running_loop().time()
        for generation in self._alive():
            generation.outgoing = generation.retired = True
            if drain_timeout is not None:
                generation.hurry(now + drain_timeout)
        drain = self._current.drain
        if drain_timeout is not None and (drain is None or drain.cancelled()):
            self._end_generation(self._current, drain_timeout)
        if drain_timeout is not None:
            await self.drained()
        else:
            await self._current.pool.close(timeout)
            for generation in self._outgoing:
                await generation.pool.close(timeout)

    def cut(self) -> None:
        """Close every connection of every pool there was, here and now: what is left to do for one that could not end in order."""
        for pool in self._all_pools():
            connector = pool.connection_class
            for conn in connector.opened if isinstance(connector, Connector) else [*pool._pool]:
                conn.pgconn.finish()
        for conn in self._borrowed:
            conn.pgconn.finish()

    async def resize(self, min_size: int, max_size: int | None = None) -> None:
        """Change the size of the pool; replacing pools keep their own. One that gets narrower closes what it has too much as psycopg_pool
        does, one connection each `max_idle` seconds, and the rest before it is replaced.
        """
        self._min_size, self._max_size = self._check_size(min_size, max_size)
        pool_logger.info("resizing %r to min_size=%s max_size=%s", self.name, self._min_size, self._max_size)
        self._current.resize(self._min_size, self._max_size, at_once=not self._outgoing and not self._replacing.locked())
        if not self._replacing.locked():
            self._make_room()

    async def check(self) -> None:
        """Verify the idle connections; replace the broken ones."""
        await self._current.check()

    async def drain(self) -> None:
        """Replace every connection of the current pool by a new one with the same credential."""
        await self._current.renew()
