"""The load of the demo: clients that share a pool and query it in a loop, and what they measure."""

from __future__ import annotations

import asyncio
import math
import random
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from psycopg import AsyncConnection
    from psycopg_pool import AsyncConnectionPool

    Connection: TypeAlias = AsyncConnection[Any]
    Pool: TypeAlias = AsyncConnectionPool[Connection]

READ = "SELECT item FROM orders WHERE id = %s"
WRITE = "INSERT INTO orders (item) VALUES (%s)"
ROWS = 1000
"""Rows that the table has from the start."""

THINKING = 0.02
"""Seconds that a client does something else between two transactions, at most."""

LONG_WORK = 0.3
"""Seconds that a long transaction works between its statements; a rotation has to wait for its end."""


class Meter:
    """When each checkout with its first statement was done, how long it took, and what failed. Seconds on the loop's clock."""

    def __init__(self) -> None:
        self.queries = 0
        self.failures: Counter[str] = Counter()
        self._ends = array("d")
        self._latencies = array("d")

    @property
    def failed(self) -> int:
        return self.failures.total()

    def first(self, start: float, end: float) -> None:
        """A checkout and its first statement, which both lie between `start` and `end`. Ends come in order."""
        self._ends.append(end)
        self._latencies.append(end - start)
        self.queries += 1

    def fail(self, error: Exception) -> None:
        state = getattr(error, "sqlstate", None)
        self.failures[f"{type(error).__name__}{f' {state}' if state else ''}: {str(error).partition(chr(10))[0]}"] += 1

    def since(self, start: float) -> Sequence[float]:
        """The latencies of what ended after `start`."""
        return self._latencies[bisect_left(self._ends, start) :]

    def split(self, swaps: Sequence[float], before: float, after: float) -> tuple[Sequence[float], Sequence[float]]:
        """The latencies of what overlapped the time around a swap, and of all the rest."""
        around, steady = array("d"), array("d")
        for end, latency in zip(self._ends, self._latencies, strict=True):
            nearest = bisect_left(swaps, end - latency - after)
            near = nearest < len(swaps) and swaps[nearest] - before <= end
            (around if near else steady).append(latency)
        return around, steady


def percentile(values: Sequence[float], percent: float) -> float | None:
    """By nearest rank; None of nothing."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


@dataclass(frozen=True, slots=True)
class Client:
    """One client: short reads, writes, transactions, and now and then a long one that a rotation has to wait for."""

    pool: Pool
    meter: Meter
    chance: random.Random

    async def run(self, going: Callable[[], bool]) -> None:
        """Query while `going()`. What fails is counted, and the next one tried."""
        jobs = (self._read, self._write, self._transaction, self._long_transaction)
        while going():
            (job,) = self.chance.choices(jobs, cum_weights=(700, 900, 998, 1000))
            try:
                await job()
            except Exception as error:  # noqa: BLE001 - counting failures of every kind is its purpose
                self.meter.fail(error)
            await asyncio.sleep(self.chance.uniform(0, THINKING))

    async def _read(self) -> None:
        start = _now()
        async with self.pool.connection() as conn:
            await self._select(conn)
            self.meter.first(start, _now())

    async def _write(self) -> None:
        start = _now()
        async with self.pool.connection() as conn:
            await conn.execute(WRITE, ["demo"])
            self.meter.first(start, _now())

    async def _transaction(self) -> None:
        await self._work(0.0)

    async def _long_transaction(self) -> None:
        await self._work(LONG_WORK)

    async def _work(self, seconds: float) -> None:
        start = _now()
        async with self.pool.connection() as conn, conn.transaction():
            await conn.execute(WRITE, ["demo, in a transaction"])
            self.meter.first(start, _now())
            if seconds:
                await asyncio.sleep(seconds)
            await self._select(conn)
            self.meter.queries += 1

    async def _select(self, conn: Connection) -> None:
        cursor = await conn.execute(READ, [self.chance.randint(1, ROWS)])
        if await cursor.fetchone() is None:
            raise LookupError("a row of the demo's table is missing")


def _now() -> float:
    return asyncio.get_running_loop().time()


async def drive(pool: Pool, meter: Meter, clients: int, stop: asyncio.Event) -> None:
    """Run that many clients until `stop`; each finishes what it is at."""
    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            client = Client(pool, meter, random.Random(number))  # noqa: S311 - a mix of queries, not a secret
            group.create_task(client.run(lambda: not stop.is_set()), name=f"client-{number}")
