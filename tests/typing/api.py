"""What type checkers see of the public API. Checked by mypy, never run."""

from __future__ import annotations

from typing import assert_type

import psycopg
from psycopg import AsyncConnection, Notify
from psycopg.rows import DictRow, TupleRow, dict_row
from psycopg_pool import AsyncConnectionPool

import vault_pg
from vault_pg import (
    ConnectionInfo,
    Gap,
    HotSwapPool,
    LeaseManager,
    Notifications,
    Replacement,
    Retirement,
    RetryPolicy,
    checked,
)


class OwnConnection(AsyncConnection[DictRow]):
    """A class of the user's."""


def takes_any_pool(pool: AsyncConnectionPool[AsyncConnection[TupleRow]]) -> None:
    """Stands for a library that takes a pool of psycopg_pool's."""


async def the_default_connection(plain: AsyncConnectionPool[AsyncConnection[TupleRow]]) -> None:
    holder = HotSwapPool(plain)
    assert_type(holder, HotSwapPool[AsyncConnection[TupleRow]])
    takes_any_pool(holder)
    async with holder.connection() as conn:
        assert_type(conn, AsyncConnection[TupleRow])
        cursor = await conn.execute("select 1")
        assert_type(await cursor.fetchone(), TupleRow | None)
    conn = await holder.getconn(timeout=1.0)
    assert_type(conn, AsyncConnection[TupleRow])
    await holder.putconn(conn)
    async with holder as same:
        assert_type(same, HotSwapPool[AsyncConnection[TupleRow]])
    assert_type(await holder.replace(plain), Replacement)


async def own_class_and_row_factory() -> None:
    own = HotSwapPool(AsyncConnectionPool("", connection_class=OwnConnection, open=False))
    assert_type(own, HotSwapPool[OwnConnection])
    async with own.connection() as conn:
        assert_type(conn, OwnConnection)
        assert_type(await (await conn.execute("select 1")).fetchone(), DictRow | None)
    async with own.try_connection() as perhaps:
        assert_type(perhaps, OwnConnection | None)
    async with own.transaction(timeout=1.0, savepoint_name="start", force_rollback=True) as conn:
        assert_type(conn, OwnConnection)
        assert_type(own.connection_info(conn), ConnectionInfo)
        signal = own.retiring(conn)
        assert_type(signal, Retirement)
        assert_type(await signal, None)
        assert_type(signal.deadline, float | None)

    rows = AsyncConnectionPool[AsyncConnection[DictRow]]("", kwargs={"row_factory": dict_row}, open=False)
    async with HotSwapPool(rows).connection() as dicts:
        assert_type(dicts, AsyncConnection[DictRow])


async def transactions(pool: HotSwapPool[OwnConnection], policy: RetryPolicy) -> None:
    async def transfer(conn: OwnConnection, amount: int, to: str) -> float:
        await conn.execute("select %s, %s", [amount, to])
        return 1.0

    assert_type(await pool.run_transaction(transfer, 1, "b"), float)
    assert_type(await pool.run_transaction(transfer, 1, "b", attempts=3, policy=policy, timeout=5.0), float)
    await pool.run_transaction(transfer, "b", 1)  # type: ignore[arg-type] # the arguments are checked
    await pool.run_transaction(transfer, 1)  # type: ignore[arg-type] # and counted


async def notifications(pool: HotSwapPool[AsyncConnection[TupleRow]]) -> None:
    assert_type(pool.listen("a"), Notifications[Notify])
    assert_type(pool.listen("a", "b", gaps=True, timeout=1.0, heartbeat=5.0), Notifications[Notify | Gap])
    async for notify in pool.listen("a", "b"):
        assert_type(notify, Notify)
    async with pool.listen("a", gaps=True) as stream:
        async for item in stream:
            assert_type(item, Notify | Gap)


def checks() -> None:
    AsyncConnectionPool("", connection_class=OwnConnection, check=checked(5), open=False)
    AsyncConnectionPool("", check=checked(5, also=AsyncConnectionPool.check_connection), open=False)


async def with_a_manager(manager: LeaseManager) -> None:
    assert_type(manager.get_pool(), HotSwapPool[AsyncConnection[TupleRow]])
    assert_type(vault_pg.get_pool(), HotSwapPool[AsyncConnection[TupleRow]])
    try:
        await vault_pg.get_pool().run_transaction(lambda conn: conn.execute("select 1"))
    except vault_pg.CommitOutcomeUnknown as error:
        assert_type(error, vault_pg.CommitOutcomeUnknown)
    except psycopg.Error:
        pass
