"""What psycopg_pool's documentation promises of a pool, asked of its own pool, of a holder, and of a holder whose pool was replaced."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeAlias

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, AsyncNullConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from tests.waiting import LONG, eventually
from vault_pg import HotSwapPool
from vault_pg.dev import EmbeddedPostgres

Connection: TypeAlias = psycopg.AsyncConnection[Any]
Pool: TypeAlias = AsyncConnectionPool[Any]
SHORT = 0.05
"""Seconds for what is to time out: nothing that is waited for could come at all."""

COUNTERS = ("requests_num", "requests_queued", "requests_errors", "usage_ms", "returns_bad", "connections_num", "connections_ms")
MEASURES = ("pool_min", "pool_max", "pool_size", "pool_available", "requests_waiting")


class MakePool(Protocol):
    def __call__(self, *, cls: type[Pool] = ..., **options: Any) -> Pool: ...


class OtherConnection(psycopg.AsyncConnection[Any]):
    pass


class ReplacedPool(HotSwapPool[Any]):
    """A holder that has another pool behind it, made alike, as soon as it is open."""

    def __init__(self, make: Callable[[], Pool]) -> None:
        super().__init__(make())
        self._make = make

    async def open(self, wait: bool = False, timeout: float = LONG) -> None:
        first = self.closed
        await super().open(wait, timeout)
        if first:
            replacement = await self.replace(self._make(), timeout=timeout)
            await replacement.drained


@pytest.fixture
def conninfo(postgres: EmbeddedPostgres) -> str:
    return f"{postgres.admin_conninfo().get_secret_value()} application_name=as-pool-test"


@pytest.fixture(params=["psycopg_pool", "holder", "replaced"])
def make(request: pytest.FixtureRequest, conninfo: str) -> MakePool:
    """Makes pools that are not open yet."""

    def make(*, cls: type[Pool] = AsyncConnectionPool, **options: Any) -> Pool:
        settings: dict[str, Any] = {"conninfo": conninfo, "open": False} | options

        def new() -> Pool:
            return cls(**settings)

        match request.param:
            case "psycopg_pool":
                return new()
            case "holder":
                return HotSwapPool(new())
            case _:
                return ReplacedPool(new)

    return make


@pytest.fixture
def nowhere() -> Iterator[str]:
    """The conninfo of a server that is not there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"host=127.0.0.1 port={taken.getsockname()[1]} dbname=app user=nobody"


only_unreplaced = pytest.mark.parametrize("make", ["psycopg_pool", "holder"], indirect=True)
"""For what is about the first opening."""


@asynccontextmanager
async def ready(pool: Pool) -> AsyncIterator[Pool]:
    async with pool:
        await pool.wait(LONG)
        pool.pop_stats()
        yield pool


async def pid(conn: Connection) -> int:
    return conn.info.backend_pid


async def checked_out(pool: Pool) -> int:
    async with pool.connection() as conn:
        return await pid(conn)


def kill(postgres: EmbeddedPostgres, *pids: int) -> None:
    """End server processes, and return when they are gone."""
    with postgres.admin() as conn:
        for number in pids:
            conn.execute("select pg_terminate_backend(%s, 60000)", [number])


async def waiting(pool: Pool, count: int) -> None:
    await eventually(lambda: pool.get_stats()["requests_waiting"] == count, f"{count} clients wait")


# -- the constructor


@pytest.mark.parametrize(
    ("options", "sizes"), [({}, (4, 4)), ({"min_size": 2}, (2, 2)), ({"min_size": 0, "max_size": 3}, (0, 3))]
)
async def test_sizes(make: MakePool, options: dict[str, Any], sizes: tuple[int, int]) -> None:
    async with ready(make(**options)) as pool:
        assert (pool.min_size, pool.max_size) == sizes
        stats = pool.get_stats()
        assert (stats["pool_min"], stats["pool_max"]) == sizes


async def test_what_it_was_made_with(make: MakePool, conninfo: str) -> None:
    given: dict[str, Any] = {
        "timeout": 7.0, "max_waiting": 3, "max_lifetime": 70.0, "max_idle": 60.0, "reconnect_timeout": 50.0,
        "num_workers": 2, "name": "mine", "kwargs": {"autocommit": True}, "connection_class": OtherConnection, "close_returns": True,
    }  # fmt: skip
    async with ready(make(**given)) as pool:
        assert isinstance(pool, AsyncConnectionPool)
        assert {name: getattr(pool, name) for name in given} == given
        assert pool.conninfo == conninfo
        assert "'mine'" in repr(pool)


