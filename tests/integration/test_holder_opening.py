"""A pool that cannot be opened says why, and a pool that goes away keeps nobody waiting."""

from __future__ import annotations

import asyncio
from time import monotonic

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool, AsyncNullConnectionPool, PoolTimeout

from tests.pools import MakePool, Role, holding
from tests.waiting import LONG
from vault_pg import HotSwapPool


@pytest.mark.parametrize("cls", [AsyncConnectionPool, AsyncNullConnectionPool])
async def test_a_login_that_is_refused_fails_a_replace_at_once_and_says_so(
    make_pool: MakePool, role: Role, cls: type[AsyncConnectionPool]
) -> None:
    refused = cls(make_conninfo(role.conninfo, password="wrong"), max_size=4, open=False)
    async with holding(make_pool()) as holder, asyncio.timeout(LONG):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed") as caught:
            await holder.replace(refused, timeout=2 * LONG)
        assert not isinstance(caught.value, PoolTimeout)
        assert refused.closed
        assert holder.generation == 1
        async with holder.connection() as conn:
            await conn.execute("select 1")


async def test_a_time_out_of_a_replace_tells_what_the_last_login_failed_with(make_pool: MakePool) -> None:
    async with holding(make_pool()) as holder:
        with pytest.raises(PoolTimeout, match=r"incomplete after 2\.0 sec; the last login failed: no such server"):
            await holder.replace(AsyncConnectionPool(_nowhere, open=False), timeout=2.0)
        with pytest.raises(PoolTimeout, match=r"incomplete after 0\.5 sec$"):
            await holder.replace(make_pool(configure=_never), timeout=0.5)


def _nowhere() -> str:
    raise LookupError("no such server")


async def test_the_time_of_a_replace_is_that_of_all_its_connections(make_pool: MakePool) -> None:
    """And not of the first one, and of the others once more."""
    pauses = iter([2.5, LONG, LONG])

    async def slow(_: psycopg.AsyncConnection) -> None:
        await asyncio.sleep(next(pauses))

    async with holding(make_pool(min_size=2, max_size=4)) as holder:
        start = monotonic()
        with pytest.raises(PoolTimeout, match=r"incomplete after 3\.0 sec"):
            await holder.replace(make_pool(min_size=2, max_size=4, configure=slow), timeout=3.0)
        assert monotonic() - start < 5.0
        assert holder.generation == 1


async def _never(_: psycopg.AsyncConnection) -> None:
    await asyncio.Event().wait()


async def test_a_login_that_hangs_in_the_old_pool_holds_up_nobody_who_may_go_to_the_new_one(
    conninfo: str, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vault_pg.pool.generation.RETIRE_GRACE", 2 * LONG)
    reached, release = asyncio.Event(), asyncio.Event()

    async def slow(_: psycopg.AsyncConnection) -> None:
        reached.set()
        await release.wait()

    old = AsyncConnectionPool(conninfo, min_size=0, max_size=1, open=False, configure=slow)
    async with HotSwapPool(old) as holder:
        waiting = asyncio.create_task(holder.getconn(2 * LONG))
        await reached.wait()
        replacing = asyncio.create_task(holder.replace(make_pool()))
        async with asyncio.timeout(LONG):
            conn = await waiting
        assert holder.connection_info(conn).generation == 2
        assert not old.closed
        release.set()
        await (await replacing).drained
        await holder.putconn(conn)
