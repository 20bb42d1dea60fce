"""A checkout that takes an idle connection, or none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING

from psycopg_pool.abc import ACT

from vault_pg.pool.doubt import PATIENCE
from vault_pg.pool.farewell import sever
from vault_pg.pool.generation import Generation, Place
from vault_pg.pool.stock import pool_logger

if TYPE_CHECKING:
    from vault_pg.pool.holder import HotSwapPool


@asynccontextmanager
async def idle_checkout(holder: HotSwapPool[ACT], place: Place) -> AsyncIterator[ACT | None]:
    """As `connection()`, or None if none is idle."""
    conn = await _take(holder, place)
    if conn is None:
        yield None
        return
    start = monotonic()
    try:
        async with conn:
            yield conn
    except BaseException as error:
        holder._doubt(conn, error)
        raise
    finally:
        await holder.putconn(conn)
        holder._used(monotonic() - start)


async def _take(holder: HotSwapPool[ACT], place: Place) -> ACT | None:
    """An idle connection that passes the pool's check, if there is one; each is tried once."""
    pool_logger.info("connection requested from %r", holder.name)
    holder._check_serving()
    for _ in range(sum(generation.available for generation in holder._alive())):
        if (generation := _with_idle(holder)) is None:
            return None
        # No await from the look to the taking: nobody else can have it, and there is nothing to wait for.
        conn = generation.take_idle()
        generation.in_use += 1
        if generation.pool._check is not None and not await _passes(generation, conn):
            continue
        if generation.overdue:  # its drain ended during the check
            await holder._part_with(conn, generation)
            holder._check_serving()
            continue
        conn._pool = holder
        holder._borrowed[conn] = (generation, monotonic(), asyncio.current_task(), place)
        holder._stats[holder._REQUESTS_NUM] += 1
        pool_logger.info("connection given by %r", holder.name)
        return conn
    return None


async def _passes(generation: Generation[ACT], conn: ACT) -> bool:
    passed = False
    loop = asyncio.get_running_loop()
    alarm = loop.call_later(PATIENCE, sever, conn)
    try:
        passed = await generation.passes_check(conn)
        if passed and loop.time() >= alarm.when():
            passed = False
            conn.pgconn.finish()
            generation._put_aside(conn)
    finally:
        alarm.cancel()
        if not passed:
            generation.came_back(None)
    return passed


def _with_idle(holder: HotSwapPool[ACT]) -> Generation[ACT] | None:
    """A generation that has an idle connection and a place: places are handed to those who wait, so no line is jumped."""
    for generation in holder._alive():
        if generation.available and generation.in_use < generation.cap and not generation.retired:
            return generation
    return None
