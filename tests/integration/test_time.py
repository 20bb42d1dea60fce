"""Clocks that part, and an event loop that is blocked, in front of real servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import psycopg
import pytest

from tests.chaos.service import settings_of
from tests.servers import Mount
from tests.waiting import LONG, eventually
from vault_pg import HotSwapPool, LeaseManager, NoCredential
from vault_pg.clock import boottime
from vault_pg.dev import DevVault
from vault_pg.events import (
    ClocksParted,
    CredentialExpired,
    DatabaseRecovered,
    Event,
    LeaseCorrected,
    LeaseIssued,
    LeaseLost,
    LeaseRenewed,
    LeaseRotated,
    RotationFailed,
)
from vault_pg.manager import keeper
from vault_pg.manager.ledger import BURST, REFILL

MakeMount = Callable[..., Mount]
Pool = HotSwapPool[psycopg.AsyncConnection]


@pytest.fixture(autouse=True)
def _runtime_dir(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_PG_RUNTIME_DIR", f"{tmp_path}/run")


async def query(pool: Pool) -> str:
    """Who it is asked as. It reads a table, which a dead role may not."""
    async with pool.connection() as conn:
        cursor = await conn.execute("select current_user, count(*) from orders")
        row = await cursor.fetchone()
        assert row is not None
        return str(row[0])


async def serving(pool: Pool) -> str:
    """The same, once there is somebody to be asked as; on a busy machine a lease of seconds may end between checkout and query."""
    while True:
        try:
            return await query(pool)
        except (NoCredential, psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedObject):
            await asyncio.sleep(0.05)


class Watched:
    """A manager, its events, and clocks of its own that a test may set."""

    def __init__(self, mount: Mount) -> None:
        self.slept = self.stepped = 0.0
        self.events: list[Event] = []
        self.manager = LeaseManager(
            settings_of(mount, token_ttl=86_400),
            clock=lambda: boottime() + self.slept,
            wall_clock=lambda: time.time() + self.slept + self.stepped,
        )
        self.manager.add_listener(self.events.append)

    def of(self, *kinds: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kinds)]


async def test_when_the_wall_clock_leaps_vaults_count_of_a_lease_stands_above_ours(make_mount: MakeMount) -> None:
    """Vault's hour goes on while this machine is paused: here by an operator who leaves the lease twenty minutes of it."""
    mount = make_mount(default_ttl=3600, max_ttl=86_400)
    watched = Watched(mount)
    async with watched.manager as manager:
        [lease_id] = mount.leases()
        mount.root.sys.renew_lease(lease_id, increment=600)
        [database] = manager.status().databases
        assert database.lease is not None
        assert (database.lease.remaining_seconds or 0) > 3000
        watched.stepped += 3000
        await eventually(lambda: watched.of(LeaseRenewed), "it is renewed, for that is due by Vault's count")
        [parted], [corrected] = watched.of(ClocksParted), watched.of(LeaseCorrected)
        assert watched.events.index(parted) < watched.events.index(corrected)
        assert isinstance(corrected, LeaseCorrected)
        assert corrected.remaining_seconds <= 600
        assert mount.root.sys.read_lease(lease_id)["data"]["ttl"] > 3000
        await query(manager.get_pool())
    assert not watched.of(LeaseRotated, LeaseLost, CredentialExpired)
    assert mount.leases() == []


async def test_when_the_wall_clock_leaps_a_lease_that_is_gone_is_replaced_at_once(
    make_mount: MakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "LOST_GRACE", LONG)  # a busy machine may need longer for a rotation than checkouts wait for one
    mount = make_mount(default_ttl=3600, max_ttl=86_400)
    watched = Watched(mount)
    async with watched.manager as manager:
        [lease_id] = mount.leases()
        mount.root.sys.revoke_lease(lease_id)
        watched.stepped += 7200
        await eventually(lambda: watched.of(LeaseRotated), "another lease serves, and no query was needed to find out")
        await query(manager.get_pool())
    assert len(watched.of(LeaseLost)) == 1
    assert not watched.of(CredentialExpired)
    assert mount.leases() == []


async def test_woken_from_a_sleep_past_the_leases_end_no_checkout_is_served_by_it(make_mount: MakeMount) -> None:
    mount = make_mount(default_ttl=3600, max_ttl=86_400)
    watched = Watched(mount)
    async with watched.manager as manager:
        pool = manager.get_pool()
        before = await query(pool)
        watched.slept += 7200
        with pytest.raises(NoCredential, match="no credential for role 'app' since"):
            await query(pool)
        assert await serving(pool) != before
        await eventually(lambda: watched.of(ClocksParted), "it was noticed that the clocks have parted")
        assert len(watched.of(LeaseIssued)) == 2
        assert len(watched.of(DatabaseRecovered)) == 1
    assert mount.leases() == []


async def test_an_event_loop_blocked_for_longer_than_the_ttl_serves_no_dead_credential_and_recovers(
    make_mount: MakeMount,
) -> None:
    mount = make_mount(default_ttl=2, max_ttl=3600)
    watched = Watched(mount)
    loop = asyncio.get_running_loop()
    async with watched.manager as manager:
        pool = manager.get_pool()
        before = await serving(pool)
        loop.call_soon(time.sleep, 3)
        # These are ready to run as soon as the loop is, before any timer.
        outcomes = await asyncio.gather(*(query(pool) for _ in range(8)), return_exceptions=True)
        freed = boottime()
        issued = len(watched.of(LeaseIssued))
        assert before not in outcomes
        assert [outcome for outcome in outcomes if not isinstance(outcome, NoCredential | str)] == []
        assert isinstance(outcomes[-1], NoCredential)
        assert await serving(pool) != before
        assert watched.of(DatabaseRecovered)
        assert len(watched.of(LeaseIssued)) - issued <= BURST + (boottime() - freed) / REFILL
    assert mount.leases() == []


@pytest.mark.slow
async def test_a_vault_that_is_slower_than_its_leases_live_is_no_hot_loop_and_serves_again_when_it_is_quick(
    make_mount: MakeMount, dev_vault: DevVault
) -> None:
    mount = make_mount(default_ttl=2, max_ttl=3600)
    watched = Watched(mount)
    async with watched.manager as manager:
        pool, start = manager.get_pool(), boottime()
        await serving(pool)
        trouble = dev_vault.faults.slow(4.0)
        await eventually(
            lambda: any("lives for 2 s" in e.error for e in watched.of(RotationFailed) if isinstance(e, RotationFailed))
        )
        with pytest.raises(NoCredential, match=r"lives for 2 s|did not answer"):
            await query(pool)
        assert dev_vault.log.count(f"{mount.path}/creds/app") <= BURST + (boottime() - start) / REFILL
        trouble.end()
        await serving(pool)
    assert mount.leases() == []
