"""A credential that dies before its time: noticed by what queries fail with, replaced, and nothing rotated for less than that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from tests.integration.test_manager import leftovers, settings_for
from tests.servers import DatabaseView, Mount
from tests.waiting import eventually
from vault_pg import LeaseManager
from vault_pg.dev import DevVault, EmbeddedPostgres
from vault_pg.events import Event, LeaseLost, LeaseRotated
from vault_pg.manager.status import Status


@pytest.fixture(autouse=True)
def _runtime_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_PG_RUNTIME_DIR", str(tmp_path / "run"))


async def survives(mount: Mount, kill: Callable[[LeaseManager], object]) -> list[Event]:
    """Kill the credential of an hour under a client that goes on querying; return once the client is served by another."""
    events: list[Event] = []
    manager = LeaseManager(settings_for(mount, min_size=1, max_size=1))
    manager.add_listener(events.append)
    async with manager:
        pool = manager.get_pool()

        async def query() -> str | None:
            try:
                async with pool.connection() as conn:
                    await conn.execute("select count(*) from orders")
                    return conn.info.user
            except (psycopg.OperationalError, psycopg.ProgrammingError):
                return None

        before = await query()
        await asyncio.to_thread(kill, manager)

        async def another() -> bool:
            user = await query()
            return user is not None and user != before

        async with asyncio.timeout(60):
            while not await another():  # noqa: ASYNC110 - the queries are what makes it noticed
                await asyncio.sleep(0.02)
        assert manager.status().health == "healthy"
    return events


def lease_of(manager: LeaseManager) -> str:
    lease = manager.status().databases[0].lease
    assert lease is not None
    assert lease.id is not None
    return lease.id


async def test_a_lease_revoked_by_an_operator(mount: Mount, database: DatabaseView) -> None:
    events = await survives(mount, lambda manager: mount.root.sys.revoke_lease(lease_of(manager)))
    assert len([event for event in events if isinstance(event, LeaseLost)]) == 1
    assert len([event for event in events if isinstance(event, LeaseRotated)]) == 1
    assert leftovers(mount, database) == ([], 0)


async def test_a_role_dropped_by_hand(mount: Mount, database: DatabaseView) -> None:
    def drop(manager: LeaseManager) -> None:
        lease = manager.status().databases[0].lease
        assert lease is not None
        database.execute("drop role {}", lease.username)

    events = await survives(mount, drop)
    assert len([event for event in events if isinstance(event, LeaseRotated)]) == 1
    assert leftovers(mount, database) == ([], 0)


async def test_a_role_that_may_log_in_no_more(mount: Mount, database: DatabaseView) -> None:
    def lock(manager: LeaseManager) -> None:
        lease = manager.status().databases[0].lease
        assert lease is not None
        database.execute("alter role {} nologin", lease.username)
        database.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename like 'v-%'")

    events = await survives(mount, lock)
    assert len([event for event in events if isinstance(event, LeaseRotated)]) == 1
    assert leftovers(mount, database) == ([], 0)


async def test_a_postgresql_that_is_away_is_told_with_the_reason(mount: Mount, postgres: EmbeddedPostgres) -> None:
    manager = LeaseManager(settings_for(mount, min_size=2, max_size=2, timeout=0.5))
    async with manager:

        async def query() -> None:
            with suppress(psycopg.Error):
                async with manager.get_pool().connection() as conn:
                    await conn.execute("select 1")

        async def told(health: str) -> Status:
            async with asyncio.timeout(60):
                while (status := manager.status()).health != health:
                    await query()
            return status

        assert (await told("healthy")).databases[0].last_error is None
        with postgres.down():
            status = await told("degraded")
            assert "cannot be reached" in (status.databases[0].last_error or "")
        assert (await told("healthy")).databases[0].last_error is None


async def test_a_dead_token_takes_its_lease_along(mount: Mount, dev_vault: DevVault, database: DatabaseView) -> None:
    def kill(_: LeaseManager) -> None:
        accessors = mount.root.auth.token.list_accessors()["data"]["keys"]
        for accessor in accessors:
            if mount.root.auth.token.lookup_accessor(accessor)["data"]["path"] == "auth/approle/login":
                dev_vault.faults.kill_token(accessor)

    await survives(mount, kill)
    assert leftovers(mount, database) == ([], 0)


async def test_a_plain_lack_of_privilege_rotates_nothing(mount: Mount, dev_vault: DevVault) -> None:
    events: list[Event] = []
    manager = LeaseManager(settings_for(mount))
    manager.add_listener(events.append)
    async with manager:
        for _ in range(20):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                async with manager.get_pool().connection() as conn:
                    await conn.execute("create role nobody_may")
        await eventually(lambda: dev_vault.log.count("* sys/leases/lookup"), "the lease is looked up")
        async with manager.get_pool().connection() as conn:
            await conn.execute("select count(*) from orders")
        assert dev_vault.log.count("* sys/leases/lookup") <= 3
    assert not [event for event in events if isinstance(event, LeaseLost | LeaseRotated)]
