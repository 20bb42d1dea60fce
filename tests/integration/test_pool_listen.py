"""`listen()`: notifications go on over replaces and lost connections, and it is told what may be missing."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg import Notify
from psycopg_pool import PoolClosed, PoolTimeout

from tests.pools import PATIENCE, Holder, MakePool, Role, holding, pool_of
from tests.proxy import Proxy, proxy_to
from tests.waiting import LONG, eventually
from vault_pg import Gap, Notifications
from vault_pg.dev import EmbeddedPostgres
from vault_pg.events import Event, NotificationsMissed

Conn = psycopg.AsyncConnection[Any]


@pytest.fixture
async def sender(conninfo: str) -> AsyncIterator[Conn]:
    """A connection of its own that no fault strikes."""
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
        yield conn


@pytest.fixture
async def proxy(postgres: EmbeddedPostgres) -> AsyncIterator[Proxy]:
    async with proxy_to(postgres) as proxy:
        yield proxy


async def send(conn: Conn, *payloads: object, channel: str = "jobs") -> None:
    for payload in payloads:
        await conn.execute("select pg_notify(%s, %s)", [channel, str(payload)])


async def take(stream: Notifications[Notify], count: int) -> list[str]:
    async with asyncio.timeout(LONG):
        return [(await anext(stream)).payload for _ in range(count)]


async def test_notifications_come_once_and_in_order(make_pool: MakePool, sender: Conn) -> None:
    async with holding(make_pool()) as holder, holder.listen("jobs", 'odd "name"; select 1') as stream:
        await send(sender, "a", "b")
        await send(sender, "c", channel='odd "name"; select 1')
        await send(sender, "-", channel="others")
        await send(sender, "d")
        assert await take(stream, 4) == ["a", "b", "c", "d"]
        assert holder.in_use == 1
        [borrow] = holder.borrowers
        assert "test_pool_listen.py" in borrow.where


async def test_it_begins_with_the_first_item_asked_for_too(make_pool: MakePool, sender: Conn) -> None:
    async with holding(make_pool()) as holder:
        stream = holder.listen("jobs")
        assert holder.in_use == 0
        first = asyncio.create_task(take(stream, 1))
        await eventually(lambda: holder.in_use == 1)
        async with asyncio.timeout(LONG):
            while not first.done():  # whether it listens already can't be seen from outside
                await send(sender, "a")
                await asyncio.sleep(0.01)
        assert await first == ["a"]
        await stream.aclose()
        assert holder.in_use == 0


async def test_a_replace_loses_nothing_and_doubles_nothing(make_pool: MakePool, sender: Conn) -> None:
    """A sender that never pauses, over ten replaces."""
    async with holding(make_pool(max_size=3)) as holder, holder.listen("jobs") as stream:
        sent, stop = 0, False

        async def keep_sending() -> None:
            nonlocal sent
            while not stop:
                await send(sender, sent)
                sent += 1

        received: list[int] = []

        async def keep_receiving() -> None:
            while True:
                received.append(int((await anext(stream)).payload))

        sending, receiving = asyncio.create_task(keep_sending()), asyncio.create_task(keep_receiving())
        for generation in range(2, 12):
            replacement = await holder.replace(make_pool(max_size=3), drain_timeout=LONG)
            drained = await replacement.drained  # which it is once the listener has left
            assert drained.cut_off == ()
            await eventually(partial(serves_all, holder, generation))
        stop = True
        await sending
        await eventually(lambda: len(received) >= sent)
        receiving.cancel()
        await asyncio.wait({receiving})
    assert received == list(range(sent))
    assert sent > 10


def serves_all(holder: Holder, generation: int) -> bool:
    """Whether every connection that is out is of this generation."""
    return {borrow.generation.number for borrow in holder.borrowers} == {generation}


async def test_the_old_connection_is_left_only_when_the_new_one_listens(make_pool: MakePool, sender: Conn) -> None:
    """The new pool has no connection to give for a while: the old one is heard until it has."""
    async with holding(make_pool(max_size=1)) as holder, holder.listen("jobs") as stream:
        first = asyncio.create_task(holder.getconn(PATIENCE))
        await eventually(lambda: holder.get_stats()["requests_waiting"] == 1)
        replacement = await holder.replace(make_pool(max_size=1), drain_timeout=LONG)
        held = await first
        await eventually(lambda: holder.get_stats()["requests_waiting"] == 1)
        await send(sender, "meanwhile")
        assert await take(stream, 1) == ["meanwhile"]
        assert not replacement.drained.done()
        await holder.putconn(held)
        assert (await replacement.drained).cut_off == ()
        await send(sender, "after")
        assert await take(stream, 1) == ["after"]


async def test_a_slow_consumer_does_not_keep_the_old_generation(make_pool: MakePool, sender: Conn) -> None:
    async with holding(make_pool()) as holder, holder.listen("jobs") as stream:
        await send(sender, "a")
        replacement = await holder.replace(make_pool(), drain_timeout=LONG)
        assert (await replacement.drained).cut_off == ()
        await send(sender, "b")
        assert await take(stream, 2) == ["a", "b"]


async def test_a_replace_by_another_database_goes_on_there(
    make_pool: MakePool, conninfo: str, postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its marks can't be heard on the old side, which is given up after a while."""
    monkeypatch.setattr("vault_pg.pool.subscription.MARK_TIMEOUT", 0.2)
    elsewhere = postgres.admin_conninfo("postgres").get_secret_value()
    async with holding(make_pool()) as holder, holder.listen("jobs") as stream:
        async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as here:
            await send(here, "old")
        await eventually(lambda: stream.pending == 1)
        replacement = await holder.replace(pool_of(elsewhere), drain_timeout=LONG)
        assert (await replacement.drained).cut_off == ()
        async with await psycopg.AsyncConnection.connect(elsewhere, autocommit=True) as there:
            await send(there, "new")
        assert await take(stream, 2) == ["old", "new"]