async def test_defaults(make: MakePool) -> None:
    pool = make()
    assert pool.name.startswith("pool-")
    assert (pool.timeout, pool.max_waiting, pool.max_lifetime, pool.max_idle) == (30.0, 0, 3600.0, 600.0)
    assert (pool.reconnect_timeout, pool.num_workers, pool.close_returns) == (300.0, 3, False)


async def test_connection_class_and_kwargs(make: MakePool) -> None:
    kwargs = {"autocommit": True, "row_factory": dict_row}
    async with ready(make(min_size=1, connection_class=OtherConnection, kwargs=kwargs)) as pool, pool.connection() as conn:
        assert type(conn) is OtherConnection
        assert conn.autocommit
        assert await (await conn.execute("select 1 as n")).fetchone() == {"n": 1}


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_conninfo_and_kwargs_are_asked_for_at_every_connection(make: MakePool, conninfo: str, asynchronous: bool) -> None:
    asked: list[str] = []

    def answer(name: str, value: object) -> Callable[[], object]:
        def now() -> object:
            asked.append(name)
            return value

        async def later() -> object:
            return now()

        return later if asynchronous else now

    kwargs = answer("kwargs", {"autocommit": True})
    async with ready(make(min_size=2, conninfo=answer("conninfo", conninfo), kwargs=kwargs)) as pool:
        before = len(asked)
        assert before >= 4
        await pool.resize(3)
        await eventually(lambda: pool.get_stats()["pool_available"] == 3)
        assert sorted(asked[before:]) == ["conninfo", "kwargs"]


# -- open, wait, close


async def test_it_serves_nobody_before_it_is_open(make: MakePool) -> None:
    pool = make(min_size=1)
    assert pool.closed
    with pytest.raises(PoolClosed, match="not open"):
        await pool.getconn()
    with pytest.raises(PoolClosed, match="not open"):
        await pool.wait()


async def test_it_can_be_opened_again_while_it_is_open(make: MakePool) -> None:
    pool = make(min_size=1)
    await pool.open()
    await pool.open()
    await pool.wait(LONG)
    assert not pool.closed
    assert pool.get_stats()["pool_available"] == 1
    await pool.close()


async def test_it_is_closed_for_good(make: MakePool) -> None:
    pool = make(min_size=1)
    await pool.open(wait=True, timeout=LONG)
    await pool.close()
    await pool.close()
    assert pool.closed
    with pytest.raises(PoolClosed, match="closed"):
        await pool.getconn()
    with pytest.raises(PoolClosed):
        await pool.wait()
    with pytest.raises(PoolClosed):
        await pool.open()


async def test_a_block_opens_and_closes(make: MakePool) -> None:
    pool = make(min_size=1)
    async with pool as entered:
        assert entered is pool
        assert not pool.closed
        assert await checked_out(pool)
    assert pool.closed


async def test_open_and_wait_in_one(make: MakePool) -> None:
    pool = make(min_size=3)
    await pool.open(wait=True, timeout=LONG)
    assert pool.get_stats()["pool_available"] == 3
    await pool.close()


@only_unreplaced
async def test_a_block_around_a_pool_that_says_nothing_of_opening_warns_of_nothing(make: MakePool) -> None:
    async with make(min_size=1, open=None) as pool:
        assert await checked_out(pool)


@only_unreplaced
async def test_opening_in_the_constructor_warns_and_works(make: MakePool) -> None:
    with pytest.warns(RuntimeWarning, match="constructor"):
        pool = make(min_size=1, open=True)
    assert not pool.closed
    assert await checked_out(pool)
    await pool.close()


@only_unreplaced
async def test_a_pool_that_was_never_opened_explicitly_warns_when_it_is_used(make: MakePool) -> None:
    pool = make(min_size=1, open=None)
    with pytest.warns(RuntimeWarning, match="constructor"):
        await checked_out(pool)
    await pool.close()


@only_unreplaced
async def test_a_wait_that_times_out_closes_the_pool(make: MakePool, nowhere: str) -> None:
    pool = make(conninfo=nowhere)
    await pool.open()
    with pytest.raises(PoolTimeout):
        await pool.wait(SHORT)
    assert pool.closed
    pool = make(conninfo=nowhere)
    with pytest.raises(PoolTimeout):
        await pool.open(wait=True, timeout=SHORT)
    assert pool.closed


