"""`run_transaction()`: what is run again, what is not, and what is said of a COMMIT that nobody answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege, SerializationFailure, UniqueViolation
from psycopg_pool import PoolClosed, PoolTimeout

from tests.pools import PATIENCE, Holder, MakePool, Role, holding, numbers, pool_of
from tests.proxy import Proxy, Where, proxy_to
from tests.waiting import eventually
from vault_pg import CommitOutcomeUnknown, RetryPolicy
from vault_pg.dev import EmbeddedPostgres

Conn = psycopg.AsyncConnection[Any]
AT_ONCE = RetryPolicy(base=0.0)

pytestmark = pytest.mark.usefixtures("table")


@pytest.fixture
async def holder(make_pool: MakePool) -> AsyncIterator[Holder]:
    async with holding(make_pool(max_size=4)) as holder:
        yield holder


@pytest.fixture
async def proxy(postgres: EmbeddedPostgres) -> AsyncIterator[Proxy]:
    async with proxy_to(postgres) as proxy:
        yield proxy


async def insert(conn: Conn, *values: int) -> int:
    """What most of these transactions do."""
    for value in values:
        await conn.execute("insert into ledger values (%s)", [value])
    return len(values)


def failing(times: int, error: Callable[[Conn], Awaitable[object]]) -> tuple[Callable[..., Awaitable[int]], list[int]]:
    """A transaction that inserts a number and then goes wrong so many times; and the backends that it ran on."""
    pids: list[int] = []

    async def fn(conn: Conn, value: int) -> int:
        pids.append(conn.info.backend_pid)
        await insert(conn, value)
        if len(pids) <= times:
            await error(conn)
        return value

    return fn, pids


def raising(state: str) -> Callable[[Conn], Awaitable[object]]:
    """The server's own error with this SQLSTATE."""
    return lambda conn: conn.execute(f"do $$ begin raise exception 'on demand' using errcode = '{state}'; end $$")


async def test_it_commits_and_returns_the_result(holder: Holder, conninfo: str) -> None:
    assert await holder.run_transaction(insert, 1, 2) == 2
    assert await numbers(conninfo) == [1, 2]
    assert holder.in_use == 0


@pytest.mark.parametrize("state", ["40001", "40P01", "OC000", "OC001"])
async def test_a_conflict_is_run_again(holder: Holder, conninfo: str, state: str) -> None:
    fn, pids = failing(2, raising(state))
    assert await holder.run_transaction(fn, 7, policy=AT_ONCE) == 7
    assert len(pids) == 3
    assert await numbers(conninfo) == [7]


async def test_the_codes_are_a_setting(holder: Holder) -> None:
    fn, pids = failing(1, raising("55P03"))
    await holder.run_transaction(fn, 1, policy=RetryPolicy(base=0.0, codes=frozenset({"55P03"})))
    assert len(pids) == 2
    fn, pids = failing(1, raising("40001"))
    with pytest.raises(SerializationFailure):
        await holder.run_transaction(fn, 1, policy=RetryPolicy(base=0.0, codes=frozenset({"55P03"})))
    assert len(pids) == 1


async def test_attempts_are_counted_and_the_last_error_is_raised_as_it_is(holder: Holder, conninfo: str) -> None:
    fn, pids = failing(99, raising("40001"))
    with pytest.raises(SerializationFailure, match="on demand"):
        await holder.run_transaction(fn, 1, attempts=3, policy=AT_ONCE)
    assert len(pids) == 3
    assert await numbers(conninfo) == []


async def test_anything_else_is_not_run_again(holder: Holder, conninfo: str) -> None:
    async def divide(conn: Conn) -> None:
        calls.append(1)
        await conn.execute("insert into ledger values (1)")
        raise ZeroDivisionError

    calls: list[int] = []
    with pytest.raises(ZeroDivisionError):
        await holder.run_transaction(divide)
    fn, pids = failing(9, raising("23505"))
    with pytest.raises(UniqueViolation):
        await holder.run_transaction(fn, 1)
    fn, pids_of_rollback = failing(9, _roll_back)
    with pytest.raises(psycopg.Rollback):
        await holder.run_transaction(fn, 1)
    assert (len(calls), len(pids), len(pids_of_rollback)) == (1, 1, 1)
    assert await numbers(conninfo) == []
    assert holder.in_use == 0


async def _roll_back(_: Conn) -> None:
    raise psycopg.Rollback


async def test_a_real_serialization_failure_at_commit_is_an_answer_and_run_again(holder: Holder, conninfo: str) -> None:
    """Two serializable transactions read what the other writes: one of them fails, at its COMMIT at the latest."""
    both = asyncio.Barrier(2)
    runs = 0

    async def count_and_insert(conn: Conn) -> int:
        nonlocal runs
        runs += 1
        first_time = runs <= 2
        await conn.execute("set transaction isolation level serializable")
        row = await (await conn.execute("select count(*) from ledger")).fetchone()
        if first_time:
            await both.wait()
        assert row is not None
        await insert(conn, row[0])
        if first_time:
            await both.wait()
        return int(row[0])

    results = await asyncio.gather(*(holder.run_transaction(count_and_insert, policy=AT_ONCE) for _ in range(2)))
    assert sorted(results) == [0, 1]
    assert runs == 3
    assert await numbers(conninfo) == [0, 1]


