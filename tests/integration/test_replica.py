"""A pool on a streaming replica: the role that Vault makes on the primary comes to it late, or not in time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psycopg
import pytest

from tests.chaos.service import settings_of
from tests.replica import Replica
from tests.servers import Mount
from tests.waiting import eventually
from vault_pg import CredentialRejected, HotSwapPool, LeaseManager
from vault_pg.dev import EmbeddedPostgres
from vault_pg.events import CredentialExpired, Event, LeaseIssued, LeaseLost, LeaseRotated, RotationFailed, StartDelayed


@pytest.fixture(scope="module")
def replica(postgres: EmbeddedPostgres) -> Iterator[Replica]:
    with Replica(postgres) as replica:
        yield replica


class Watched:
    """A manager whose pool is on the replica, and its events."""

    def __init__(self, mount: Mount, replica: Replica, *, build_timeout: float = 60.0) -> None:
        settings = settings_of(mount)
        changed = {"conninfo": replica.conninfo(), "build_timeout": build_timeout}
        databases = {"default": settings.databases["default"].model_copy(update=changed)}
        self.events: list[Event] = []
        self.manager = LeaseManager(settings.model_copy(update={"databases": databases, "start_timeout": 120.0}))
        self.manager.add_listener(self.events.append)

    def of(self, *kinds: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kinds)]

    @property
    def issued(self) -> list[str]:
        return [event.username for event in self.events if isinstance(event, LeaseIssued)]


async def query(pool: HotSwapPool[psycopg.AsyncConnection]) -> str:
    async with pool.connection() as conn:
        cursor = await conn.execute("select current_user, pg_is_in_recovery(), count(*) from orders")
        row = await cursor.fetchone()
        assert row is not None
        assert row[1] is True
        return str(row[0])


async def test_a_replica_that_has_not_seen_the_new_role_yet_is_waited_for(mount: Mount, replica: Replica) -> None:
    watched = Watched(mount, replica)
    async with watched.manager as manager:
        pool = manager.get_pool()
        with replica.behind():
            rotating = asyncio.create_task(manager.rotate())
            await eventually(lambda: len(watched.issued) == 2 and replica.refused(watched.issued[1]), "the new role is refused")
            assert await query(pool) == watched.issued[0]
            assert not rotating.done()
        await rotating
        assert await query(pool) == watched.issued[1]
    assert len(watched.issued) == 2, "one lease is waited with, and no other asked for meanwhile"
    assert not watched.of(RotationFailed, LeaseLost, CredentialExpired)
    assert mount.leases() == []


async def test_a_start_waits_for_a_replica_that_is_behind(mount: Mount, replica: Replica) -> None:
    watched = Watched(mount, replica)
    with replica.behind():
        starting = asyncio.create_task(watched.manager.__aenter__())
        await eventually(lambda: watched.issued and replica.refused(watched.issued[0]), "the new role is refused")
        assert not starting.done()
    manager = await starting
    assert await query(manager.get_pool()) == watched.issued[0]
    await manager.__aexit__(None, None, None)
    assert len(watched.issued) == 1
    assert not watched.of(StartDelayed)
    assert mount.leases() == []


@pytest.mark.slow
async def test_a_replica_that_stays_behind_fails_the_rotation_and_the_old_role_serves_on(mount: Mount, replica: Replica) -> None:
    watched = Watched(mount, replica, build_timeout=8.0)
    async with watched.manager as manager:
        before = await query(manager.get_pool())
        with replica.behind():
            with pytest.raises(CredentialRejected, match="is a replica behind"):
                await manager.rotate()
            assert replica.refused(watched.issued[-1])
            assert await query(manager.get_pool()) == before
            await eventually(lambda: len(mount.leases()) == 1, "the lease that never served is revoked")
        assert await query(manager.get_pool()) == before
    assert not watched.of(LeaseRotated, LeaseLost, CredentialExpired)
    assert mount.leases() == []