async def test_closing_sends_waiters_away_and_leaves_borrowers_alone(make: MakePool) -> None:
    pool = make(min_size=1)
    await pool.open(wait=True, timeout=LONG)
    conn = await pool.getconn()
    waiter = asyncio.create_task(pool.getconn(LONG))
    await waiting(pool, 1)
    await pool.close()
    with pytest.raises(PoolClosed):
        await waiter
    await conn.execute("select 1")
    await pool.putconn(conn)
    assert conn.closed


# -- checkout and return


async def test_a_block_commits_or_rolls_back(make: MakePool) -> None:
    async with ready(make(min_size=1)) as pool:
        async with pool.connection() as conn:
            await conn.execute("create temp table t (n int)")
        with pytest.raises(psycopg.errors.DivisionByZero):
            await _insert_and_fail(pool)
        async with pool.connection() as conn:
            assert await (await conn.execute("select count(*) from t")).fetchone() == (0,)


async def _insert_and_fail(pool: Pool) -> None:
    async with pool.connection() as conn:
        await conn.execute("insert into t values (1)")
        await conn.execute("select 1 / 0")


async def test_a_return_ends_an_open_transaction(make: MakePool) -> None:
    async with ready(make(min_size=1)) as pool:
        conn = await pool.getconn()
        await conn.execute("select 1")
        await pool.putconn(conn)
        again = await pool.getconn()
        assert again is conn
        assert again.info.transaction_status == TransactionStatus.IDLE
        await pool.putconn(again)


async def test_only_what_it_has_lent_can_be_returned(make: MakePool, conninfo: str) -> None:
    async with ready(make(min_size=1)) as pool, ready(make(min_size=1)) as other:
        conn = await other.getconn()
        with pytest.raises(ValueError, match=r"can't return connection to pool .* it comes from pool"):
            await pool.putconn(conn)
        await other.putconn(conn)
        with pytest.raises(ValueError, match="can't return connection to pool"):
            await other.putconn(conn)
        async with await psycopg.AsyncConnection.connect(conninfo) as stranger:
            with pytest.raises(ValueError, match="doesn't come from any pool"):
                await pool.putconn(stranger)


async def test_clients_get_what_is_returned_in_the_order_of_asking(make: MakePool) -> None:
    served: list[int] = []
    async with ready(make(min_size=1)) as pool:

        async def client(number: int) -> None:
            async with pool.connection(LONG):
                served.append(number)

        async with asyncio.TaskGroup() as group, pool.connection():
            for number in range(5):
                group.create_task(client(number))
                await waiting(pool, number + 1)
    assert served == [0, 1, 2, 3, 4]


async def test_a_checkout_times_out(make: MakePool) -> None:
    async with ready(make(min_size=1, timeout=SHORT)) as pool:
        async with pool.connection():
            with pytest.raises(PoolTimeout, match=r"0\.05 sec"):
                await pool.getconn()
            with pytest.raises(PoolTimeout, match=r"0\.01 sec"):
                async with pool.connection(timeout=0.01):
                    pass
        assert pool.get_stats()["requests_errors"] == 2
        assert issubclass(PoolTimeout, psycopg.OperationalError)
        with pytest.raises(PoolTimeout):
            await pool.getconn(timeout=0)
        assert pool.get_stats()["pool_available"] == 1


async def test_no_more_wait_than_may(make: MakePool) -> None:
    async with ready(make(min_size=1, max_waiting=2, name="narrow")) as pool, asyncio.TaskGroup() as group, pool.connection():
        for number in (1, 2):
            group.create_task(checked_out(pool))
            await waiting(pool, number)
        with pytest.raises(TooManyRequests, match="'narrow' has already 2 requests waiting"):
            await pool.getconn()
        assert pool.get_stats()["requests_errors"] == 1


async def test_a_client_that_gives_up_costs_nobody_a_connection(make: MakePool) -> None:
    async with ready(make(min_size=1)) as pool:
        async with pool.connection():
            client = asyncio.create_task(pool.getconn(LONG))
            await waiting(pool, 1)
            client.cancel()
            with pytest.raises(asyncio.CancelledError):
                await client
        assert await checked_out(pool)
        assert pool.get_stats()["pool_size"] == 1


