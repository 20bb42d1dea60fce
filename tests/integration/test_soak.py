"""Five hundred rotations in a row under load: nothing fails, nothing grows, the budget of connections is kept."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import secrets
import statistics
import subprocess
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import tenacity
from psycopg import sql
from pydantic import SecretStr

from tests import leaks
from tests.waiting import LONG
from vault_pg import HotSwapPool
from vault_pg.dev import EmbeddedPostgres
from vault_pg.lease import Credential
from vault_pg.pool import LeasedPool, build, handover
from vault_pg.settings import DatabaseSettings

pytestmark = pytest.mark.slow

ROTATIONS = 500
SETTLED = 50
"""Rotations until caches, pools and the allocator have what they need."""

HASTE = 0.2
"""Seconds for a handover, which takes its time where nobody waits for the next one."""

MIN_SIZE, MAX_SIZE = 4, 10
OVERLAP = MIN_SIZE

QUERY = "select current_user from orders where id = 1"
"""Fails on every connection whose role has been dropped."""

ADMIN = "soak-admin"
"""application_name of the connections that do not count."""

SESSIONS = f"SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name <> '{ADMIN}'"

WATCH = f"""
CREATE FUNCTION pg_temp.watch(OUT peak int, OUT samples int) LANGUAGE plpgsql AS $$
DECLARE
    sessions int;
BEGIN
    peak := 0;
    samples := 0;
    LOOP
        PERFORM pg_stat_clear_snapshot();
        sessions := ({SESSIONS});
        peak := greatest(peak, sessions);
        samples := samples + 1;
        PERFORM pg_sleep(0.002);
    END LOOP;
EXCEPTION WHEN query_canceled THEN
    NULL; -- asked for the result
END $$
"""
"""Watches in the server, without a gap, however busy this process is."""

Pool = LeasedPool[psycopg.AsyncConnection[Any]]


@dataclass(frozen=True, slots=True)
class Footprint:
    """What the process holds after a rotation, its pool's own connections left out."""

    memory: float
    """MiB"""
    files: float
    tasks: float


def memory() -> float:
    """Resident memory of this process in MiB."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    told = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True, check=True)
    return int(told.stdout) / 2**10


def footprint(holder: HotSwapPool) -> Footprint:
    open_files = len(os.listdir("/dev/fd")) - holder.get_stats()["pool_size"]  # noqa: PTH208 - only the number
    return Footprint(memory(), open_files, len(asyncio.all_tasks()))


def growth(footprints: Sequence[Footprint]) -> Footprint:
    """From the fifty rotations after SETTLED to the last fifty: the differences of medians."""

    def grown(of: Callable[[Footprint], float]) -> float:
        early, late = footprints[SETTLED : 2 * SETTLED], footprints[-SETTLED:]
        return statistics.median(map(of, late)) - statistics.median(map(of, early))

    return Footprint(grown(lambda f: f.memory), grown(lambda f: f.files), grown(lambda f: f.tasks))


class Load:
    """Clients in a loop; how many queries each role has served."""

    def __init__(self, holder: HotSwapPool, clients: int) -> None:
        self.clients = clients
        self.served = Counter[str]()
        self._holder = holder
        self._over = False
        self._awaited = ""
        self._enough = asyncio.Event()

    async def client(self) -> None:
        """Query until it is over. An error of any kind ends the test."""
        while not self._over:
            async with self._holder.connection() as conn:
                cursor = await conn.execute(QUERY)
                row = await cursor.fetchone()
            assert row is not None
            self._count(row[0])

    def _count(self, user: str) -> None:
        self.served[user] += 1
        if user == self._awaited and self.served[user] >= self.clients:
            self._enough.set()

    async def reaches(self, user: str) -> None:
        """Wait for a query of the role for each client."""
        self._awaited = user
        self._enough.clear()
        async with asyncio.timeout(LONG):
            if self.served[user] < self.clients:
                await self._enough.wait()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            for number in range(self.clients):
                group.create_task(self.client(), name=f"client-{number}")
            yield
            self._over = True


class Roles:
    """Makes and drops what Vault would: roles of one rotation each."""

    def __init__(self, admin: psycopg.AsyncConnection[Any]) -> None:
        self._admin = admin
        self.passwords = list[str]()

    async def issue(self) -> Credential:
        credential = Credential(f"soak-{secrets.token_hex(6)}", SecretStr(secrets.token_urlsafe(24)))
        self.passwords.append(credential.password.get_secret_value())
        await self._admin.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} IN ROLE app_readwrite").format(
                sql.Identifier(credential.username), sql.Literal(credential.password.get_secret_value())
            )
        )
        return credential

    async def drop(self, credential: Credential) -> None:
        await self._admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(credential.username)))

    async def nobody_is_connected(self) -> None:
        """Wait until other tests' connections are gone."""
        async for attempt in tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(AssertionError),
            stop=tenacity.stop_after_delay(LONG),
            wait=tenacity.wait_fixed(0.05),
            reraise=True,
        ):
            with attempt:
                assert await (await self._admin.execute(SESSIONS)).fetchone() == (0,)


