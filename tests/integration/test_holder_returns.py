"""Returns, checks and waits that hang or come too late: none of them holds up the end of a pool, or costs a client its place."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg_pool import AsyncNullConnectionPool, PoolClosed, PoolTimeout

from tests.pools import PATIENCE, Holder, MakePool, Role, holding
from tests.waiting import LONG, eventually
from vault_pg import HotSwapPool
from vault_pg.dev import EmbeddedPostgres
from vault_pg.pool import CheckoutRefused, handover, idle
from vault_pg.pool.check import checked

NEVER = 36000.0
"""Seconds; what has to wait for as long fails its test."""


@contextmanager
def silent(pid: int) -> Iterator[None]:
    """A backend that answers nothing meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def gone(postgres: EmbeddedPostgres, pid: int) -> None:
    """Return when the server has ended this session."""
    with postgres.admin() as conn:
        await eventually(
            lambda: conn.execute("select from pg_stat_activity where pid = %s", (pid,)).fetchone() is None, "the session is there"
        )


async def test_the_deadline_of_a_drain_cuts_off_a_reset_hook_that_hangs(make_pool: MakePool, postgres: EmbeddedPostgres) -> None:
    begun = asyncio.Event()

    async def reset(conn: psycopg.AsyncConnection[Any]) -> None:
        await conn.set_autocommit(True)
        begun.set()
        await conn.execute("select pg_sleep(3600)")

    async with holding(make_pool(min_size=1, max_size=1, reset=reset)) as holder:
        async with holder.connection(PATIENCE) as conn:
            pid = conn.info.backend_pid
        await begun.wait()
        replacement = await holder.replace(make_pool(), drain_timeout=0.0)
        (cut_off,) = (await replacement.drained).cut_off
        assert "reset hook" in cut_off
        await gone(postgres, pid)


async def test_the_deadline_of_a_drain_cuts_off_a_rollback_that_hangs(make_pool: MakePool, postgres: EmbeddedPostgres) -> None:
    async with holding(make_pool(min_size=1, max_size=1)) as holder:
        conn = await holder.getconn(PATIENCE)
        await conn.execute("select 1")
        pid, old = conn.info.backend_pid, holder._current
        with silent(pid):
            returning = asyncio.create_task(holder.putconn(conn))
            await eventually(lambda: not holder.borrowers)
            replacement = await holder.replace(make_pool(), drain_timeout=0.0)
            (cut_off,) = (await replacement.drained).cut_off
            assert "rollback" in cut_off
            async with asyncio.timeout(LONG):
                await returning
            assert old.in_use == 0
        await gone(postgres, pid)


async def test_who_gives_way_and_a_refusal_both_see_the_last_return(make_pool: MakePool) -> None:
    async with holding(make_pool(min_size=2, max_size=2)) as holder:
        conns = [await holder.getconn(PATIENCE) for _ in range(2)]
        giving = asyncio.create_task(holder.give_way())
        await eventually(lambda: holder._current.cap == 1)  # so it waits for a return
        holder.refuse("no credential for role 'app'")
        await holder.drained()
        for conn in conns:
            await holder.putconn(conn)
        async with asyncio.timeout(LONG):
            assert not await giving  # there was no idle one left to close
        assert holder.in_use == 0


async def test_room_that_a_client_is_offered_as_it_is_cancelled_goes_to_the_next(conninfo: str) -> None:
    """A login that fails leaves its room to the first in the queue of a null pool: here that one is cancelled in the same tick."""
    logging_in, go = asyncio.Event(), asyncio.Event()

    async def configure(_: object) -> None:
        if not logging_in.is_set():
            logging_in.set()
            await go.wait()
            asyncio.get_running_loop().call_soon(cancelled.cancel)
            raise RuntimeError("the hook fails")

    null = AsyncNullConnectionPool(conninfo, min_size=0, max_size=1, configure=configure, open=False)
    async with HotSwapPool(null) as holder:
        failing = asyncio.create_task(holder.getconn(PATIENCE))
        await logging_in.wait()
        cancelled, last = (asyncio.create_task(holder.getconn(PATIENCE)) for _ in range(2))
        await eventually(lambda: len(null._waiting) == 2)
        offer: Any = null._waiting[0]
        go.set()
        with pytest.raises(RuntimeError, match="hook"):
            await failing
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert offer.served.result() is None  # it was offered the room, and was cancelled with it
        await holder.putconn(await last)


async def test_what_a_refused_pool_has_counted_is_counted_once(make_pool: MakePool) -> None:
    async with holding(make_pool(min_size=2)) as holder:

        def opened() -> int:
            return holder.get_stats()["connections_num"]

        seen = [opened()]
        holder.refuse("no credential for role 'app'")
        seen.append(opened())
        await holder.drained()
        seen.append(opened())
        await (await holder.replace(make_pool(min_size=2))).drained
        await holder.wait(PATIENCE)
        seen.append(opened())
        assert seen == [2, 2, 2, 4]


def refuse(holder: Holder) -> None:
    holder.refuse("no credential for role 'app'")


@pytest.mark.parametrize("end", [HotSwapPool.hurry, refuse])
async def test_a_handover_under_way_ends_with_a_hurry_and_a_refusal(
    end: Callable[[Holder], None], make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "MOST", NEVER)
    async with holding(make_pool(min_size=2, max_size=2), overlap=1, drain_timeout=4 * NEVER) as holder:
        conns = [await holder.getconn(PATIENCE) for _ in range(2)]
        old = holder._current
        replacing = asyncio.create_task(holder.replace(make_pool(min_size=2, max_size=2)))
        await eventually(lambda: old.outgoing and old.cap == 1)  # it owes the new one the next that comes back, and none does
        assert not old.retired
        end(holder)
        async with asyncio.timeout(LONG):
            drained = await (await replacing).drained
        assert len(drained.cut_off) == 2
        for conn in conns:
            await holder.putconn(conn)


