"""What a HotSwapPool does beyond a pool: try, transaction, info, retirement; and what is set for each of its generations."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from time import monotonic

import psycopg
import pytest
from psycopg.errors import InFailedSqlTransaction, QueryCanceled
from psycopg_pool import AsyncConnectionPool, AsyncNullConnectionPool, PoolClosed, PoolTimeout

from tests.pools import PATIENCE, MakePool, holding, numbers
from tests.proxy import proxy_to
from tests.servers import Mount
from tests.waiting import eventually
from vault_pg import DatabaseSettings, HotSwapPool, LeaseManager, NoCredential, Settings, TokenAuth, VaultSettings
from vault_pg.dev import EmbeddedPostgres

# -- try_connection


async def test_try_connection_gives_an_idle_connection_and_takes_it_back(make_pool: MakePool) -> None:
    async with holding(make_pool()) as holder:
        async with holder.try_connection() as conn:
            assert conn is not None
            assert await (await conn.execute("select 1")).fetchone() == (1,)
            [borrow] = holder.borrowers
            assert "test_pool_features.py" in borrow.where
            assert holder.in_use == 1
        assert holder.in_use == 0
        assert holder.get_stats()["pool_available"] == 1
        assert holder.get_stats()["requests_num"] == 1


async def test_try_connection_gives_none_where_it_would_have_to_wait(make_pool: MakePool) -> None:
    """All are out, though the pool may grow: it neither waits nor opens one."""
    async with holding(make_pool(max_size=5)) as holder, holder.connection():
        before = holder.get_stats()
        async with holder.try_connection() as conn:
            assert conn is None
        assert holder.get_stats() == before


async def test_try_connection_gives_none_from_a_pool_that_keeps_none(make_pool: MakePool, conninfo: str) -> None:
    async with HotSwapPool(make_pool(min_size=0)) as holder:
        async with holder.try_connection() as conn:
            assert conn is None
        await holder.replace(AsyncNullConnectionPool(conninfo, min_size=0, max_size=3, open=False))
        async with holder.try_connection() as conn:
            assert conn is None


async def test_try_connection_jumps_no_line(make_pool: MakePool) -> None:
    async with holding(make_pool(max_size=1)) as holder:
        async with holder.connection():
            waiting = asyncio.create_task(holder.getconn(PATIENCE))
            await eventually(lambda: holder.get_stats()["requests_waiting"] == 1)
        async with holder.try_connection() as conn:
            assert conn is None
        await holder.putconn(await waiting)


async def test_try_connection_serves_from_the_generation_that_serves(make_pool: MakePool) -> None:
    async with holding(make_pool()) as holder:
        replacement = await holder.replace(make_pool())
        await replacement.drained
        async with holder.try_connection() as conn:
            assert conn is not None
            assert holder.connection_info(conn).generation == 2


async def test_try_connection_passes_over_a_connection_that_fails_the_check(make_pool: MakePool) -> None:
    async with holding(make_pool(min_size=2, check=AsyncConnectionPool.check_connection)) as holder:
        async with holder.connection() as conn:
            async with holder.connection() as lost:  # goes back first, and would be given first
                await conn.execute("select pg_terminate_backend(%s)", [lost.info.backend_pid])
            alive = conn.info.backend_pid
        async with holder.try_connection() as found:
            assert found is not None
            assert found.info.backend_pid == alive
        await eventually(lambda: holder.get_stats()["pool_available"] == 2)
        assert holder.in_use == 0


async def test_try_connection_says_why_there_can_be_none(make_pool: MakePool) -> None:
    async with holding(make_pool()) as holder:
        holder.refuse("no credential for role 'app'")
        with pytest.raises(NoCredential):
            async with holder.try_connection():
                pass
    with pytest.raises(PoolClosed):
        async with holder.try_connection():
            pass


# -- transaction


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("autocommit", [False, True])
async def test_a_transaction_is_committed_or_rolled_back(make_pool: MakePool, conninfo: str, autocommit: bool) -> None:
    async with holding(make_pool(kwargs={"autocommit": autocommit})) as holder:

        async def insert(number: int, error: Exception | None = None) -> None:
            async with holder.transaction() as conn:
                await conn.execute("insert into ledger values (%s)", [number])
                if error is not None:
                    raise error

        await insert(1)
        with pytest.raises(ZeroDivisionError):
            await insert(2, ZeroDivisionError())
        await insert(3, psycopg.Rollback())
        async with holder.transaction(force_rollback=True) as conn:
            await conn.execute("insert into ledger values (4)")
        async with holder.transaction(savepoint_name="start") as conn:
            await conn.execute("insert into ledger values (5)")
            await conn.execute("rollback to start")
            await conn.execute("insert into ledger values (6)")
        assert holder.in_use == 0
    assert await numbers(conninfo) == [1, 6]


@pytest.mark.usefixtures("table")
async def test_a_transaction_that_cannot_commit_does_not_end_in_silence(make_pool: MakePool, conninfo: str) -> None:
    """PostgreSQL answers its COMMIT with ROLLBACK, and psycopg takes that for a success."""
    async with holding(make_pool()) as holder:

        async def catch(statement: str) -> None:
            async with holder.transaction() as conn:
                await conn.execute("insert into ledger values (1)")
                with suppress(psycopg.Error):
                    await conn.execute(statement)

        with pytest.raises(InFailedSqlTransaction, match="nothing can be committed"):
            await catch("select 1/0")
        with pytest.raises(psycopg.OperationalError, match="nothing is committed"):
            await catch("select pg_terminate_backend(pg_backend_pid())")
        async with holder.connection(PATIENCE) as conn:
            await conn.execute("select 1")
    assert await numbers(conninfo) == []


@pytest.mark.usefixtures("table")
async def test_a_transaction_survives_a_replace_and_takes_a_timeout(make_pool: MakePool, conninfo: str) -> None:
    async with holding(make_pool(max_size=1)) as holder:
        async with holder.transaction() as conn:
            await conn.execute("insert into ledger values (1)")
            with pytest.raises(PoolTimeout):
                async with holder.transaction(timeout=0.05):
                    pass
            replacement = await holder.replace(make_pool(max_size=1))
            await conn.execute("insert into ledger values (2)")
        await replacement.drained
    assert await numbers(conninfo) == [1, 2]


# -- connection_info


async def test_connection_info_tells_of_a_connection_that_is_out(make_pool: MakePool) -> None:
    async with holding(make_pool(max_size=1)) as holder:
        async with holder.connection() as conn:
            await asyncio.sleep(0.05)
            first = holder.connection_info(conn)
            used_until = monotonic()
        await asyncio.sleep(0.05)
        async with holder.connection() as conn:
            asked = monotonic()
            second = holder.connection_info(conn)
            away = monotonic() - used_until
        assert (first.generation, first.lease_id, first.checkouts, second.checkouts) == (1, None, 1, 2)
        assert 0.04 <= second.idle <= away
        assert second.age >= asked - used_until + 0.04
        assert second.age > first.age
        assert second.checked_out_at > first.checked_out_at
        assert "test_pool_features.py" in second.where
        with pytest.raises(ValueError, match="ask while you hold it"):
            holder.connection_info(conn)
        replacement = await holder.replace(make_pool(max_size=1))
        await replacement.drained
        async with holder.connection() as conn:
            fresh = holder.connection_info(conn)
        assert (fresh.generation, fresh.checkouts) == (2, 1)


async def test_connection_info_tells_the_lease(mount: Mount, tmp_path: Path) -> None:
    settings = Settings(
        vault=VaultSettings(address=mount.server.address, auth=TokenAuth(token=mount.token())),
        databases={"default": DatabaseSettings(role="app", mount=mount.path, conninfo=mount.postgres.conninfo())},
        runtime_dir=tmp_path,
    )
    async with LeaseManager(settings) as manager:
        pool = manager.get_pool()
        seen = []
        for _ in range(2):
            async with pool.connection() as conn:
                seen.append(pool.connection_info(conn).lease_id)
            await manager.rotate()
        assert None not in seen
        assert len(set(seen)) == 2
        assert all(lease_id is not None and lease_id.startswith(f"{mount.path}/creds/app/") for lease_id in seen)


# -- retiring


async def test_a_loop_moves_on_when_its_generation_retires(make_pool: MakePool) -> None:
    async with holding(make_pool()) as holder:
        seen: list[int] = []

        async def work() -> None:
            while len(seen) < 2:
                async with holder.connection() as conn:
                    signal = holder.retiring(conn)
                    seen.append(holder.connection_info(conn).generation)
                    while not signal:
                        await conn.execute("select pg_sleep(0.001)")

        worker = asyncio.create_task(work())
        await eventually(lambda: seen == [1])
        replacement = await holder.replace(make_pool(), drain_timeout=PATIENCE)
        drained = await replacement.drained
        assert drained.cut_off == ()
        await eventually(lambda: seen == [1, 2])
        await holder.replace(make_pool())
        await worker


async def test_a_long_statement_is_cancelled_when_its_generation_retires(make_pool: MakePool) -> None:
    async with holding(make_pool()) as holder:
        async with holder.connection() as conn:
            signal = holder.retiring(conn)

            async def interrupt() -> None:
                await signal
                await conn.cancel_safe()

            interrupter = asyncio.create_task(interrupt())
            statement = asyncio.create_task(conn.execute("select pg_sleep(3600)"))
            await eventually(lambda: conn.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE)
            assert (bool(signal), signal.is_set(), signal.deadline) == (False, False, None)
            replacement = await holder.replace(make_pool(), drain_timeout=PATIENCE)
            with pytest.raises(QueryCanceled):
                await statement
            await interrupter
            assert signal
            assert signal.deadline is not None
            assert 0 < signal.deadline <= PATIENCE
            await signal.wait()
        assert (await replacement.drained).cut_off == ()


async def test_closing_the_pool_gives_the_signal_too(make_pool: MakePool) -> None:
    async with holding(make_pool()) as holder:
        conn = await holder.getconn()
        signal = holder.retiring(conn)
        waiting = asyncio.create_task(signal.wait())
        await holder.close()
        await asyncio.wait_for(waiting, PATIENCE)
        assert signal
        assert signal.deadline is None
        await holder.putconn(conn)
        with pytest.raises(ValueError, match="ask while you hold it"):
            holder.retiring(conn)


# -- what each generation brings


async def test_a_pool_that_opens_lazily_stays_lazy_over_replaces(make_pool: MakePool) -> None:
    async with HotSwapPool(make_pool(min_size=0)) as holder:
        assert holder.get_stats()["pool_size"] == 0
        for generation in (2, 3):
            replacement = await holder.replace(make_pool(min_size=0))
            await replacement.drained
            assert holder.get_stats()["pool_size"] == 0
            async with holder.connection(PATIENCE) as conn:
                assert holder.connection_info(conn).generation == generation
            assert holder.get_stats()["pool_size"] == 1


async def test_the_timeout_of_a_checkout_holds_over_replaces(make_pool: MakePool) -> None:
    async with holding(make_pool(max_size=1, timeout=0.05)) as holder:
        replacement = await holder.replace(make_pool(max_size=1, timeout=0.05))
        await replacement.drained
        async with holder.connection():
            with pytest.raises(PoolTimeout, match=r"0\.05 sec"):
                await holder.getconn()


async def test_max_lifetime_is_that_of_the_generation(make_pool: MakePool) -> None:
    async with holding(make_pool(max_size=1, max_lifetime=3600.0)) as holder:
        async with holder.connection() as conn:
            await conn.execute("select pg_sleep(0.01)")
            first = conn.info.backend_pid
        async with holder.connection() as conn:
            assert conn.info.backend_pid == first
        replacement = await holder.replace(make_pool(max_size=1, max_lifetime=0.001, max_idle=77.0))
        await replacement.drained
        assert (holder.max_lifetime, holder.max_idle) == (0.001, 77.0)
        pids = set()
        for _ in range(3):
            async with holder.connection(PATIENCE) as conn:
                await conn.execute("select pg_sleep(0.01)")
                pids.add(conn.info.backend_pid)
                assert holder.connection_info(conn).generation == 2
        assert len(pids) == 3


async def test_a_connection_that_is_cut_is_replaced(postgres: EmbeddedPostgres, conninfo: str) -> None:
    async with proxy_to(postgres) as proxy:
        pool = AsyncConnectionPool(proxy.conninfo(conninfo), min_size=1, max_size=1, open=False)
        async with holding(pool) as holder:
            async with holder.connection() as conn:
                assert proxy.cut() == 1
                with pytest.raises(psycopg.OperationalError):
                    await conn.execute("select 1")
            async with holder.connection(PATIENCE) as conn:
                await conn.execute("select 1")