async def test_it_grows_to_max_size_and_shrinks_back(make: MakePool) -> None:
    async with ready(make(min_size=1, max_size=3, max_idle=0.1)) as pool:
        conns = [await pool.getconn(LONG) for _ in range(3)]
        assert len({await pid(conn) for conn in conns}) == 3
        assert pool.get_stats()["pool_size"] == 3
        with pytest.raises(PoolTimeout):
            await pool.getconn(SHORT)
        for conn in conns:
            await pool.putconn(conn)
        await eventually(lambda: pool.get_stats()["pool_size"] == 1, "the pool has shrunk")


async def test_a_broken_connection_is_replaced(make: MakePool) -> None:
    async with ready(make(min_size=1)) as pool:
        async with pool.connection() as conn:
            before = await pid(conn)
            await conn.close()
        assert await checked_out(pool) != before
        assert pool.get_stats()["returns_bad"] == 1


async def test_a_connection_past_its_lifetime_is_replaced_on_its_return(make: MakePool) -> None:
    async with ready(make(min_size=1, max_lifetime=0.0)) as pool:
        assert await checked_out(pool) != await checked_out(pool)


async def test_closing_a_connection_can_mean_returning_it(make: MakePool) -> None:
    async with ready(make(min_size=1, close_returns=True)) as pool:
        conn = await pool.getconn()
        await conn.close()
        assert not conn.closed
        assert pool.get_stats()["pool_available"] == 1
        async with pool.connection() as again:
            assert again is conn


async def test_who_returns_a_connection_in_its_own_block_is_told(make: MakePool) -> None:
    async def return_and_fail(pool: Pool) -> None:
        async with pool.connection() as conn:
            await conn.close()
            raise psycopg.errors.InsufficientPrivilege("mine")

    async with ready(make(min_size=1, close_returns=True)) as pool:
        with pytest.raises(ValueError, match="can't return connection") as caught:
            await return_and_fail(pool)
        assert isinstance(caught.value.__context__, psycopg.errors.InsufficientPrivilege)


# -- sizes, checks, drain


async def test_resize(make: MakePool) -> None:
    async with ready(make(min_size=1)) as pool:
        await pool.resize(2, 3)
        assert (pool.min_size, pool.max_size) == (2, 3)
        await eventually(lambda: pool.get_stats()["pool_available"] == 2)
        conns = [await pool.getconn(LONG) for _ in range(3)]
        for conn in conns:
            await pool.putconn(conn)
        for sizes in ((-1, 1), (3, 2), (0, 0)):
            with pytest.raises(ValueError, match="size"):
                await pool.resize(*sizes)
        assert (pool.min_size, pool.max_size) == (2, 3)


async def test_check_replaces_what_is_broken(make: MakePool, postgres: EmbeddedPostgres) -> None:
    async with ready(make(min_size=2)) as pool:
        conns = [await pool.getconn(), await pool.getconn()]
        before = [await pid(conn) for conn in conns]
        for conn in conns:
            await pool.putconn(conn)
        kill(postgres, before[0])
        await pool.check()
        await eventually(lambda: pool.get_stats()["pool_available"] == 2)
        assert pool.get_stats()["connections_lost"] == 1
        after = {await checked_out(pool), await checked_out(pool)}
        assert before[0] not in after
        assert before[1] in after


async def test_check_says_what_it_discards(make: MakePool, postgres: EmbeddedPostgres, caplog: pytest.LogCaptureFixture) -> None:
    async with ready(make(min_size=2)) as pool:
        broken, old = await pool.getconn(), await pool.getconn()
        for conn in (broken, old):
            await pool.putconn(conn)
        kill(postgres, await pid(broken))
        old._expire_at = 0.0
        with caplog.at_level(logging.INFO, logger="psycopg.pool"):
            await pool.check()
            stats = pool.get_stats()
        said = [(record.levelname, record.getMessage()) for record in caplog.records]
        assert ("WARNING", f"discarding broken connection: {broken}") in said
        assert any(level == "INFO" and words.startswith("discarding expired connection") for level, words in said)
        assert stats["connections_lost"] == 1
        await eventually(lambda: pool.get_stats()["pool_available"] == 2)


async def test_a_check_resets_nothing(make: MakePool) -> None:
    resets: list[Connection] = []

    async def reset(conn: Connection) -> None:
        resets.append(conn)

    async with ready(make(min_size=2, reset=reset)) as pool:
        await pool.check()
        assert pool.get_stats()["pool_available"] == 2
        await checked_out(pool)
        await eventually(lambda: pool.get_stats()["pool_available"] == 2)
        assert len(resets) == 1


