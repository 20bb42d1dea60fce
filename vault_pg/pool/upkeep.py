"""The upkeep of a pool's connections, all of them at once: filled, verified, renewed, resized."""

from __future__ import annotations

import asyncio
from time import monotonic

from psycopg_pool import PoolTimeout
from psycopg_pool._acompat import AEvent
from psycopg_pool.abc import ACT
from psycopg_pool.pool_async import AddConnection

from vault_pg.pool.stock import Stock, pool_logger


class Upkeep(Stock[ACT]):
    """What psycopg_pool's `wait()`, `check()`, `drain()` and `resize()` do."""

    _filling = 0
    """Calls that wait for the pool to be full."""

    async def fill(self, timeout: float) -> None:
        """Return once the pool has `min_size` idle connections, or can open one if it keeps none. Raises PoolTimeout and PoolClosed."""
        pool = self.pool
        pool._check_open_getconn()
        if not self.queues_itself and len(pool._pool) >= pool._min_size:
            return
        pool_logger.info("waiting for pool %r initialization", pool.name)
        try:
            if self.queues_itself:
                await self._show(monotonic() + timeout)
            else:
                async with asyncio.timeout(timeout):
                    await self._filled()
        except (PoolTimeout, TimeoutError):
            raise PoolTimeout(f"pool initialization incomplete after {timeout} sec") from None
        pool_logger.info("pool %r is ready to use", pool.name)

    async def _filled(self) -> None:
        """All who wait share one event: psycopg_pool makes one for each wait, and one that was cancelled is in the way of the next."""
        pool = self.pool
        full = pool._pool_full_event = pool._pool_full_event or AEvent()
        self._filling += 1
        try:
            await full.wait()
        finally:
            self._filling -= 1
            if pool._pool_full_event is full and (full.is_set() or not self._filling):
                pool._pool_full_event = None

    async def _show(self, deadline: float) -> None:
        """As a client does, but a login that fails is tried again, by psycopg_pool's own workers."""
        pool = self.pool
        if self._has_room:
            pool._nconns += 1
            pool.run_task(AddConnection(pool))
        if (conn := await self._wait(deadline)) is not None and (closing := self._put_aside(conn)) is not None:
            await asyncio.shield(closing)

    async def check(self) -> None:
        """Verify the idle connections one after the other, and replace those that are broken or too old."""
        pool = self.pool
        if not pool.closed and not pool._pool and not self.queues_itself:
            pool._maybe_grow_pool()
        for conn in [*pool._pool]:
            if conn not in pool._pool:
                continue  # somebody has it, and will see
            pool._pool.remove(conn)
            self.in_use += 1
            try:
                await self._verify(conn)
            finally:
                # Not through the reset hook, which is for what clients return.
                if self._put_at_once(conn):
                    self.came_back(conn)
                elif (putting := self.put(conn, from_getconn=True)) is not None:
                    await asyncio.shield(putting)

    async def _verify(self, conn: ACT) -> None:
        if conn._expire_at <= monotonic():
            return  # it is discarded when it is put back
        try:
            with self._asking(conn):
                await self.pool.check_connection(conn)
        except BaseException as error:
            conn.pgconn.finish()
            pool_logger.warning("discarding broken connection: %s", conn)
            if not isinstance(error, Exception):
                raise

    async def renew(self) -> None:
        """Replace every connection: those that are out when they come back."""
        pool = self.pool
        pool._drained_at = monotonic()
        idle = [*pool._pool]
        pool._pool.clear()
        await asyncio.shield(self._run(self._open_anew(idle), "renew"))

    async def _open_anew(self, idle: list[ACT]) -> None:
        pool = self.pool
        for conn in idle:
            if not pool.closed:
                pool.run_task(AddConnection(pool))
            await pool._close_connection(conn)

    def set_sizes(self, min_size: int, max_size: int) -> None:
        """Sizes as of now. What is missing is opened in the background, and no more than that: psycopg_pool opens the difference of the
        two min_sizes, whatever it has, and so more than max_size.
        """
        pool = self.pool
        pool._min_size, pool._max_size = min_size, max_size
        if self.queues_itself:
            self.offer_room()
            return
        if not pool._opened:
            pool._nconns = pool._nconns_min = min_size
        while pool._nconns < min_size and not pool.closed:
            pool._nconns += 1
            pool.run_task(AddConnection(pool))