async def test_a_conflict_that_commit_itself_is_answered_with_is_run_again(holder: Holder, conninfo: str) -> None:
    """A deferred trigger fails at COMMIT and nowhere else."""
    async with holder.transaction() as conn:
        await conn.execute(
            "create sequence tries; "
            "create function conflict() returns trigger language plpgsql as $$ begin "
            "if nextval('tries') < 3 then raise exception 'at commit' using errcode = '40001'; end if; return null; end $$; "
            "create constraint trigger conflict after insert on ledger initially deferred for each row execute function conflict()"
        )
    try:
        assert await holder.run_transaction(insert, 5, policy=AT_ONCE) == 1
        assert await numbers(conninfo) == [5]
    finally:
        async with holder.transaction() as conn:
            await conn.execute("drop function conflict cascade; drop sequence tries")


async def test_a_connection_lost_before_commit_is_run_again(holder: Holder, conninfo: str) -> None:
    fn, pids = failing(1, lambda conn: conn.execute("select pg_terminate_backend(pg_backend_pid())"))
    assert await holder.run_transaction(fn, 3, policy=AT_ONCE) == 3
    assert len(set(pids)) == 2
    assert await numbers(conninfo) == [3]


async def test_an_error_that_fn_catches_does_not_pass_for_a_commit(holder: Holder, conninfo: str) -> None:
    async def caught(conn: Conn, statement: str) -> str:
        runs.append(statement)
        await conn.execute("insert into ledger values (1)")
        try:
            await conn.execute(statement)
        except psycopg.Error:
            return "said to be done"
        return "done"

    runs: list[str] = []
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        await holder.run_transaction(caught, "select 1/0")
    assert len(runs) == 1
    # Of a connection that is gone it is known that nothing was committed: that is run again.
    kill_once = "select pg_terminate_backend(pg_backend_pid()) where not exists (select from ledger where n = 2)"

    async def caught_once(conn: Conn) -> str:
        return await caught(conn, kill_once if len(runs) == 1 else "select 1")

    assert await holder.run_transaction(caught_once, policy=AT_ONCE) == "done"
    assert await numbers(conninfo) == [1]


@pytest.mark.parametrize(("where", "committed"), [("before", []), ("after", [4])])
async def test_a_connection_lost_at_commit_is_never_run_again(
    proxy: Proxy, conninfo: str, where: Where, committed: list[int]
) -> None:
    """Cut before the server has read COMMIT, or after it has obeyed: the client can't tell."""
    runs = 0

    async def fn(conn: Conn) -> None:
        nonlocal runs
        runs += 1
        await insert(conn, 4)
        proxy.cut_at[b"COMMIT"] = where

    async with holding(pool_of(proxy.conninfo(conninfo))) as holder:
        with pytest.raises(CommitOutcomeUnknown, match="may be committed or not") as caught:
            await holder.run_transaction(fn, policy=AT_ONCE)
        assert isinstance(caught.value, psycopg.OperationalError)
        assert len([*iter_chain(caught.value)]) == 1  # psycopg's own text may hold what it connects with
        assert (proxy.struck, runs) == (1, 1)
        await eventually(lambda: holder.in_use == 0)
    assert await numbers(conninfo) == committed