@pytest.mark.parametrize("fault", ["terminate", "cut", "silence"])
async def test_a_lost_connection_is_replaced_and_the_gap_is_told(proxy: Proxy, conninfo: str, sender: Conn, fault: str) -> None:
    events: list[Event] = []
    async with holding(pool_of(proxy.conninfo(conninfo)), listener=events.append) as holder:
        heartbeat = 2.0 if fault == "silence" else 30.0  # long enough for a busy machine to answer the first ones in
        async with holder.listen("jobs", gaps=True, heartbeat=heartbeat) as stream:
            await send(sender, "before")
            assert (await anext(stream)) == Notify("jobs", "before", sender.info.backend_pid)
            [borrow] = holder.borrowers
            match fault:
                case "terminate":
                    await sender.execute("select pg_terminate_backend(%s)", [borrow.conn.info.backend_pid])
                case "cut":
                    proxy.cut()
                case "silence":
                    proxy.deafen()
            async with asyncio.timeout(LONG):
                gap = await anext(stream)
                assert isinstance(gap, Gap)
                assert gap.channels == ("jobs",)
                await send(sender, "after")
                assert (await anext(stream)) == Notify("jobs", "after", sender.info.backend_pid)
            await eventually(lambda: holder.in_use == 1)
    [missed] = [event for event in events if isinstance(event, NotificationsMissed)]
    assert (missed.database, missed.channels, missed.level) == ("held", ("jobs",), "warning")


async def test_without_gaps_a_loss_is_logged(make_pool: MakePool, sender: Conn, caplog: pytest.LogCaptureFixture) -> None:
    async with holding(make_pool()) as holder, holder.listen("jobs") as stream:
        [borrow] = holder.borrowers
        await sender.execute("select pg_terminate_backend(%s)", [borrow.conn.info.backend_pid])
        await eventually(lambda: "did not listen on jobs" in caplog.text)
        await send(sender, "after")
        assert await take(stream, 1) == ["after"]


async def test_a_server_that_restarts_is_waited_for(make_pool: MakePool, postgres: EmbeddedPostgres, conninfo: str) -> None:
    async with holding(make_pool()) as holder, holder.listen("jobs", gaps=True, timeout=1.0) as stream:
        await asyncio.to_thread(postgres.stop, immediate=True)
        try:
            await eventually(lambda: holder.get_stats().get("requests_errors", 0) > 0, "an attempt in vain")
        finally:
            await asyncio.to_thread(postgres.start)
        async with asyncio.timeout(LONG):
            gap = await anext(stream)
            assert isinstance(gap, Gap)
            assert gap.seconds > 0
            async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
                await send(conn, "after")
            assert isinstance(await anext(stream), Notify)


