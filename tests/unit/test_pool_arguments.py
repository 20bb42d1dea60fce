"""Arguments that the pool cannot use are told at once, in one sentence."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from vault_pg import HotSwapPool, RetryPolicy

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]

NO_POOLS: list[Any] = ["host=db", None, AsyncConnectionPool, ConnectionPool(open=False)]


def holder() -> HotSwapPool[Any]:
    return HotSwapPool(AsyncConnectionPool(min_size=0, max_size=1, open=False))


@pytest.mark.parametrize("pool", NO_POOLS)
async def test_what_is_no_pool_can_not_stand_behind_a_holder(pool: Any) -> None:
    kind = type(pool).__name__
    with pytest.raises(TypeError, match=f"^HotSwapPool.. takes a psycopg_pool.AsyncConnectionPool, not a {kind}: make one with"):
        HotSwapPool(pool)
    with pytest.raises(TypeError, match=f"^replace.. takes a psycopg_pool.AsyncConnectionPool, not a {kind}: make one with"):
        await holder().replace(pool)


async def test_a_channel_is_a_text() -> None:
    channel: Any = 3
    with pytest.raises(TypeError, match=r"listen\(3\): give the name of a channel, a str"):
        holder().listen("jobs", channel)


async def test_a_transaction_is_a_function() -> None:
    fn: Any = "select 1"
    with pytest.raises(TypeError, match="takes a coroutine function of a connection, not a str"):
        await holder().run_transaction(fn)


@pytest.mark.parametrize("name", ["overlap", "drain_timeout", "max_waiting"])
async def test_true_is_no_number_to_a_holder(name: str) -> None:
    given: dict[str, Any] = {name: True}
    with pytest.raises(TypeError, match=rf"^HotSwapPool\(\) was given {name}=True: give a number$"):
        HotSwapPool(AsyncConnectionPool(min_size=0, max_size=1, open=False), **given)


@pytest.mark.parametrize("name", ["attempts", "base", "cap"])
async def test_true_is_no_number_to_a_retry_policy(name: str) -> None:
    given: dict[str, Any] = {name: True}
    with pytest.raises(ValueError, match=rf"^RetryPolicy: .*{name} (is )?True"):
        RetryPolicy(**given)
