"""Whoever uses the pool may be cancelled at any moment: they are told so, and no connection, place or session is lost by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool, AsyncNullConnectionPool

from tests.moments import Moments, moments
from tests.pools import PATIENCE, Holder, Pool
from tests.waiting import eventually
from vault_pg import HotSwapPool
from vault_pg.dev import EmbeddedPostgres

Conn = psycopg.AsyncConnection[Any]
NewPool = Callable[[], Pool]
Operation = Callable[[Holder, NewPool], Awaitable[None]]

every = pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow, id="every"), pytest.param(9, id="sampled")])
"""Which moments: each of them in `make soak`, a sample in `make test`."""


@pytest.fixture
def conninfo(postgres: EmbeddedPostgres) -> str:
    return f"{postgres.admin_conninfo().get_secret_value()} application_name=cancelled-anywhere"


@pytest.fixture
async def eye(postgres: EmbeddedPostgres) -> AsyncIterator[Conn]:
    async with await psycopg.AsyncConnection.connect(postgres.admin_conninfo().get_secret_value(), autocommit=True) as conn:
        yield conn


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Moments]:
    with moments(monkeypatch.setattr) as counted:
        yield counted


async def hook(conn: Conn) -> None:
    await conn.execute("select 1")
    await conn.rollback()


KINDS: dict[str, Callable[[str], Pool]] = {
    "plain": lambda conninfo: AsyncConnectionPool(conninfo, min_size=1, max_size=2, open=False),
    "of one": lambda conninfo: AsyncConnectionPool(conninfo, min_size=1, max_size=1, open=False),
    "lazy": lambda conninfo: AsyncConnectionPool(conninfo, min_size=0, max_size=2, max_idle=0.01, open=False),
    "with hooks": lambda conninfo: AsyncConnectionPool(
        conninfo, min_size=1, max_size=2, open=False, configure=hook, check=hook, reset=hook
    ),
    "null": lambda conninfo: AsyncNullConnectionPool(conninfo, max_size=2, open=False),
    "null with hooks": lambda conninfo: AsyncNullConnectionPool(
        conninfo, max_size=1, open=False, configure=hook, check=hook, reset=hook
    ),
}
kinds = pytest.mark.parametrize("kind", KINDS)


async def getconn(holder: Holder, _: NewPool) -> None:
    conn = await holder.getconn(PATIENCE)
    await holder.putconn(conn)


async def connection(holder: Holder, _: NewPool) -> None:
    async with holder.connection(PATIENCE) as conn:
        await conn.execute("select 1")


async def putconn_in_a_transaction(holder: Holder, _: NewPool) -> None:
    conn = await holder.getconn(PATIENCE)
    try:
        await conn.execute("select 1")
    finally:
        await holder.putconn(conn)


async def putconn_of_a_broken_one(holder: Holder, _: NewPool) -> None:
    conn = await holder.getconn(PATIENCE)
    conn.pgconn.finish()
    await holder.putconn(conn)


async def try_connection(holder: Holder, _: NewPool) -> None:
    async with holder.try_connection() as conn:
        if conn is not None:
            await conn.execute("select 1")


async def transaction(holder: Holder, _: NewPool) -> None:
    async with holder.transaction(PATIENCE) as conn:
        await conn.execute("select 1")


async def run_transaction(holder: Holder, _: NewPool) -> None:
    failures = iter([True])

    async def work(conn: Conn) -> None:
        await conn.execute("select 1")
        if next(failures, False):
            raise psycopg.errors.SerializationFailure

    await holder.run_transaction(work, timeout=PATIENCE)


async def listen(holder: Holder, _: NewPool) -> None:
    async with holder.listen("anything", timeout=PATIENCE):
        pass


async def wait(holder: Holder, _: NewPool) -> None:
    await holder.wait(PATIENCE)


async def check(holder: Holder, _: NewPool) -> None:
    await holder.check()


async def drain(holder: Holder, _: NewPool) -> None:
    await holder.drain()


async def resize(holder: Holder, _: NewPool) -> None:
    least = 0 if holder.min_size == 0 else 1
    await holder.resize(least, holder.max_size + 1)
    await holder.resize(least, holder.max_size - 1)


async def replace(holder: Holder, new: NewPool) -> None:
    await (await holder.replace(new(), timeout=PATIENCE)).drained


OPERATIONS: list[Operation] = [
    getconn, connection, putconn_in_a_transaction, putconn_of_a_broken_one, try_connection, transaction, run_transaction,
    listen, wait, check, drain, resize,
]  # fmt: skip


@asynccontextmanager
async def crowd(holder: Holder, clients: int) -> AsyncIterator[None]:
    """Others who use the pool meanwhile, and whom it must not touch."""
    over = False

    async def client() -> None:
        while not over:
            async with holder.connection(PATIENCE) as conn:
                await conn.execute("select 1")
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(), name=f"crowd-{number}")
        try:
            yield
        finally:
            over = True


async def nothing_is_lost(holder: Holder, eye: Conn) -> None:
    await eventually(lambda: holder.in_use == 0 and not holder.borrowers, "every connection is back")
    async with asyncio.timeout(PATIENCE):
        conns = [await holder.getconn(PATIENCE) for _ in range(holder.max_size)]
    for conn in conns:
        await holder.putconn(conn)
    await eventually(lambda: holder.in_use == 0)
    await holder.drained()
    await sessions_are(eye, lambda: holder.get_stats()["pool_size"])
    assert holder.get_stats()["pool_size"] <= holder.max_size
    assert holder.get_stats()["requests_waiting"] == 0


async def sessions_are(eye: Conn, expected: Callable[[], int]) -> None:
    """The server has that many sessions of ours, as soon as it has got round to it."""
    query = "select count(*) from pg_stat_activity where application_name = 'cancelled-anywhere'"
    async with asyncio.timeout(PATIENCE):
        while True:
            row = await (await eye.execute(query)).fetchone()
            if row == (expected(),):
                return
            await asyncio.sleep(0.002)


@every
@kinds
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_an_operation_cancelled_at_any_moment_loses_nothing(
    operation: Operation, kind: str, step: int, *, conninfo: str, eye: Conn, at: Moments
) -> None:
    def new() -> Pool:
        return KINDS[kind](conninfo)

    for clients in (0, 3):
        async with HotSwapPool(new(), name="victim-pool") as holder:
            await holder.wait(PATIENCE)
            for moment in count(1, step):
                async with crowd(holder, clients):
                    struck = await at.cancel(operation(holder, new), moment)  # type: ignore[arg-type]
                await nothing_is_lost(holder, eye)
                if not struck:
                    break
        await sessions_are(eye, lambda: 0)


@every
@kinds
async def test_a_replace_cancelled_at_any_moment_has_done_all_or_nothing(
    kind: str, step: int, conninfo: str, eye: Conn, at: Moments
) -> None:
    def new() -> Pool:
        return KINDS[kind](conninfo)

    async with HotSwapPool(new(), name="victim-pool") as holder:
        await holder.wait(PATIENCE)
        for moment in count(1, 3 * step):
            async with crowd(holder, 1):
                struck = await at.cancel(replace(holder, new), moment)
            await nothing_is_lost(holder, eye)
            if not struck:
                break
    await sessions_are(eye, lambda: 0)


@every
@kinds
async def test_an_opening_or_closing_cancelled_at_any_moment_leaves_nothing_open(
    kind: str, step: int, conninfo: str, eye: Conn, at: Moments
) -> None:
    async def life(holder: Holder) -> None:
        await holder.open(wait=True, timeout=PATIENCE)
        async with holder.connection(PATIENCE) as conn:
            await conn.execute("select 1")
        await holder.close()

    for moment in count(1, step):
        holder = HotSwapPool(KINDS[kind](conninfo), name="victim-pool")
        struck = await at.cancel(life(holder), moment)
        await holder.close()
        assert holder.closed
        await eventually(lambda holder=holder: holder.in_use == 0)  # type: ignore[misc]
        await sessions_are(eye, lambda: 0)
        if not struck:
            break
