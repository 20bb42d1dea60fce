"""What goes wrong around a pool without anybody's fault: waits given up, sizes changed at once, clients that leave, hooks of any make."""

from __future__ import annotations

import asyncio
import functools
import gc
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg_pool import AsyncConnectionPool

from tests.pools import PATIENCE, Holder, MakePool, Role, holding
from tests.servers import Mount
from tests.waiting import LONG, eventually
from vault_pg import DatabaseSettings, HotSwapPool, LeaseManager, Settings, TokenAuth, VaultSettings
from vault_pg.dev import EmbeddedPostgres

Conn = psycopg.AsyncConnection[Any]


async def test_a_wait_that_was_given_up_does_not_spoil_the_next(make_pool: MakePool) -> None:
    async with holding(make_pool()) as holder:
        async with holder.connection():
            waits = [asyncio.create_task(holder.wait(PATIENCE)) for _ in range(3)]
            await asyncio.sleep(0)
            waits[0].cancel()
            await asyncio.wait([waits[0]])
            assert waits[0].cancelled()
        await asyncio.gather(*waits[1:])
        await holder.wait(PATIENCE)


async def test_giving_up_on_a_drain_does_not_stop_it(make_pool: MakePool) -> None:
    async with holding(make_pool()) as holder:
        async with holder.connection() as conn:
            replacement = await holder.replace(make_pool())
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(replacement.drained, 0.01)
        assert (await replacement.drained).cut_off == ()
        assert conn.closed


async def test_what_was_cut_off_and_is_never_returned_is_gone_with_whoever_had_it(make_pool: MakePool) -> None:
    async with holding(make_pool()) as holder:
        generation = weakref.ref(holder._current)
        conn = weakref.ref(await holder.getconn(PATIENCE))
        await (await holder.replace(make_pool(), drain_timeout=0)).drained
        gc.collect()
        assert (conn(), generation()) == (None, None)
        assert holder.borrowers == []


async def test_what_was_cut_off_may_still_be_asked_about_and_returned_once(make_pool: MakePool) -> None:
    async with holding(make_pool()) as holder, HotSwapPool(make_pool()) as other:
        conn = await holder.getconn(PATIENCE)
        await (await holder.replace(make_pool(), drain_timeout=0)).drained
        assert holder.connection_info(conn).generation == 1
        assert holder.retiring(conn)
        with pytest.raises(ValueError, match="comes from"):
            await other.putconn(conn)
        await holder.putconn(conn)
        assert conn.closed
        with pytest.raises(ValueError, match="return"):
            await holder.putconn(conn)
        with pytest.raises(ValueError, match="has it back"):
            holder.retiring(conn)


async def test_closing_leaves_the_borrowers_of_a_replaced_pool_their_deadline_and_the_others_their_connections(
    make_pool: MakePool,
) -> None:
    async with holding(make_pool()) as holder:
        early = await holder.getconn(PATIENCE)
        replacement = await holder.replace(make_pool(), drain_timeout=36000)
        late = await holder.getconn(PATIENCE)
        await holder.close()
        for conn in (early, late):
            await conn.execute("select 1")
        holder.hurry()  # the deadline
        assert len((await replacement.drained).cut_off) == 1
        with pytest.raises(psycopg.OperationalError):
            await early.execute("select 1")
        await late.execute("select 1")
        for conn in (early, late):
            await holder.putconn(conn)
            assert conn.closed


async def test_sizes_that_change_twice_open_no_more_than_is_missing(make_pool: MakePool) -> None:
    async with holding(make_pool(max_size=4)) as holder:
        conns = [await holder.getconn(PATIENCE) for _ in range(4)]
        await asyncio.gather(holder.resize(4, 4), holder.resize(4, 4))
        for conn in conns:
            await holder.putconn(conn)
        await holder.wait(PATIENCE)
        assert holder.get_stats()["pool_size"] == 4


async def test_a_pool_can_be_resized_before_it_is_open(make_pool: MakePool) -> None:
    holder = HotSwapPool(make_pool())
    await holder.resize(2, 3)
    async with holder:
        await holder.wait(PATIENCE)
        assert (holder.min_size, holder.max_size, holder.get_stats()["pool_size"]) == (2, 3, 2)


async def test_clients_may_go_away_while_a_pool_is_warmed(make_pool: MakePool) -> None:
    async with holding(make_pool(max_size=6)) as holder:
        conns = [await holder.getconn(PATIENCE) for _ in range(4)]
        opened = 0

        async def configure(_: Conn) -> None:
            nonlocal opened
            opened += 1
            if opened == 2:
                for conn in conns[1:]:
                    await holder.putconn(conn)

        replacing = asyncio.create_task(holder.replace(make_pool(max_size=6, configure=configure)))
        replacement = await replacing
        await holder.putconn(conns[0])
        await replacement.drained


async def test_a_login_that_somebody_else_cancels_leaves_no_pool_undrained(make_pool: MakePool) -> None:
    async with holding(make_pool(min_size=2, max_size=4), overlap=1) as holder:
        conns = [await holder.getconn(PATIENCE) for _ in range(3)]
        opened = 0

        async def configure(_: Conn) -> None:
            nonlocal opened
            opened += 1
            if opened == 3:
                raise asyncio.CancelledError

        replacement = await asyncio.wait_for(
            asyncio.gather(holder.replace(make_pool(min_size=2, max_size=4, configure=configure)), _give_back(holder, conns)),
            PATIENCE,
        )
        await replacement[0].drained
        assert holder.get_stats()["generations_alive"] == 1
        async with holder.connection(PATIENCE) as conn:
            await conn.execute("select 1")