async def test_drain_replaces_every_connection(make: MakePool) -> None:
    async with ready(make(min_size=2)) as pool:
        idle, out = await pool.getconn(), await pool.getconn()
        before = {await pid(idle), await pid(out)}
        await pool.putconn(idle)
        await pool.drain()
        assert idle.closed
        await out.execute("select 1")
        await pool.putconn(out)
        assert out.closed
        await eventually(lambda: pool.get_stats()["pool_available"] == 2)
        assert not before & {await checked_out(pool), await checked_out(pool)}


# -- hooks


async def test_configure_sees_each_connection_once(make: MakePool) -> None:
    seen: list[Connection] = []

    async def configure(conn: Connection) -> None:
        seen.append(conn)
        await conn.execute("set application_name = 'configured'")
        await conn.commit()

    async with ready(make(min_size=1, configure=configure)) as pool:
        for _ in range(2):
            async with pool.connection() as conn:
                assert seen.count(conn) == 1
                assert await (await conn.execute("show application_name")).fetchone() == ("configured",)


@only_unreplaced
async def test_a_connection_that_configure_leaves_in_a_transaction_serves_nobody(make: MakePool) -> None:
    async def configure(conn: Connection) -> None:
        await conn.execute("select 1")

    async with make(min_size=1, configure=configure) as pool:
        with pytest.raises(PoolTimeout):
            await pool.getconn(SHORT)


async def test_check_is_asked_at_every_checkout_and_a_bad_connection_is_not_given(
    make: MakePool, postgres: EmbeddedPostgres
) -> None:
    asked: list[int] = []

    async def check(conn: Connection) -> None:
        asked.append(conn.info.backend_pid)
        await AsyncConnectionPool.check_connection(conn)

    async with ready(make(min_size=1, check=check)) as pool:
        first = await checked_out(pool)
        kill(postgres, first)
        second = await checked_out(pool)
        assert asked == [first, first, second]
        assert pool.get_stats()["connections_lost"] == 1


async def test_a_check_that_never_passes_is_a_time_out(make: MakePool) -> None:
    async def check(conn: Connection) -> None:
        raise ZeroDivisionError

    async with ready(make(min_size=1, check=check)) as pool:
        with pytest.raises(PoolTimeout, match=r"0\.05 sec"):
            await pool.getconn(SHORT)
        assert pool.get_stats()["pool_available"] == 1


async def test_reset_gets_what_is_returned_out_of_its_transaction(make: MakePool) -> None:
    seen: list[tuple[int, TransactionStatus]] = []

    async def reset(conn: Connection) -> None:
        seen.append((conn.info.backend_pid, conn.info.transaction_status))

    async with ready(make(min_size=1, reset=reset)) as pool:
        conn = await pool.getconn()
        number = await pid(conn)
        await conn.execute("select 1")
        await pool.putconn(conn)
        assert await checked_out(pool) == number
        await eventually(lambda: seen == [(number, TransactionStatus.IDLE)] * 2)


async def test_a_connection_that_reset_spoils_is_replaced(make: MakePool) -> None:
    async def reset(conn: Connection) -> None:
        await conn.execute("select 1")

    async with ready(make(min_size=1, reset=reset)) as pool:
        assert await checked_out(pool) != await checked_out(pool)


@pytest.mark.parametrize("asynchronous", [False, True])
@only_unreplaced
async def test_reconnect_failed_is_told_which_pool_it_is(make: MakePool, nowhere: str, asynchronous: bool) -> None:
    told: list[Pool] = []

    async def tell(pool: Pool) -> None:
        told.append(pool)

    hook = tell if asynchronous else told.append
    async with make(conninfo=nowhere, min_size=1, reconnect_timeout=0.05, reconnect_failed=hook) as pool:
        await eventually(lambda: told, "the hook is called")
        assert told[0] is pool


async def test_reconnect_failed_is_told_which_pool_it_is_when_a_server_goes_away(
    make: MakePool, conninfo: str, nowhere: str
) -> None:
    told: list[Pool] = []
    there = [conninfo]
    async with ready(make(conninfo=lambda: there[0], min_size=1, reconnect_timeout=0.05, reconnect_failed=told.append)) as pool:
        there[0] = nowhere
        async with pool.connection() as conn:
            await conn.close()
        await eventually(lambda: told, "the hook is called")
        assert told[0] is pool