@asynccontextmanager
async def administrator(postgres: EmbeddedPostgres) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    conninfo = f"{postgres.admin_conninfo().get_secret_value()} application_name={ADMIN}"
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
        yield conn


@dataclass(slots=True)
class Watch:
    """Server connections at the busiest moment, and how often they were counted; known when the watch is over."""

    peak: int = 0
    samples: int = 0


@asynccontextmanager
async def watching(postgres: EmbeddedPostgres) -> AsyncIterator[Watch]:
    watch = Watch()
    async with administrator(postgres) as conn:
        await conn.execute(WATCH)
        counting = asyncio.create_task(conn.execute("SELECT peak, samples FROM pg_temp.watch()"))
        try:
            yield watch
        finally:
            await conn.cancel_safe()
            watch.peak, watch.samples = await (await counting).fetchone() or (0, 0)


@pytest.fixture
async def roles(postgres: EmbeddedPostgres) -> AsyncIterator[Roles]:
    async with administrator(postgres) as admin:
        roles = Roles(admin)
        with leaks.watched(lambda: roles.passwords):
            await roles.nobody_is_connected()
            yield roles


@pytest.fixture
def settings(postgres: EmbeddedPostgres) -> DatabaseSettings:
    return DatabaseSettings(role="soak", conninfo=postgres.conninfo(), min_size=MIN_SIZE, max_size=MAX_SIZE)


async def rotate(load: Load, holder: HotSwapPool, roles: Roles, settings: DatabaseSettings, credential: Credential) -> Pool:
    """One rotation, to the end of the old pool."""
    pool = await build(credential, settings, name=credential.username)
    replacement = await holder.replace(pool)
    await load.reaches(credential.username)
    drained = await replacement.drained
    assert drained.cut_off == ()
    return pool


@pytest.fixture
def _quiet_and_quick(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.WARNING)  # pytest keeps every captured record: at DEBUG it would be what grows
    monkeypatch.setattr(handover, "MOST", HASTE)


@pytest.mark.usefixtures("_quiet_and_quick")
@pytest.mark.parametrize("clients", [8, 32, 200])
async def test_five_hundred_rotations_fail_no_query_and_leave_nothing_behind(
    clients: int, postgres: EmbeddedPostgres, roles: Roles, settings: DatabaseSettings, caplog: pytest.LogCaptureFixture
) -> None:
    footprints = list[Footprint]()
    pools = weakref.WeakSet[Pool]()
    credential = await roles.issue()
    first = await build(credential, settings, name=credential.username)
    async with watching(postgres) as watch, HotSwapPool(first, overlap=OVERLAP) as holder:
        await holder.wait(LONG)
        load = Load(holder, clients)
        async with load.running():
            for _ in range(ROTATIONS):
                new = await roles.issue()
                pools.add(await rotate(load, holder, roles, settings, new))
                await roles.drop(credential)
                credential = new
                footprints.append(footprint(holder))
        assert holder.generation == ROTATIONS + 1
        assert holder.get_stats().get("requests_errors", 0) == 0
    await roles.drop(credential)

    assert watch.samples >= ROTATIONS
    assert watch.peak <= MAX_SIZE + OVERLAP
    assert len(load.served) >= ROTATIONS
    grown = growth(footprints)
    assert grown.files <= 2
    assert grown.tasks <= 4
    assert grown.memory <= 2
    gc.collect()
    assert len(pools) <= 1
    assert caplog.records == []
