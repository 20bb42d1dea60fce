"""Many databases under one manager: how they are opened, and what each of them takes in memory.

`python -m benchmarks leases` measures resident memory and CPU at ten thousand; here is noticed what would spoil its figures.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from psycopg_pool import AsyncConnectionPool
from pydantic import SecretStr

from tests.unit.memory_postgres import MemoryPostgres
from vault_pg import LeaseManager, errors
from vault_pg.lease import Credential, Grant, Lease
from vault_pg.manager.manager import AT_ONCE
from vault_pg.settings import DatabaseSettings, Settings
from vault_pg.source import CredentialSource

pytestmark = pytest.mark.looptime

MANY = 100


class Rented(CredentialSource):
    """Leases of a minute, renewed for as long as anybody likes."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1)
        self.renewals = 0

    async def issue(self, *, timeout: float) -> Grant:
        number = next(self.numbers)
        return Grant(Credential(f"v-app-{number}", SecretStr("pw")), 60.0, lease_id=f"app/{number}", renewable=True)

    async def renew(self, lease: Lease, increment: float, *, timeout: float) -> Grant:
        self.renewals += 1
        return Grant(lease.credential, increment, lease_id=lease.id, renewable=True)

    async def revoke(self, lease: Lease, *, timeout: float) -> None: ...


def manager_of(number: int, source: CredentialSource) -> LeaseManager:
    connection_class = MemoryPostgres().connection_class
    database = DatabaseSettings(source=source, min_size=0, max_size=4, increment=60.0, connection_class=connection_class)
    databases = {f"db-{each}": database for each in range(number)}
    settings = Settings(databases=databases, status_socket=False, handle_sigterm=False, start_timeout=60.0)
    return LeaseManager(settings, clock=asyncio.get_running_loop().time, shared=False)


# -- opening


async def test_no_more_are_opened_at_a_time_than_a_few_and_no_task_waits_for_its_turn() -> None:
    class Slow(Rented):
        most = 0

        async def issue(self, *, timeout: float) -> Grant:
            self.most = max(self.most, sum(task.get_name().startswith("vault-pg-start-") for task in asyncio.all_tasks()))
            await asyncio.sleep(1)
            return await super().issue(timeout=timeout)

    source = Slow()
    async with manager_of(3 * AT_ONCE, source) as manager:
        assert len(manager.status().databases) == 3 * AT_ONCE
    assert source.most == AT_ONCE


async def test_those_that_have_to_try_again_keep_no_other_from_being_opened() -> None:
    class Stubborn(Rented):
        """Gives a lease to nobody of the first who ask, until one has asked that came after them."""

        async def issue(self, *, timeout: float) -> Grant:
            grant = await super().issue(timeout=timeout)
            mine.setdefault(str(asyncio.current_task()), len(mine))
            if len(mine) <= AT_ONCE:
                raise errors.SourceError("not yet")
            return grant

    mine: dict[str, int] = {}
    async with manager_of(AT_ONCE + 1, Stubborn()) as manager:
        assert len(manager.status().databases) == AT_ONCE + 1
    assert len(mine) == AT_ONCE + 1


# -- what each takes


@contextmanager
def counting() -> Iterator[None]:
    gc.collect()
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def kb_each() -> float:
    """Of the Python objects that were made since the counting began and are still there."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0] / MANY / 1024


async def kb_of_a_bare_pool() -> float:
    with counting():
        pools = [AsyncConnectionPool(min_size=0, max_size=4, open=False, name=f"db-{each}") for each in range(MANY)]
        for pool in pools:
            await pool.open(wait=True)
        await asyncio.sleep(1)
        kb = kb_each()
    for pool in pools:
        await pool.close()
    return kb


async def test_a_lease_its_keeper_and_its_holder_take_less_than_10_kb_beyond_their_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("vault_pg"), "disabled", True)  # what is kept of a log is the log's
    async with manager_of(1, Rented()):
        pass  # what is made once is no lease's
    bare, source = await kb_of_a_bare_pool(), Rented()
    manager = manager_of(MANY, source)
    with counting():
        async with manager:
            await asyncio.sleep(120)
            kb = kb_each()
    assert source.renewals > MANY
    assert kb - bare < 10