async def test_what_fails_on_an_idle_connection_makes_the_credential_doubtful(role: Role) -> None:
    doubts: list[None] = []
    async with holding(role.pool(min_size=2), doubt=lambda: doubts.append(None)) as holder:

        async def ask() -> bool:
            """False if none is idle."""
            async with holder.try_connection() as conn:
                if conn is not None:
                    await conn.execute("select session_user")
                return conn is not None

        role.drop()
        with pytest.raises(psycopg.errors.UndefinedObject):
            await ask()
        assert len(doubts) == 1
        assert not await ask()  # the other one has been asked before it was handed out, and is dead too


async def test_an_idle_connection_that_is_silent_is_none_and_holds_up_nobody(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idle, "PATIENCE", 0.2)
    async with holding(make_pool(min_size=1, max_size=1, check=checked(0))) as holder:
        async with holder.connection(PATIENCE) as conn:
            pid = conn.info.backend_pid

        async def idle_one() -> int | None:
            async with holder.try_connection() as conn:
                return None if conn is None else conn.info.backend_pid

        async def client() -> int:
            async with holder.connection(2 * LONG) as conn:
                return conn.info.backend_pid

        with silent(pid):
            async with asyncio.timeout(LONG), asyncio.TaskGroup() as group:
                found, served = group.create_task(idle_one()), group.create_task(client())
        assert found.result() is None
        assert served.result() != pid


async def test_an_idle_connection_whose_check_comes_too_late_is_none(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idle, "PATIENCE", 0.1)
    slow = asyncio.Event()

    async def check(_: object) -> None:
        if slow.is_set():
            await asyncio.sleep(0.3)

    async with holding(make_pool(min_size=1, max_size=1, check=check)) as holder:
        slow.set()
        async with holder.try_connection() as conn:
            assert conn is None
        slow.clear()
        async with holder.connection(PATIENCE) as conn:
            await conn.execute("select 1")
        await eventually(lambda: holder.in_use == 0)


async def test_a_check_that_takes_longer_than_the_timeout_hands_out_no_severed_connection(make_pool: MakePool) -> None:
    slow = asyncio.Event()

    async def check(_: object) -> None:
        if slow.is_set():
            await asyncio.sleep(0.6)

    async with holding(make_pool(min_size=1, max_size=1, check=check)) as holder:
        slow.set()
        with pytest.raises(PoolTimeout):
            await holder.getconn(0.3)
        slow.clear()
        async with holder.connection(PATIENCE) as conn:
            await conn.execute("select 1")
        await eventually(lambda: holder.in_use == 0)


@pytest.mark.parametrize("end", ["replace", "refuse", "finish"])
@pytest.mark.parametrize("way", ["getconn", "try_connection"])
async def test_a_check_that_outlasts_the_drain_hands_out_nothing_of_that_pool(make_pool: MakePool, way: str, end: str) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def check(_: psycopg.AsyncConnection[Any]) -> None:
        begun.set()
        await go.wait()

    async with holding(make_pool(min_size=1, max_size=1, check=check)) as holder:

        async def take() -> int | None:
            if way == "getconn":
                async with holder.connection(PATIENCE) as conn:
                    return holder.connection_info(conn).generation
            async with holder.try_connection() as found:
                return None if found is None else holder.connection_info(found).generation

        old, client = holder._current, asyncio.create_task(take())
        await begun.wait()
        if end == "replace":
            replacement = await holder.replace(make_pool(), drain_timeout=0.0)
            (cut_off,) = (await replacement.drained).cut_off
            assert "the check" in cut_off
        elif end == "refuse":
            holder.refuse("no credential for anybody")
            await holder.drained()
        else:
            await holder.finish(0.0)
        go.set()
        if end == "replace":
            assert await client in ((2,) if way == "getconn" else (2, None))
        else:
            with pytest.raises(CheckoutRefused if end == "refuse" else PoolClosed):
                await client
        assert old.in_use == 0


async def test_a_login_that_outlasts_the_drain_of_a_null_pool_is_not_handed_out(conninfo: str) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def configure(_: psycopg.AsyncConnection[Any]) -> None:
        begun.set()
        await go.wait()

    go.set()
    null: AsyncNullConnectionPool[psycopg.AsyncConnection[Any]] = AsyncNullConnectionPool(
        conninfo, max_size=2, open=False, configure=configure
    )
    async with holding(null) as holder:
        begun.clear()
        go.clear()
        client = asyncio.create_task(holder.getconn(PATIENCE))
        await begun.wait()
        fresh: AsyncNullConnectionPool[psycopg.AsyncConnection[Any]] = AsyncNullConnectionPool(conninfo, max_size=2, open=False)
        replacement = await holder.replace(fresh, drain_timeout=0.0)
        assert not (await replacement.drained).cut_off
        go.set()
        conn = await client
        assert holder.connection_info(conn).generation == 2
        await holder.putconn(conn)


async def test_the_deadline_of_a_drain_cuts_off_a_check_of_idle_connections_that_hangs(
    make_pool: MakePool, postgres: EmbeddedPostgres
) -> None:
    async with holding(make_pool(min_size=1, max_size=1)) as holder:
        async with holder.connection(PATIENCE) as conn:
            pid = conn.info.backend_pid
        with silent(pid):
            checking = asyncio.create_task(holder.check())
            await eventually(lambda: holder._current.in_use)
            replacement = await holder.replace(make_pool(), drain_timeout=0.0)
            (cut_off,) = (await replacement.drained).cut_off
            assert "the check" in cut_off
            async with asyncio.timeout(LONG):
                await checking
        await gone(postgres, pid)
