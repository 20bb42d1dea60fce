"""A check at checkout that tells a dead credential, and how often it asks."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege, UndefinedObject
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from tests.pools import PATIENCE, Role, holding, role_in
from tests.waiting import eventually
from vault_pg import DatabaseSettings, checked
from vault_pg.dev import EmbeddedPostgres
from vault_pg.lease import Credential
from vault_pg.pool import build
from vault_pg.pool.check import QUESTION

Conn = psycopg.AsyncConnection[Any]


class Recording(psycopg.AsyncConnection[Any]):
    """Notes what it is asked."""

    asked: list[str]

    async def execute(self, query: Any, *args: Any, **options: Any) -> Any:
        if not hasattr(self, "asked"):
            self.asked = []
        self.asked.append(str(query))
        return await super().execute(query, *args, **options)


@pytest.mark.parametrize("autocommit", [False, True])
async def test_it_asks_once_in_a_while_and_leaves_no_transaction(role: Role, autocommit: bool) -> None:
    pool = role.pool(check=checked(0), connection_class=Recording, kwargs={"autocommit": autocommit})
    async with holding(pool) as holder:
        async with holder.connection() as conn:
            assert isinstance(conn, Recording)
            assert conn.asked == ["select session_user"]
            assert conn.autocommit is autocommit
            assert conn.pgconn.transaction_status == TransactionStatus.IDLE
        for _ in range(10):  # a server-side prepared statement would come with the sixth
            async with holder.connection() as conn:
                pass
        assert isinstance(conn, Recording)
        assert len(conn.asked) == 11
    rarely = role.pool(check=checked(3600), connection_class=Recording)
    async with holding(rarely) as holder:
        for _ in range(3):
            async with holder.connection() as conn:
                await conn.execute("select 1")
        assert isinstance(conn, Recording)
        assert conn.asked == ["select 1"] * 3


async def test_psycopg_pools_own_check_passes_on_a_dropped_role(role: Role) -> None:
    """What the check is for."""
    async with holding(role.pool(max_size=1, check=AsyncConnectionPool.check_connection)) as holder:
        await asyncio.to_thread(role.drop)
        async with holder.connection() as conn:
            await conn.execute("select 1")


@pytest.mark.parametrize("close_returns", [False, True])
@pytest.mark.parametrize("as_owner", [False, True])
async def test_a_dropped_role_is_not_given_out(role: Role, as_owner: bool, close_returns: bool) -> None:
    """Not even in a session that runs under its owner's role, where `select current_user` and every table still work."""

    async def become(conn: Conn) -> None:
        await conn.set_autocommit(True)
        await conn.execute("set role app_owner")
        await conn.set_autocommit(False)

    options = {"configure": become} if as_owner else {}
    if as_owner:
        role.let_become("app_owner")
    async with holding(role.pool(max_size=1, check=checked(0), close_returns=close_returns, **options)) as holder:
        async with holder.connection() as conn:
            pid = conn.info.backend_pid
        await asyncio.to_thread(role.drop)
        if as_owner:
            cursor = await conn.execute("select current_user")
            assert await cursor.fetchone() == ("app_owner",)
            await conn.rollback()
        with pytest.raises(PoolTimeout):
            await holder.getconn(timeout=0.2)
        await eventually(lambda: conn.closed, "the answer of the check may come later than the client's patience ends")
        # Another credential under the same name, and the pool mends itself.
        role.create()
        if as_owner:
            role.let_become("app_owner")
        async with holder.connection(PATIENCE) as conn:
            assert conn.info.backend_pid != pid


async def test_a_connection_of_no_pool_is_asked_at_once(role: Role) -> None:
    async with await Recording.connect(role.conninfo) as conn:
        check = checked(3600)
        await check(conn)
        await check(conn)
        assert conn.asked == ["select session_user"]


async def test_it_raises_the_servers_own_error(role: Role) -> None:
    async with holding(role.pool(max_size=1)) as holder:
        conn = await holder.getconn()
        await asyncio.to_thread(role.drop)
        with pytest.raises(UndefinedObject):
            await checked(0)(conn)
        await holder.putconn(conn)


