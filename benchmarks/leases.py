"""Thousands of leases in one process: what the manager costs, in CPU, and in memory beyond the pools."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import psycopg
from psycopg.pq import ConnStatus, TransactionStatus
from psycopg_pool import AsyncConnectionPool
from pydantic import SecretStr

from benchmarks.backstage import SPAWN, BenchmarkError
from benchmarks.stub import vault_stub
from vault_pg import LeaseManager
from vault_pg.settings import DatabaseSettings, Settings, TokenAuth, VaultSettings

R = TypeVar("R")

SHORTEST = 60.0
"""Seconds of the shortest first grant; the others are spread from there to the TTL, so that renewals come evenly from the start."""

SETTLING = 50.0
"""Seconds from the first lease to the measuring: from then on renewals come at their steady rate."""

MAX_SIZE = 4


@dataclass(frozen=True, slots=True)
class Row:
    """One run; KB are of resident memory, a lease or pool."""

    leases: int
    ttl: float
    start_s: float
    pool_kb: float
    """An AsyncConnectionPool by itself, open, with no connection."""
    lease_kb: float
    """The pool, the lease, its keeper and its holder."""
    seconds: float
    renewals: int
    others: dict[str, int]
    """Events other than renewals in that time: there should be none."""
    cpu: float
    """Part of one core, the main thread and those of the Vault calls."""

    @property
    def beyond_kb(self) -> float:
        return self.lease_kb - self.pool_kb

    @property
    def renewals_per_s(self) -> float:
        return self.renewals / self.seconds

    @property
    def ms_per_renewal(self) -> float:
        return 1000 * self.cpu * self.seconds / max(1, self.renewals)


class _Wire:
    """As much of libpq's connection as is looked at."""

    status = ConnStatus.OK
    transaction_status = TransactionStatus.IDLE

    def finish(self) -> None:
        self.status, self.transaction_status = ConnStatus.BAD, TransactionStatus.UNKNOWN


class Nowhere(psycopg.AsyncConnection[Any]):
    """A connection that leads nowhere: PostgreSQL is not what is measured, and pools of `min_size=0` hold none."""

    @classmethod
    async def connect(cls, _conninfo: str = "", **_: Any) -> Self:  # type: ignore[override] # no options of libpq's
        return cls(cast("Any", _Wire()))

    async def execute(self, *_: object, **__: object) -> Any:
        return None

    async def rollback(self) -> None: ...

    def fileno(self) -> int:
        raise psycopg.OperationalError("no socket")


def run(leases: int, *, ttl: float, seconds: float) -> Row:
    """Bare pools in one process, then as many leases in another; Vault is a stub in a third. Raises BenchmarkError."""
    pool_kb = _apart(_measure_pools, leases)
    with vault_stub((min(SHORTEST, ttl), ttl)) as address:
        return _apart(_measure_leases, address, leases, ttl, seconds, pool_kb)


def _apart(task: Callable[..., R], *arguments: object) -> R:
    with ProcessPoolExecutor(max_workers=1, mp_context=SPAWN) as fresh:
        try:
            return fresh.submit(task, *arguments).result()
        except BrokenProcessPool:
            raise BenchmarkError("a measured process ended without a result; why stands above") from None


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _measure_pools(number: int) -> float:
    async def measure() -> float:
        before = _resident()
        pools = [
            AsyncConnectionPool(
                "host=nowhere", connection_class=Nowhere, min_size=0, max_size=MAX_SIZE, open=False, name=f"db-{i}"
            )
            for i in range(number)
        ]
        for pool in pools:
            await pool.open(wait=True)
        await asyncio.sleep(1)
        kb = (_resident() - before) / number / 1024
        for pool in pools:
            await pool.close()
        return kb

    return asyncio.run(measure())


def _settings(address: str, leases: int, ttl: float) -> Settings:
    database = DatabaseSettings(
        role="app", conninfo="host=nowhere", min_size=0, max_size=MAX_SIZE, connection_class=Nowhere, increment=ttl
    )
    return Settings(
        vault=VaultSettings(address=address, auth=TokenAuth(token=SecretStr("hvs.stub"))),
        databases={f"db-{number}": database for number in range(leases)},
        start_timeout=3600.0,
        shutdown_timeout=600.0,
        status_socket=False,
    )


def _measure_leases(address: str, leases: int, ttl: float, seconds: float, pool_kb: float) -> Row:
    logging.disable()  # what a log costs is the log's
    return asyncio.run(_keep(address, leases, ttl, seconds, pool_kb))


async def _keep(address: str, leases: int, ttl: float, seconds: float, pool_kb: float) -> Row:
    settings = _settings(address, leases, ttl)
    before = _resident()
    seen = Counter[str]()
    manager = LeaseManager(settings, shared=False)
    manager.add_listener(lambda event: seen.update([event.name]))
    start = time.monotonic()
    async with manager:
        start_s = time.monotonic() - start
        await asyncio.sleep(max(5.0, SETTLING - start_s))
        lease_kb = (_resident() - before) / leases / 1024
        earlier, begun, used = Counter(seen), time.monotonic(), time.process_time()
        await asyncio.sleep(seconds)
        took, used = time.monotonic() - begun, time.process_time() - used
        news = seen - earlier
    renewals = news.pop("lease.renewed", 0)
    return Row(leases, ttl, start_s, pool_kb, lease_kb, took, renewals, dict(news), used / took)
