"""The pool under strain: small starts, slow proofs, connections that died or fell silent behind its back."""

from __future__ import annotations

import asyncio
import os
import signal

import psycopg
import pytest
from psycopg_pool import PoolTimeout

from tests.pools import PATIENCE, Holder, MakePool, Role, holding
from vault_pg import HotSwapPool
from vault_pg.dev import EmbeddedPostgres

SILENT = 8.0
"""Seconds after which a checkout of half a second has plainly missed its time."""


def sessions(holder: Holder) -> int:
    """By the holder's own count."""
    return sum(generation.size for generation in holder._alive())


async def peak_of(holder: Holder, over: asyncio.Event) -> int:
    """The most sessions that there were at once, as far as the loop can see."""
    peak = 0
    while not over.is_set():
        peak = max(peak, sessions(holder))
        await asyncio.sleep(0)
    return peak


async def query(holder: Holder, over: asyncio.Event) -> None:
    """One client that goes on and on."""
    while not over.is_set():
        async with holder.connection() as conn:
            await conn.execute("select pg_sleep(0.05)")


@pytest.mark.parametrize("least", [0, 1, 2])
async def test_the_budget_is_kept_by_pools_that_start_small(least: int, make_pool: MakePool) -> None:
    over = asyncio.Event()
    async with holding(make_pool(min_size=least, max_size=6)) as holder, asyncio.TaskGroup() as group:
        peak = group.create_task(peak_of(holder, over))
        for _ in range(20):
            group.create_task(query(holder, over))
        for _ in range(3):
            await asyncio.sleep(0.2)
            await (await holder.replace(make_pool(min_size=least, max_size=6))).drained
        over.set()
    assert 6 <= peak.result() <= 6 + max(1, least)


async def test_a_pool_that_grows_while_it_hands_over_keeps_the_budget(make_pool: MakePool) -> None:
    """Clients come in a crowd between the proof and the swap: both pools grow then, one connection at a time each."""
    over = asyncio.Event()

    async def configure(_: object) -> None:
        await asyncio.sleep(0.1)

    pool = make_pool(min_size=0, max_size=6, configure=configure)
    async with holding(pool, overlap=3) as holder, asyncio.TaskGroup() as group:
        peak = group.create_task(peak_of(holder, over))

        async def prove(_: object) -> None:
            for _ in range(20):
                group.create_task(query(holder, over))
            await asyncio.sleep(0)

        await (await holder.replace(make_pool(min_size=0, max_size=6), prove=prove)).drained
        over.set()
    assert 6 <= peak.result() <= 6 + 3


async def test_a_slow_proof_does_not_narrow_the_pool_that_serves(make_pool: MakePool) -> None:
    async with holding(make_pool(min_size=1, max_size=4)) as holder:

        async def prove(_: object) -> None:
            conns = [await holder.getconn(PATIENCE) for _ in range(4)]
            for conn in conns:
                await holder.putconn(conn)

        assert (await holder.replace(make_pool(min_size=1, max_size=4), prove=prove)).generation == 2


async def test_sizes_that_change_while_a_pool_is_proven_break_no_budget(make_pool: MakePool) -> None:
    peak = 0
    async with holding(make_pool(min_size=2, max_size=4), overlap=1) as holder:

        async def prove(_: object) -> None:
            nonlocal peak
            await holder.resize(2, 4)
            asked = [asyncio.create_task(holder.getconn(PATIENCE)) for _ in range(8)]
            await asyncio.wait(asked[:3])
            await asyncio.sleep(0.1)
            peak = sessions(holder) + 1
            for task in asked:
                task.add_done_callback(give_back)

        returns = set[asyncio.Task[None]]()

        def give_back(task: asyncio.Task[psycopg.AsyncConnection]) -> None:
            returns.add(asyncio.ensure_future(holder.putconn(task.result())))

        replacement = await holder.replace(make_pool(min_size=2, max_size=4), prove=prove)
        await replacement.drained
        await asyncio.gather(*returns)
    assert peak <= 5


async def test_the_same_pool_twice_at_once_is_refused_and_goes_on_serving(make_pool: MakePool) -> None:
    async with holding(make_pool()) as holder:
        pool = make_pool()
        _, error = await asyncio.gather(holder.replace(pool), holder.replace(pool), return_exceptions=True)
        assert isinstance(error, ValueError)
        async with holder.connection() as conn:
            await conn.execute("select 1")


async def test_dead_idle_connections_cost_no_pauses(role: Role, postgres: EmbeddedPostgres) -> None:
    # The pauses between eight checks that fail would be longer than the patience.
    async with holding(role.pool(min_size=8, max_size=8)) as holder:
        postgres.terminate_backends(role.name)
        with pytest.raises(psycopg.OperationalError):
            async with holder.connection() as conn:
                await conn.execute("select 1")
        async with holder.connection(timeout=PATIENCE) as conn:
            await conn.execute("select 1")


async def test_a_silent_connection_in_doubt_holds_nobody_beyond_the_timeout(make_pool: MakePool) -> None:
    async with HotSwapPool(make_pool(min_size=1, max_size=1)) as holder:
        async with holder.connection(PATIENCE) as conn:
            pid = conn.info.backend_pid
        holder._current.doubt(role=False, lost=True)
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(PoolTimeout):
                await asyncio.wait_for(holder.getconn(timeout=0.5), SILENT)
        finally:
            os.kill(pid, signal.SIGCONT)
        async with holder.connection(PATIENCE) as conn:
            await conn.execute("select 1")
