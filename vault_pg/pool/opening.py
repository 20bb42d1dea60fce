"""Opening a pool of anybody's making, which keeps to itself why it can't be filled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from psycopg_pool import AsyncConnectionPool, PoolTimeout
from psycopg_pool.abc import ACT

from vault_pg.pool.faults import is_final, is_too_many_clients


@asynccontextmanager
async def told_why(
    pool: AsyncConnectionPool[Any], *, no_slot: Callable[[], object], patient: bool = False
) -> AsyncIterator[None]:
    """Around a wait for the pool's connections: a login that the server refuses ends it with the login's own error, and a PoolTimeout
    tells what the last login failed with. A pool tries on for minutes, and tells nobody but its log.

    `no_slot` is called when the server has no connection slot left. A `patient` one waits for logins that are refused too.
    """
    login = pool._connect
    words = ""  # of the last failure, which itself would keep its connection open in its frames
    refused: Exception | None = None
    patience = asyncio.timeout(None)

    async def watched(timeout: float | None = None) -> Any:
        nonlocal words, refused
        try:
            return await login(timeout)
        except Exception as error:
            words = " ".join(str(error).split())
            if vars(pool).get("_connect") is watched:  # else the wait is over
                if is_too_many_clients(error):
                    no_slot()
                elif not patient and refused is None and is_final(error):
                    refused = error
                    patience.reschedule(asyncio.get_running_loop().time())
            raise

    vars(pool)["_connect"] = watched
    try:
        async with patience:
            yield
    except TimeoutError:
        if refused is None:
            raise
        raise refused from None
    except PoolTimeout as error:
        if not words:
            raise
        raise PoolTimeout(f"{error}; the last login failed: {words}") from None
    finally:
        del vars(pool)["_connect"]


def closing_what_fails(configure: Callable[[ACT], Awaitable[None]]) -> Callable[[ACT], Awaitable[None]]:
    """The same hook, but a connection that it fails on is closed here and now: psycopg_pool logs the error, and for as long as a handler
    keeps that record the error's frames keep the connection, and the server its session.
    """

    async def configured(conn: ACT) -> None:
        try:
            await configure(conn)
        except BaseException:
            conn.pgconn.finish()
            raise

    return configured
