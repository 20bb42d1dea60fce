"""CPU time of a checkout: HotSwapPool against the pool that it stands before."""

from __future__ import annotations

import asyncio
import gc
import logging
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from benchmarks.backstage import Desk
from benchmarks.contenders import MAX_SIZE, Pool
from vault_pg import HotSwapPool
from vault_pg.lease import Credential

SETTLING = 200
"""Checkouts before the first that count, for each pool and body: caches, prepared statements, specialised bytecode."""


SLICES = 20
"""Of each round, so that neither pool has the quieter half of it."""


class Body(StrEnum):
    """What a client does with its connection."""

    EMPTY = "empty"
    YIELD = "yield"
    """One turn of the event loop, so that clients meet in the pool's queue."""
    SELECT = "select 1"


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int
    clients: tuple[int, ...]
    checkouts: int
    """In each measurement of an empty block; a tenth of it of `select 1`."""


@dataclass(frozen=True, slots=True)
class Row:
    """Microseconds of CPU a checkout, a value for each round."""

    body: str
    clients: int
    raw_us: list[float]
    ours_us: list[float]

    @property
    def ratios(self) -> list[float]:
        return [ours / raw for raw, ours in zip(self.raw_us, self.ours_us, strict=True)]

    @property
    def ratio(self) -> float:
        """Median of the rounds' ratios."""
        return statistics.median(self.ratios)


async def _empty(pool: Pool, times: int) -> None:
    for _ in range(times):
        async with pool.connection():
            pass


async def _yield(pool: Pool, times: int) -> None:
    for _ in range(times):
        async with pool.connection():
            await asyncio.sleep(0)


async def _select(pool: Pool, times: int) -> None:
    for _ in range(times):
        async with pool.connection() as conn:
            await conn.execute("select 1")


CLIENTS: dict[Body, Callable[[Pool, int], Awaitable[None]]] = {Body.EMPTY: _empty, Body.YIELD: _yield, Body.SELECT: _select}


async def _cost(pool: Pool, body: Body, clients: int, checkouts: int) -> float:
    """Microseconds of this process's CPU time a checkout."""
    each = max(1, checkouts // clients)
    start = time.process_time()
    await asyncio.gather(*(CLIENTS[body](pool, each) for _ in range(clients)))
    return 1e6 * (time.process_time() - start) / (each * clients)


def measure(desk: Desk, plan: Plan) -> list[Row]:
    """Run the plan in this process."""
    logging.disable()
    return asyncio.run(_measure(desk, plan))


async def _measure(desk: Desk, plan: Plan) -> list[Row]:
    conninfo, credential = desk.site().conninfo, desk.issue()
    raw = _pool(conninfo, credential)
    async with raw, HotSwapPool(_pool(conninfo, credential)) as ours:
        await raw.wait()
        await ours.wait()
        for pool in (raw, ours):
            for body in Body:
                await _cost(pool, body, 1, SETTLING)
        rows = [Row(body.value, clients, [], []) for body in Body for clients in plan.clients]
        for _ in range(plan.rounds):
            for row in rows:
                await _round(raw, ours, row, plan)
    desk.drop(credential.username, 0.0)
    return rows


async def _round(raw: Pool, ours: Pool, row: Row, plan: Plan) -> None:
    """One value for each pool, in slices of a few milliseconds that take turns: both meet the same moods of the CPU."""
    body = Body(row.body)
    checkouts = (plan.checkouts // 10 if body is Body.SELECT else plan.checkouts) // SLICES
    costs: dict[Pool, list[float]] = {raw: [], ours: []}
    gc.collect()
    for turn in range(SLICES):
        for pool in (raw, ours) if turn % 2 == 0 else (ours, raw):
            costs[pool].append(await _cost(pool, body, row.clients, checkouts))
    row.raw_us.append(statistics.fmean(costs[raw]))
    row.ours_us.append(statistics.fmean(costs[ours]))


def _pool(conninfo: str, credential: Credential) -> AsyncConnectionPool[AsyncConnection[Any]]:
    kwargs = {"user": credential.username, "password": credential.password.get_secret_value()}
    # Full from the start: no connection is opened while something is measured.
    return AsyncConnectionPool(conninfo, kwargs=kwargs, min_size=MAX_SIZE, max_size=MAX_SIZE, open=False)
