"""Clients that query in a loop, and what they measure."""

from __future__ import annotations

import math
from array import array
from asyncio import TaskGroup, sleep
from collections import Counter
from collections.abc import Sequence
from time import monotonic
from typing import TypeAlias

from benchmarks.contenders import Contender

QUERY = "select pg_sleep(0.003) from orders where id = 1"
"""3 ms that fail once the role is dropped: the table can't be read any more, whereas a bare pg_sleep would go on."""

PAUSE_AFTER_FAILURE = 0.01

Window: TypeAlias = tuple[float, float]


class Record:
    """Start and end of each query that worked, checkout included, on the monotonic clock; the others by type."""

    def __init__(self) -> None:
        self.starts = array("d")
        self.ends = array("d")
        self.failures = Counter[str]()

    def fail(self, error: Exception) -> None:
        # Only type and SQLSTATE: texts may hold a conninfo.
        state = getattr(error, "sqlstate", None)
        self.failures[f"{type(error).__name__} {state}" if state else type(error).__name__] += 1

    def split(self, windows: Sequence[Window], *, since: float) -> tuple[list[float], list[float]]:
        """Latencies (s) of the queries that overlap a window, and of the rest that started after `since`."""
        inside, outside = list[float](), list[float]()
        for start, end in zip(self.starts, self.ends, strict=True):
            if any(start <= closes and end >= opens for opens, closes in windows):
                inside.append(end - start)
            elif start >= since:
                outside.append(end - start)
        return inside, outside


def percentile(values: Sequence[float], percent: float) -> float:
    """By nearest rank; NaN of nothing."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


async def _client(contender: Contender, record: Record, until: float) -> None:
    while (start := monotonic()) < until:
        try:
            async with contender.pool.connection() as conn:
                await conn.execute(QUERY)
                end = monotonic()
        except Exception as error:  # noqa: BLE001 - counting failures of every kind is its purpose
            record.fail(error)
            await sleep(PAUSE_AFTER_FAILURE)
        else:
            record.starts.append(start)
            record.ends.append(end)


async def drive(contender: Contender, record: Record, clients: int, until: float) -> None:
    """Run that many clients until then (monotonic clock); each finishes its query."""
    async with TaskGroup() as group:
        for _ in range(clients):
            group.create_task(_client(contender, record, until))
