"""A checkout that takes an idle connection, or none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING

from psycopg_pool.abc import ACT

from vault_pg.pool.generation import Generation, Place

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
    finally:
        await holder.putconn(conn)
        holder._used(monotonic() - start)


async def _take(holder: HotSwapPool[ACT], place: Place) -> ACT | None:
    """An idle connection that passes the pool's check, if there is one; each is tried once."""
    holder._check_serving()
    for _ in range(sum(generation.available for generation in holder._alive())):
        if (generation := _with_idle(holder)) is None:
            return None
        # No await from the look to the taking: nobody else can have it, and there is nothing to wait for.
        conn = generation.take_idle()
        conn._pool = holder
        generation.in_use += 1
        holder._borrowed[conn] = (generation, monotonic(), asyncio.current_task(), place)
        try:
            await generation.pool._check_connection(conn)
        except BaseException as error:
            await holder.putconn(conn)
            if not isinstance(error, Exception):
                raise
            continue
        holder._stats[holder._REQUESTS_NUM] += 1
        return conn
    return None


def _with_idle(holder: HotSwapPool[ACT]) -> Generation[ACT] | None:
    """A generation that has an idle connection and a place: places are handed to those who wait, so no line is jumped."""
    for generation in holder._alive():
        if generation.available and generation.in_use < generation.cap and not generation.retired:
            return generation
    return None