async def test_your_own_check_runs_at_every_checkout_as_well(role: Role) -> None:
    async def own(conn: Conn) -> None:
        seen.append(conn.info.backend_pid)

    seen: list[int] = []
    async with holding(role.pool(check=checked(3600, also=own))) as holder:
        for _ in range(3):
            async with holder.connection():
                pass
    assert len(seen) == 3


def test_an_interval_below_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="0 for every checkout"):
        checked(-1)


async def test_it_is_a_setting(role: Role, postgres: EmbeddedPostgres) -> None:
    """`check_interval`, with a pool as the manager builds it; which also knows the lease of its connections."""
    settings = DatabaseSettings(role="app", conninfo=postgres.conninfo(), min_size=1, max_size=1, check_interval=0.001)
    pool = await build(Credential(role.name, role.password), settings, name="checked", lease_id="database/creds/app/1")
    async with holding(pool) as holder:
        async with holder.connection() as conn:
            assert holder.connection_info(conn).lease_id == "database/creds/app/1"
        await asyncio.to_thread(role.drop)
        with pytest.raises(PoolTimeout):
            await holder.getconn(timeout=0.2)
        await eventually(lambda: conn.closed)


# -- and without an interval, once there is a doubt


async def test_after_one_dead_connection_no_other_of_its_role_is_handed_out(role: Role) -> None:
    async with holding(role.pool(min_size=3, max_size=3)) as holder:
        role.drop()
        with pytest.raises(InsufficientPrivilege):
            async with holder.connection() as conn:
                await conn.execute("select count(*) from orders")
        for _ in range(2):
            with pytest.raises(PoolTimeout):
                async with holder.connection(timeout=0.2):
                    pytest.fail("it could only fail")


async def test_after_one_lost_connection_the_others_are_asked_first(role: Role, postgres: EmbeddedPostgres) -> None:
    async with holding(role.pool(min_size=3, max_size=3)) as holder:
        assert postgres.terminate_backends(role.name) == 3
        with pytest.raises(psycopg.OperationalError):
            async with holder.connection() as conn:
                await conn.execute("select 1")
        for _ in range(3):
            async with holder.connection() as conn:
                await conn.execute("select 1")


async def test_a_plain_lack_of_privilege_costs_one_question_each_time(role: Role) -> None:
    pool = role.pool(connection_class=Recording, min_size=3, max_size=3)
    async with holding(pool) as holder:
        kept = {*pool._pool}
        for _ in range(4):
            with pytest.raises(InsufficientPrivilege):
                async with holder.connection() as conn:
                    await conn.execute("create role nobody_may")
            for _ in range(6):
                async with holder.connection() as conn:
                    pass
        questions = [asked for conn in kept for asked in getattr(conn, "asked", []) if asked == QUESTION]
        assert len(questions) == 4
        assert {*pool._pool} == kept


async def test_that_one_role_lives_says_nothing_of_another(role: Role, postgres: EmbeddedPostgres) -> None:
    with role_in(postgres) as other:
        logins = iter([other, role])

        def credential() -> dict[str, Any]:
            who = next(logins, role)
            return {"user": who.name, "password": who.password.get_secret_value()}

        pool = AsyncConnectionPool(postgres.conninfo(), kwargs=credential, min_size=2, max_size=2, num_workers=1, open=False)
        async with holding(pool) as holder:
            other.drop()
            one, another = await holder.getconn(), await holder.getconn()
            living, dead = (one, another) if one.info.user == role.name else (another, one)
            await holder.putconn(living)
            with pytest.raises(InsufficientPrivilege):
                async with holder.connection() as conn:
                    await conn.execute("create role nobody_may")
            async with holder.connection() as conn:
                assert conn is living
            await holder.putconn(dead)
            for _ in range(4):
                async with holder.connection() as one, holder.connection() as another:
                    assert {one.info.user, another.info.user} == {role.name}
