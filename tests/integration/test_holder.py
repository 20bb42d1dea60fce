"""HotSwapPool alone, with no Vault: what a checkout goes through when the pool behind it is replaced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool, AsyncNullConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from tests.waiting import eventually
from vault_pg import HotSwapPool, NoCredential
from vault_pg.dev import EmbeddedPostgres
from vault_pg.events import DrainOverdue, Event, GenerationClosed, GenerationRetired

MakePool = Callable[..., AsyncConnectionPool]
PATIENCE = 30.0


@pytest.fixture
def conninfo(postgres: EmbeddedPostgres) -> str:
    return f"{postgres.admin_conninfo().get_secret_value()} application_name=holder-test"


@pytest.fixture
def make_pool(conninfo: str) -> MakePool:
    def make(*, min_size: int = 1, max_size: int = 2, **options: object) -> AsyncConnectionPool:
        return AsyncConnectionPool(conninfo, min_size=min_size, max_size=max_size, open=False, **options)  # type: ignore[arg-type]

    return make


@asynccontextmanager
async def holding(pool: AsyncConnectionPool, **options: object) -> AsyncIterator[HotSwapPool]:
    async with HotSwapPool(pool, name="held", **options) as holder:  # type: ignore[arg-type]
        await holder.wait(PATIENCE)
        yield holder


async def backend(conn: psycopg.AsyncConnection) -> int:
    return conn.info.backend_pid


async def test_it_is_a_pool(make_pool: MakePool) -> None:
    async with holding(make_pool(min_size=2, max_size=5, timeout=7.0)) as holder:
        assert isinstance(holder, AsyncConnectionPool)
        assert (holder.name, holder.min_size, holder.max_size, holder.timeout, holder.closed) == ("held", 2, 5, 7.0, False)
        assert "HotSwapPool" in repr(holder)
        async with holder.connection() as conn:
            cursor = await conn.execute("select 1")
            assert await cursor.fetchone() == (1,)
    assert holder.closed
    with pytest.raises(PoolClosed):
        await holder.getconn()


async def test_replace_moves_traffic_and_closes_the_old_pool(make_pool: MakePool) -> None:
    old, new = make_pool(), make_pool()
    async with holding(old) as holder:
        async with holder.connection() as conn:
            before = await backend(conn)
        replacement = await holder.replace(new)
        assert (replacement.previous, replacement.generation, holder.generation) == (1, 2, 2)
        assert old.closed
        assert holder.serves(new)
        await replacement.drained
        async with holder.connection() as conn:
            assert await backend(conn) != before


async def test_a_borrower_keeps_its_connection_and_its_transaction_across_a_replace(make_pool: MakePool) -> None:
    async with holding(make_pool()) as holder:
        async with holder.connection() as conn:
            await conn.execute("create temp table t (n int)")
            replacement = await holder.replace(make_pool())
            assert not replacement.drained.done()
            await conn.execute("insert into t values (1)")
            assert (await (await conn.execute("select n from t")).fetchone()) == (1,)
        drained = await replacement.drained
        assert drained.cut_off == ()
        assert conn.closed


async def test_a_checkout_that_waits_is_served_by_the_new_pool(make_pool: MakePool) -> None:
    async with holding(make_pool(max_size=1)) as holder, holder.connection() as held:
        waiting = asyncio.create_task(holder.getconn(PATIENCE))
        await eventually(lambda: holder.get_stats()["requests_waiting"] == 1)
        await holder.replace(make_pool(max_size=1))
        conn = await waiting
        assert await backend(conn) != await backend(held)
        await holder.putconn(conn)
    assert holder.get_stats().get("requests_errors", 0) == 0


async def test_a_checkout_that_waits_for_a_connection_being_opened_moves_too(conninfo: str, make_pool: MakePool) -> None:
    """The one that is past the holder's line and waits in the old pool's own queue."""
    reached, release = asyncio.Event(), asyncio.Event()

    async def slow(_: psycopg.AsyncConnection) -> None:
        reached.set()
        await release.wait()

    old = AsyncConnectionPool(conninfo, min_size=0, max_size=1, open=False, configure=slow)
    async with HotSwapPool(old) as holder:
        waiting = asyncio.create_task(holder.getconn(PATIENCE))
        await reached.wait()
        await holder.replace(make_pool())
        conn = await waiting
        assert holder.get_stats().get("requests_errors", 0) == 0
        await holder.putconn(conn)
        release.set()


async def test_a_cancelled_checkout_loses_no_place(make_pool: MakePool) -> None:
    async with holding(make_pool(max_size=1)) as holder:
        for turn in range(20):
            async with holder.connection():
                clients = [asyncio.create_task(holder.getconn(PATIENCE)) for _ in range(3)]
                await eventually(lambda: holder.get_stats()["requests_waiting"] == 3)
                if turn % 2:
                    await holder.replace(make_pool(max_size=1))
            clients[0].cancel()
            for client in clients:
                try:
                    await holder.putconn(await client)
                except asyncio.CancelledError:
                    assert client is clients[0]
        await holder.drained()
        assert holder.in_use == 0
        async with holder.connection(timeout=PATIENCE):
            assert holder.in_use == 1


async def test_timeouts_are_psycopg_pools(make_pool: MakePool) -> None:
    async with holding(make_pool(max_size=1)) as holder, holder.connection():
        with pytest.raises(PoolTimeout, match=r"couldn't get a connection after 0\.05 sec"):
            await holder.getconn(timeout=0.05)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await holder.getconn()
        assert holder.get_stats()["requests_waiting"] == 0
        assert holder.in_use == 1


async def test_max_waiting_is_kept(make_pool: MakePool) -> None:
    async with holding(make_pool(max_size=1, max_waiting=1)) as holder:
        async with holder.connection():
            waiting = asyncio.create_task(holder.getconn(PATIENCE))
            await eventually(lambda: holder.get_stats()["requests_waiting"] == 1)
            with pytest.raises(TooManyRequests):
                await holder.getconn(PATIENCE)
        await holder.putconn(await waiting)


async def test_a_replace_that_fails_changes_nothing(make_pool: MakePool) -> None:
    async with holding(make_pool()) as holder:
        bad = AsyncConnectionPool("host=127.0.0.1 port=1 dbname=x", min_size=1, open=False)
        with pytest.raises(PoolTimeout):
            await holder.replace(bad, timeout=0.2)
        assert bad.closed

        async def refuse(_: AsyncConnectionPool) -> None:
            raise RuntimeError("not good enough")

        unproven = make_pool()
        with pytest.raises(RuntimeError, match="not good enough"):
            await holder.replace(unproven, prove=refuse)
        assert unproven.closed
        assert holder.generation == 1
        async with holder.connection() as conn:
            await conn.execute("select 1")


async def test_a_cancelled_replace_has_done_nothing(make_pool: MakePool) -> None:
    entered = asyncio.Event()

    async def prove(_: AsyncConnectionPool) -> None:
        entered.set()
        await asyncio.Event().wait()

    async with holding(make_pool()) as holder:
        new = make_pool()
        task = asyncio.create_task(holder.replace(new, prove=prove))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert new.closed
        assert not holder.serves(new)
        await holder.replace(make_pool())


async def test_concurrent_replaces_queue_up(make_pool: MakePool) -> None:
    async with holding(make_pool()) as holder:
        done = await asyncio.gather(*(holder.replace(make_pool()) for _ in range(4)))
        assert [replacement.generation for replacement in done] == [2, 3, 4, 5]
        assert holder.get_stats()["generations_alive"] <= 2


async def test_a_pool_cannot_replace_itself(make_pool: MakePool) -> None:
    pool = make_pool()
    async with holding(pool) as holder:
        with pytest.raises(ValueError, match="already"):
            await holder.replace(pool)
        with pytest.raises(TypeError):
            await holder.replace(HotSwapPool(make_pool()))
        assert not pool.closed


@pytest.mark.parametrize("what", ["idle", "transaction", "statement"])
async def test_who_does_not_return_a_connection_is_named_and_cut_off(make_pool: MakePool, what: str) -> None:
    events: list[Event] = []
    async with holding(make_pool(), listener=events.append) as holder:
        conn = await holder.getconn()
        statement: asyncio.Task[object] | None = None
        if what == "transaction":
            await conn.execute("select 1")
        elif what == "statement":
            statement = asyncio.create_task(conn.execute("select pg_sleep(3600)"))
            await eventually(lambda: conn.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE)
        replacement = await holder.replace(make_pool(), drain_timeout=0.05)
        if statement is not None:
            with pytest.raises(psycopg.Error):  # it wakes up, and does not wait for ever on a connection that is gone
                await asyncio.wait_for(statement, PATIENCE)
        drained = await replacement.drained
        [named] = drained.cut_off
        assert "test_holder.py" in named
        overdue = [event for event in events if isinstance(event, DrainOverdue)]
        assert [event.holders for event in overdue] == [drained.cut_off]
        with pytest.raises(psycopg.OperationalError):
            await conn.execute("select 1")
        await holder.putconn(conn)
        async with holder.connection() as other:
            await other.execute("select 1")
    assert [type(event) for event in events if not isinstance(event, DrainOverdue)] == [GenerationRetired, GenerationClosed]


async def test_the_budget_of_connections_is_kept(make_pool: MakePool, postgres: EmbeddedPostgres, conninfo: str) -> None:
    """Asked of the server itself, while 20 clients use a pool of 6 that is replaced ten times."""
    peak, stop = 0, False
    admin = postgres.admin_conninfo().get_secret_value()
    async with (
        holding(make_pool(min_size=2, max_size=6)) as holder,
        await psycopg.AsyncConnection.connect(admin, autocommit=True) as eye,
    ):

        async def watch() -> None:
            nonlocal peak
            while not stop:
                cursor = await eye.execute("select count(*) from pg_stat_activity where application_name = 'holder-test'")
                row = await cursor.fetchone()
                peak = max(peak, row[0] if row else 0)

        async def client() -> None:
            while not stop:
                async with holder.connection() as conn:
                    await conn.execute("select pg_sleep(0.002)")

        tasks = [asyncio.create_task(client()) for _ in range(20)] + [asyncio.create_task(watch())]
        for _ in range(10):
            await asyncio.sleep(0.05)
            await holder.replace(make_pool(min_size=2, max_size=6))
        stop = True
        await asyncio.gather(*tasks)
        stats = holder.get_stats()
    assert peak <= 6 + 2
    assert stats.get("requests_errors", 0) == 0


async def test_statistics_are_counted_on_across_generations(make_pool: MakePool) -> None:
    async with holding(make_pool()) as holder:
        seen: dict[str, int] = {}
        for _ in range(3):
            async with holder.connection():
                pass
            stats = holder.get_stats()
            assert all(stats[key] >= seen.get(key, 0) for key in ("requests_num", "connections_num", "usage_ms", "generation"))
            seen = stats
            replacement = await holder.replace(make_pool())
            await replacement.drained
        assert holder.pop_stats()["requests_num"] == 3
        assert holder.get_stats().get("requests_num", 0) == 0


async def test_refused_checkouts_fail_at_once_with_the_reason_until_the_next_replace(make_pool: MakePool) -> None:
    async with holding(make_pool(max_size=1)) as holder:
        held = await holder.getconn()
        waiting = asyncio.create_task(holder.getconn(PATIENCE))
        await eventually(lambda: holder.get_stats()["requests_waiting"] == 1)
        holder.refuse("no credential for role 'app'")
        for refused in (waiting, holder.getconn(PATIENCE)):
            with pytest.raises(NoCredential, match="no credential for role 'app'") as caught:
                await refused
            assert isinstance(caught.value, psycopg.OperationalError)
        await holder.putconn(held)
        await holder.replace(make_pool(max_size=1))
        async with holder.connection() as conn:
            await conn.execute("select 1")


async def test_close_sends_those_who_wait_away_and_keeps_connections_until_their_return(make_pool: MakePool) -> None:
    async with holding(make_pool(max_size=1)) as holder:
        conn = await holder.getconn()
        waiting = asyncio.create_task(holder.getconn(PATIENCE))
        await eventually(lambda: holder.get_stats()["requests_waiting"] == 1)
        await holder.close()
        with pytest.raises(PoolClosed):
            await waiting
        await conn.execute("select 1")
        await holder.putconn(conn)
        assert conn.closed


async def test_close_returns_is_kept(make_pool: MakePool) -> None:
    async with holding(make_pool(close_returns=True)) as holder:
        conn = await holder.getconn()
        await conn.close()
        assert not conn.pgconn.status
        assert holder.in_use == 0


async def test_a_foreign_or_returned_connection_is_refused(make_pool: MakePool, conninfo: str) -> None:
    async with holding(make_pool()) as holder:
        conn = await holder.getconn()
        await holder.putconn(conn)
        with pytest.raises(ValueError, match="can't return connection"):
            await holder.putconn(conn)
        async with await psycopg.AsyncConnection.connect(conninfo) as stranger:
            with pytest.raises(ValueError, match="doesn't come from any pool"):
                await holder.putconn(stranger)


async def test_resize_is_kept_and_a_null_pool_will_do(make_pool: MakePool, conninfo: str) -> None:
    async with holding(make_pool()) as holder:
        await holder.resize(2, 4)
        assert (holder.min_size, holder.max_size) == (2, 4)
        await holder.wait(PATIENCE)
        await holder.check()
        await holder.drain()
        await holder.replace(AsyncNullConnectionPool(conninfo, min_size=0, max_size=3, open=False))
        async with holder.connection() as conn:
            await conn.execute("select 1")


async def test_a_checkout_inside_a_checkout_on_a_pool_of_one_survives_a_replace(make_pool: MakePool) -> None:
    async with holding(make_pool(max_size=1)) as holder, holder.connection() as outer:
        await holder.replace(make_pool(max_size=1))
        async with holder.connection(timeout=PATIENCE) as inner:
            assert await backend(inner) != await backend(outer)


async def test_it_works_in_debug_mode(make_pool: MakePool) -> None:
    asyncio.get_running_loop().set_debug(True)
    async with holding(make_pool()) as holder:
        for _ in range(2):
            async with asyncio.timeout(PATIENCE):
                await (await holder.replace(make_pool())).drained


@pytest.mark.parametrize("culprit", ["hook", "listener"])
async def test_foreign_code_that_fails_wedges_nothing(conninfo: str, make_pool: MakePool, culprit: str) -> None:
    opened = 0

    async def configure(_: psycopg.AsyncConnection) -> None:
        nonlocal opened
        opened += 1
        if opened > 2:
            raise ValueError("a bug in the hook")

    def listener(_: Event) -> None:
        raise ValueError("a bug in the listener")

    async with holding(make_pool(min_size=2, max_size=4), listener=listener if culprit == "listener" else None) as holder:
        stop = False

        async def client() -> None:
            while not stop:
                async with holder.connection() as conn:
                    await conn.execute("select 1")

        clients = [asyncio.create_task(client()) for _ in range(4)]
        hook = configure if culprit == "hook" else None
        async with asyncio.timeout(PATIENCE):
            with suppress(ValueError):  # while it is warmed, it fails the replace; later, it is the new pool's own affair
                broken = AsyncConnectionPool(conninfo, min_size=2, max_size=4, open=False, configure=hook)
                await (await holder.replace(broken, drain_timeout=2.0)).drained
            await (await holder.replace(make_pool(max_size=4))).drained
            stop = True
            await asyncio.gather(*clients)
        assert holder.get_stats()["generations_alive"] == 1
        assert holder.get_stats().get("requests_errors", 0) == 0


@pytest.mark.parametrize("way", ["close", "finish"])
@pytest.mark.parametrize("ticks", [0, 1, 2, 3, 5, 8])
async def test_ending_right_after_a_swap_closes_every_connection(make_pool: MakePool, way: str, ticks: int) -> None:
    old = make_pool(min_size=2, max_size=2)
    holder = HotSwapPool(old)
    await holder.open(wait=True)
    idle = list(old._pool)
    replacing = asyncio.create_task(holder.replace(make_pool()))
    await eventually(lambda: holder.generation == 2)
    for _ in range(ticks):
        await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE):
        await (holder.close() if way == "close" else holder.finish(1.0))
        await asyncio.wait([replacing])
    await eventually(lambda: all(conn.closed for conn in idle))


async def test_a_cancelled_close_still_closes(make_pool: MakePool) -> None:
    pool = make_pool()
    holder = HotSwapPool(pool)
    await holder.open(wait=True)
    closing = asyncio.create_task(holder.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    await holder.close()
    assert pool.closed


async def test_a_connection_under_a_slow_reset_hook_is_closed_before_its_generation_counts_as_drained(
    make_pool: MakePool,
) -> None:
    release = asyncio.Event()

    async def reset(_: psycopg.AsyncConnection) -> None:
        await release.wait()

    async with holding(make_pool(min_size=2, max_size=2, reset=reset)) as holder:
        conns = [await holder.getconn(), await holder.getconn()]
        for conn in conns:
            await holder.putconn(conn)
        replacing = asyncio.create_task(holder.replace(make_pool()))
        await eventually(lambda: holder.generation == 2)
        release.set()
        await (await replacing).drained
        assert all(conn.closed for conn in conns)


async def test_a_managed_pool_is_closed_by_its_manager_only(make_pool: MakePool) -> None:
    holder = HotSwapPool(make_pool(), managed=True)
    async with holder:
        await holder.wait(PATIENCE)
    await holder.close()
    async with holder.connection() as conn:
        await conn.execute("select 1")
    await holder.finish(1.0)
    assert holder.closed


async def test_a_replace_cancelled_in_its_queue_closes_its_pool(make_pool: MakePool) -> None:
    async with holding(make_pool()) as holder:
        gate = asyncio.Event()

        async def prove(_: AsyncConnectionPool) -> None:
            await gate.wait()

        first = asyncio.create_task(holder.replace(make_pool(), prove=prove))
        pool = make_pool()
        await pool.open(wait=True)
        second = asyncio.create_task(holder.replace(pool))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second])
        assert pool.closed
        gate.set()
        assert (await first).generation == 2