# -- statistics


async def test_stats_have_the_documented_keys(make: MakePool) -> None:
    async with make(min_size=1) as pool:
        await pool.wait(LONG)
        async with pool.connection() as conn:
            with pytest.raises(PoolTimeout):
                await pool.getconn(SHORT)
            await conn.execute("select pg_sleep(0.01)")
            await conn.close()
        stats = pool.get_stats()
        assert set(COUNTERS) | set(MEASURES) | {"requests_wait_ms"} <= set(stats)
        assert stats["usage_ms"] >= 10
        assert all(isinstance(value, int) for value in stats.values())


async def test_popping_starts_the_counters_anew_and_leaves_the_measures(make: MakePool) -> None:
    async with make(min_size=1) as pool:
        await pool.wait(LONG)
        await checked_out(pool)
        stats = pool.pop_stats()
        assert stats["requests_num"] == 1
        assert stats["connections_num"] >= 1
        after = pool.get_stats()
        assert not any(after.get(key) for key in COUNTERS)
        assert {key: after[key] for key in MEASURES} == {key: stats[key] for key in MEASURES}


async def test_a_client_whose_connection_has_to_be_opened_was_queued(make: MakePool) -> None:
    async with ready(make(min_size=1, max_size=2, configure=_slowly)) as pool:
        async with pool.connection(), pool.connection(LONG):
            stats = pool.get_stats()
        assert (stats["requests_num"], stats["requests_queued"], stats["connections_num"]) == (2, 1, 1)
        assert stats["requests_wait_ms"] >= 10


async def _slowly(conn: Connection) -> None:
    await asyncio.sleep(0.02)


async def test_a_client_that_waits_for_a_return_was_queued_once(make: MakePool) -> None:
    async with ready(make(min_size=1)) as pool:
        async with asyncio.TaskGroup() as group, pool.connection():
            group.create_task(checked_out(pool))
            await waiting(pool, 1)
        stats = pool.get_stats()
        assert (stats["requests_num"], stats["requests_queued"], stats["requests_waiting"]) == (2, 1, 0)


async def test_a_client_that_waits_for_a_return_and_then_for_a_login_was_queued_once(make: MakePool) -> None:
    async with ready(make(min_size=1)) as pool:
        async with asyncio.TaskGroup() as group, pool.connection() as conn:
            group.create_task(checked_out(pool))
            await waiting(pool, 1)
            await conn.close()
        stats = pool.get_stats()
        assert (stats["requests_num"], stats["requests_queued"], stats["requests_waiting"]) == (2, 1, 0)


async def test_the_log_of_a_checkout_is_psycopg_pools(make: MakePool, caplog: pytest.LogCaptureFixture) -> None:
    async with ready(make(min_size=1, max_size=2, name="told")) as pool:
        with caplog.at_level(logging.INFO, logger="psycopg.pool"):
            await checked_out(pool)
            async with pool.connection() as conn:
                await conn.close()
            await pool.resize(1, 3)
        assert [record.getMessage() for record in caplog.records if "'told'" in record.getMessage()] == [
            "connection requested from 'told'",
            "connection given by 'told'",
            "returning connection to 'told'",
            "connection requested from 'told'",
            "connection given by 'told'",
            "returning connection to 'told'",
            "resizing 'told' to min_size=1 max_size=3",
        ]


async def test_the_log_of_an_opening_is_psycopg_pools(make: MakePool, caplog: pytest.LogCaptureFixture) -> None:
    for cls, size in ((AsyncConnectionPool, 1), (AsyncNullConnectionPool, 0)):
        with caplog.at_level(logging.INFO, logger="psycopg.pool"):
            async with make(cls=cls, min_size=size, max_size=1, name="told") as pool:
                await pool.wait(LONG)
        said = [record.getMessage() for record in caplog.records]
        assert said.index("waiting for pool 'told' initialization") < said.index("pool 'told' is ready to use")
        caplog.clear()


# -- a null pool