async def _give_back(holder: HotSwapPool[Conn], conns: list[Conn]) -> None:
    await eventually(lambda: holder.generation == 2)
    for conn in conns:
        await holder.putconn(conn)


async def test_a_replace_called_off_twice_closes_its_pool(make_pool: MakePool) -> None:
    entered = asyncio.Event()

    async def prove(_: AsyncConnectionPool[Conn]) -> None:
        entered.set()
        await asyncio.Event().wait()

    async with holding(make_pool()) as holder:
        new = make_pool()
        task = asyncio.create_task(holder.replace(new, prove=prove))
        await entered.wait()
        idle = [*new._pool]
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await eventually(lambda: new.closed and all(conn.closed for conn in idle))
        assert idle


class Hook:
    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self, _: Conn) -> None:
        self.calls += 1

    async def method(self, conn: Conn) -> None:
        await self(conn)


def decorated(function: Callable[[Conn], Awaitable[None]]) -> Callable[[Conn], Awaitable[None]]:
    @functools.wraps(function)
    def wrapper(conn: Conn) -> Awaitable[None]:
        return function(conn)

    return wrapper


@pytest.mark.parametrize("make", ["object", "method", "partial", "decorated"])
async def test_hooks_of_any_make_are_called(make_pool: MakePool, make: str) -> None:
    hook = Hook()
    forms: dict[str, Callable[[Conn], Awaitable[None]]] = {
        "object": hook,
        "method": hook.method,
        "partial": functools.partial(Hook.method, hook),
        "decorated": decorated(hook.method),
    }
    form = forms[make]
    async with holding(make_pool(configure=form, check=form, reset=form)) as holder:
        async with holder.connection():
            pass
        await eventually(lambda: hook.calls == 3)


@pytest.mark.parametrize("what", ["pipeline", "server-side cursor", "copy"])
async def test_what_is_under_way_ends_in_order_across_a_replace(make_pool: MakePool, what: str) -> None:
    async with holding(make_pool()) as holder:
        async with holder.connection() as conn:
            if what == "pipeline":
                async with conn.pipeline():
                    first = await conn.execute("select 1")
                    replacement = await holder.replace(make_pool())
                    second = await conn.execute("select 2")
                assert (await first.fetchone(), await second.fetchone()) == ((1,), (2,))
            elif what == "copy":
                await conn.execute("create temp table t (n int)")
                async with conn.cursor().copy("copy t from stdin") as copy:
                    await copy.write_row([1])
                    replacement = await holder.replace(make_pool())
                    await copy.write_row([2])
                assert await (await conn.execute("select count(*) from t")).fetchone() == (2,)
            else:
                async with conn.cursor("far") as cursor:
                    await cursor.execute("select generate_series(1, 100)")
                    assert await cursor.fetchone() == (1,)
                    replacement = await holder.replace(make_pool())
                    assert len(await cursor.fetchall()) == 99
        assert (await replacement.drained).cut_off == ()


@pytest.mark.parametrize("free", [0, 1, 2, 3])
async def test_a_server_without_a_free_slot_narrows_the_overlap_and_fails_nothing(role: Role, free: int) -> None:
    role.allow_sessions(4 + free)
    served = 0

    async def work(holder: Holder) -> None:
        nonlocal served
        while True:
            async with holder.connection() as conn:
                await conn.execute("select pg_sleep(0.002)")
            served += 1

    async with holding(role.pool(min_size=4, max_size=4), overlap=4) as holder, asyncio.TaskGroup() as group:
        clients = [group.create_task(work(holder)) for _ in range(8)]
        await eventually(lambda: served > 50)
        replacement = await holder.replace(role.pool(min_size=4, max_size=4))
        await replacement.drained
        before = served
        await eventually(lambda: served > before + 50 and holder.get_stats()["pool_size"] == 4)
        assert not any(client.done() for client in clients), "no query failed"
        for client in clients:
            client.cancel()


async def test_a_rotation_finds_room_on_a_server_that_has_none(mount: Mount, postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    database = DatabaseSettings(
        role="app", mount=mount.path, conninfo=mount.postgres.conninfo(), min_size=3, max_size=3, build_timeout=LONG
    )
    settings = Settings(
        vault=VaultSettings(address=mount.server.address, auth=TokenAuth(token=mount.token())),
        databases={"default": database},
        runtime_dir=tmp_path,
    )
    async with LeaseManager(settings) as manager:
        pool = manager.get_pool()
        await pool.wait(LONG)
        with full(postgres):
            await manager.rotate()
            assert pool.generation == 2
            async with pool.connection() as conn:
                await conn.execute("select 1")
        await eventually(lambda: pool.get_stats()["pool_size"] == 3)


@contextmanager
def full(postgres: EmbeddedPostgres) -> Iterator[None]:
    """The database takes no more sessions than it has now."""
    with postgres.admin("postgres") as conn:
        row = conn.execute("select count(*) from pg_stat_activity where datname = 'app'").fetchone()
        assert row is not None
        conn.execute(sql.SQL("alter database app connection limit {}").format(row[0]))
        try:
            yield
        finally:
            conn.execute("alter database app connection limit -1")