def iter_chain(error: BaseException | None) -> Iterator[BaseException]:
    """What a traceback would show."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


async def test_a_connection_lost_at_begin_is_run_again(proxy: Proxy, conninfo: str) -> None:
    async with holding(pool_of(proxy.conninfo(conninfo))) as holder:
        proxy.cut_at[b"BEGIN"] = "after"
        assert await holder.run_transaction(insert, 4, policy=AT_ONCE) == 1
        assert proxy.struck == 1
    assert await numbers(conninfo) == [4]


async def test_a_server_that_restarts_is_waited_for(holder: Holder, postgres: EmbeddedPostgres, conninfo: str) -> None:
    async def crash(_: Conn) -> None:
        await asyncio.to_thread(postgres.stop, immediate=True)
        await asyncio.to_thread(postgres.start)

    async def fn(conn: Conn) -> int:
        pids.append(conn.info.backend_pid)
        if len(pids) == 1:
            await crash(conn)
        return await insert(conn, 8)

    pids: list[int] = []
    assert await holder.run_transaction(fn, attempts=10) == 1
    assert len(pids) >= 2
    assert await numbers(conninfo) == [8]


async def test_a_dropped_role_is_run_again_on_the_next_generation(role: Role, make_pool: MakePool, conninfo: str) -> None:
    async def fn(conn: Conn) -> int:
        generations.append(holder.connection_info(conn).generation)
        if len(generations) == 1:
            await asyncio.to_thread(role.drop)
        await insert(conn, generations[-1])
        return generations[-1]

    generations: list[int] = []
    async with holding(role.pool()) as holder:
        with pytest.raises(InsufficientPrivilege):
            await holder.run_transaction(fn, attempts=1)
        role.create()
        generations.clear()
        replacement = await holder.replace(role.pool())
        await replacement.drained

        async def replaced(conn: Conn) -> int:
            if len(generations) == 0:
                async with asyncio.timeout(PATIENCE):
                    await holder.replace(make_pool())
            return await fn(conn)

        assert await holder.run_transaction(replaced, policy=AT_ONCE) == 3
        assert generations == [2, 3]
    assert await numbers(conninfo) == [3]


async def test_a_right_that_is_gone_is_explained_by_a_retired_generation(role: Role, make_pool: MakePool, conninfo: str) -> None:
    """Revocation statements may take the rights away and leave the role."""

    async def fn(conn: Conn) -> int:
        generations.append(holder.connection_info(conn).generation)
        if generations == [1]:
            await holder.replace(make_pool())
            await asyncio.wait_for(holder.retiring(conn).wait(), PATIENCE)
            await asyncio.to_thread(role.leave, "app_readwrite")
        return await insert(conn, generations[-1])

    generations: list[int] = []
    async with holding(role.pool()) as holder:
        await holder.run_transaction(fn, policy=AT_ONCE)
    assert generations == [1, 2]
    assert await numbers(conninfo) == [2]


async def test_a_dropped_role_is_told_from_a_missing_right(role: Role, postgres: EmbeddedPostgres) -> None:
    """In the generation that serves, the server is asked: a role that lives lacks the right, and no repetition gives it."""
    async with holding(role.pool(max_size=1)) as holder:

        async def forbidden(conn: Conn) -> None:
            runs.append(1)
            await conn.execute("select rolpassword from pg_authid")

        runs: list[int] = []
        with pytest.raises(InsufficientPrivilege):
            await holder.run_transaction(forbidden, policy=AT_ONCE)
        assert len(runs) == 1

        async def dead(conn: Conn) -> None:
            pids.add(conn.info.backend_pid)
            if len(pids) == 1:
                await asyncio.to_thread(role.drop)
            else:
                return
            await insert(conn, 1)

        async def renew() -> None:
            await eventually(lambda: pids and role.name not in postgres_roles(postgres))
            await asyncio.to_thread(role.create)

        pids: set[int] = set()
        renewing = asyncio.create_task(renew())
        await holder.run_transaction(dead, policy=AT_ONCE)
        assert len(pids) == 2
        await renewing


def postgres_roles(postgres: EmbeddedPostgres) -> set[str]:
    with postgres.admin() as conn:
        return {name for (name,) in conn.execute("select rolname from pg_roles")}


async def test_what_the_drain_cuts_off_is_run_again(holder: Holder, make_pool: MakePool) -> None:
    async def slow(conn: Conn) -> int:
        generations.append(holder.connection_info(conn).generation)
        if generations[-1] == 1:
            await conn.execute("select pg_sleep(3600)")
        return generations[-1]

    generations: list[int] = []
    running = asyncio.create_task(holder.run_transaction(slow, policy=AT_ONCE))
    await eventually(lambda: generations == [1])
    await holder.replace(make_pool(), drain_timeout=0.05)
    assert await running == 2
    assert generations == [1, 2]


async def test_a_cancellation_is_passed_on_and_rolls_back(holder: Holder, conninfo: str) -> None:
    entered = asyncio.Event()

    async def fn(conn: Conn) -> None:
        await insert(conn, 1)
        entered.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(holder.run_transaction(fn))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert holder.in_use == 0
    assert await numbers(conninfo) == []


async def test_a_cancellation_between_attempts_is_passed_on(holder: Holder) -> None:
    fn, pids = failing(99, raising("40001"))
    task = asyncio.create_task(holder.run_transaction(fn, 1, policy=RetryPolicy(base=3600.0, cap=3600.0)))
    await eventually(lambda: pids and holder.in_use == 0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(pids) == 1


async def test_the_errors_of_a_checkout_are_not_run_again(holder: Holder) -> None:
    async with holder.connection(), holder.connection(), holder.connection(), holder.connection():
        with pytest.raises(PoolTimeout):
            await holder.run_transaction(insert, 1, timeout=0.05, policy=AT_ONCE)
        assert holder.get_stats()["requests_errors"] == 1
    await holder.close()
    with pytest.raises(PoolClosed):
        await holder.run_transaction(insert, 1)


def test_a_policy_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        RetryPolicy(attempts=0)
    with pytest.raises(ValueError, match="0 or more"):
        RetryPolicy(cap=-1)
    assert RetryPolicy(codes={"40001"}).codes == frozenset({"40001"})  # type: ignore[arg-type] # a set will do