async def test_a_null_pool_opens_a_connection_for_each_client(make: MakePool) -> None:
    async with ready(make(cls=AsyncNullConnectionPool)) as pool:
        assert (pool.min_size, pool.max_size) == (0, 0)
        assert pool.get_stats()["pool_size"] == 0  # the connection that wait() saw is closed again
        conns = [await pool.getconn(LONG) for _ in range(6)]
        assert len({await pid(conn) for conn in conns}) == 6
        assert pool.get_stats()["pool_size"] == 6
        for conn in conns:
            await pool.putconn(conn)
            assert conn.closed
        assert pool.get_stats()["pool_size"] == 0
        await pool.check()


async def test_a_null_pool_hands_a_connection_on_to_who_waits(make: MakePool) -> None:
    resets: list[Connection] = []

    async def reset(conn: Connection) -> None:
        resets.append(conn)

    async with ready(make(cls=AsyncNullConnectionPool, max_size=1, reset=reset)) as pool:
        first = await pool.getconn(LONG)
        waiter = asyncio.create_task(pool.getconn(LONG))
        await waiting(pool, 1)
        assert not resets
        await pool.putconn(first)
        assert await waiter is first
        assert resets == [first]
        await pool.putconn(first)
        assert resets == [first]
        assert first.closed


async def test_a_null_pool_counts_a_connection_that_its_check_finds_broken_as_lost(make: MakePool) -> None:
    async def check(conn: Connection) -> None:
        if not checked:
            checked.append(conn)
            await conn.close()
            raise psycopg.OperationalError("broken")

    checked: list[Connection] = []
    async with ready(make(cls=AsyncNullConnectionPool, max_size=1, check=check)) as pool:
        await checked_out(pool)
        stats = pool.get_stats()
        assert (stats["connections_lost"], stats.get("returns_bad", 0)) == (1, 0)


async def test_a_null_pool_keeps_its_limits(make: MakePool) -> None:
    async with ready(make(cls=AsyncNullConnectionPool, max_size=1, max_waiting=1)) as pool:
        async with asyncio.TaskGroup() as group, pool.connection():
            group.create_task(checked_out(pool))
            await waiting(pool, 1)
            with pytest.raises(TooManyRequests):
                await pool.getconn()
        async with pool.connection():
            with pytest.raises(PoolTimeout):
                await pool.getconn(SHORT)


async def test_of_a_null_pool_only_max_size_can_change(make: MakePool) -> None:
    async with ready(make(cls=AsyncNullConnectionPool, max_size=1)) as pool:
        with pytest.raises(ValueError, match="min_size"):
            await pool.resize(1, 2)
        await pool.resize(0, 2)
        async with pool.connection(), pool.connection(LONG):
            assert pool.get_stats()["pool_size"] == 2


# -- what nobody may notice of a replace


@asynccontextmanager
async def held(pool: Pool) -> AsyncIterator[HotSwapPool[Any]]:
    async with HotSwapPool(pool) as holder:
        await holder.wait(LONG)
        yield holder


async def test_a_client_whose_connection_fails_its_check_is_served_by_the_pool_that_comes(conninfo: str) -> None:
    refused: list[Connection] = []

    async def check(conn: Connection) -> None:
        refused.append(conn)
        raise ZeroDivisionError

    async with held(AsyncConnectionPool(conninfo, min_size=1, open=False, check=check)) as holder:
        client = asyncio.create_task(checked_out(holder))
        await eventually(lambda: len(refused) == 2, "the client pauses before it asks once more")
        replacement = await holder.replace(AsyncConnectionPool(conninfo, min_size=1, open=False), drain_timeout=2 * LONG)
        async with asyncio.timeout(holder.timeout / 2):
            await client
        await replacement.drained


async def test_a_wait_goes_on_with_the_pool_that_comes(conninfo: str) -> None:
    async with held(AsyncConnectionPool(conninfo, min_size=2, open=False)) as holder:
        async with holder.connection():
            filled = asyncio.create_task(holder.wait(2 * LONG))
            await asyncio.sleep(0)
            assert not filled.done()
            await holder.replace(AsyncConnectionPool(conninfo, min_size=2, open=False))
        async with asyncio.timeout(LONG):
            await filled


async def test_a_bounded_null_pool_that_comes_while_all_are_busy_serves(conninfo: str) -> None:
    def new() -> Pool:
        return AsyncNullConnectionPool(conninfo, max_size=1, open=False)

    async with held(new()) as holder:
        async with holder.connection():
            replacement = await holder.replace(new())
        await replacement.drained
        assert holder.get_stats()["pool_size"] == 0
        await checked_out(holder)