async def test_it_outlives_its_role_and_the_time_without_a_credential(role: Role, make_pool: MakePool, sender: Conn) -> None:
    async with holding(role.pool()) as holder, holder.listen("jobs", gaps=True) as stream:
        await asyncio.to_thread(role.drop)
        holder.refuse("no credential for role 'app'")
        await eventually(lambda: holder.in_use == 0)
        await holder.replace(make_pool())
        async with asyncio.timeout(LONG):
            assert isinstance(await anext(stream), Gap)
            await send(sender, "after")
            assert isinstance(await anext(stream), Notify)


async def test_leaving_gives_back_a_connection_that_listens_to_nothing(make_pool: MakePool, sender: Conn) -> None:
    async with holding(make_pool(max_size=1)) as holder:
        async with holder.listen("jobs") as stream:
            [borrow] = holder.borrowers
            pid, autocommit = borrow.conn.info.backend_pid, False
            await send(sender, "unread")
            await eventually(lambda: stream.pending == 1)
            await send(sender, "unheard")
        assert holder.in_use == 0
        async with holder.connection() as conn:
            assert (conn.info.backend_pid, conn.autocommit) == (pid, autocommit)
            cursor = await conn.execute("select pg_listening_channels()")
            assert await cursor.fetchall() == []
            await conn.commit()
            assert [notify async for notify in conn.notifies(timeout=0)] == []
        # What it had heard can still be fetched; the last one may have come too late for it.
        assert [notify.payload async for notify in stream] in (["unread"], ["unread", "unheard"])
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_cancelling_a_wait_for_an_item_loses_none(make_pool: MakePool, sender: Conn) -> None:
    async with holding(make_pool()) as holder, holder.listen("jobs") as stream:
        received: list[str] = []
        for number in range(50):
            waiting = asyncio.create_task(take(stream, 1))
            await send(sender, number)
            waiting.cancel()
            await asyncio.wait({waiting})
            if not waiting.cancelled():
                received += await waiting
        received += await take(stream, 50 - len(received))
        assert received == [str(number) for number in range(50)]


async def test_a_cancelled_listener_gives_its_connection_back(make_pool: MakePool) -> None:
    async with holding(make_pool(max_size=1)) as holder:

        async def listen() -> None:
            async with holder.listen("jobs") as stream:
                async for _ in stream:
                    pass

        task = asyncio.create_task(listen())
        await eventually(lambda: holder.in_use == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert holder.in_use == 0
        # While it waits for its first connection too.
        async with holder.connection():
            task = asyncio.create_task(listen())
            await eventually(lambda: holder.get_stats()["requests_waiting"] == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert holder.get_stats()["requests_waiting"] == 0


async def test_an_iterator_that_is_dropped_gives_its_connection_back(make_pool: MakePool, sender: Conn) -> None:
    async with holding(make_pool()) as holder:
        stream = holder.listen("jobs")
        async with asyncio.timeout(LONG):
            waiting = asyncio.create_task(take(stream, 1))
            while not waiting.done():
                await send(sender, "a")
                await asyncio.sleep(0.01)
        del stream, waiting
        gc.collect()
        await eventually(lambda: holder.in_use == 0)


@pytest.mark.parametrize("drain", [None, LONG])
async def test_it_ends_with_the_pool(make_pool: MakePool, sender: Conn, drain: float | None) -> None:
    async with holding(make_pool()) as holder:
        async with holder.listen("jobs") as stream:
            await send(sender, "last")
            await eventually(lambda: stream.pending == 1)
            await (holder.close() if drain is None else holder.finish(drain))
            assert await take(stream, 1) == ["last"]
            with pytest.raises(PoolClosed):
                await take(stream, 1)
            with pytest.raises(PoolClosed):
                await take(stream, 1)
        await eventually(lambda: holder.in_use == 0)


async def test_what_is_wrong_from_the_start_is_said_at_the_start(make_pool: MakePool) -> None:
    async with holding(make_pool(max_size=1)) as holder:
        for channel in ("", "x" * 64, "é" * 32):
            with pytest.raises(ValueError, match="1 to 63 bytes"):
                holder.listen("jobs", channel)
        with pytest.raises(ValueError, match="heartbeat"):
            holder.listen("jobs", heartbeat=0)
        async with holder.connection():
            with pytest.raises(PoolTimeout):
                async with holder.listen("jobs", timeout=0.05):
                    pass
            with pytest.raises(PoolTimeout):
                await anext(holder.listen("jobs", timeout=0.05))
    with pytest.raises(PoolClosed):
        async with holder.listen("jobs"):
            pass
