"""What a rotation waits for: never past the time that it needs itself. On virtual time."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from tests.unit.test_keeper import ISSUE, REVOKE, world
from vault_pg import errors
from vault_pg.events import CredentialExpired, DrainOverdue, LeaseLost, LeaseRotated, RevocationFailed
from vault_pg.manager.ledger import MOST_LIVE

pytestmark = pytest.mark.looptime


async def test_a_borrower_of_the_pool_before_does_not_make_a_rotation_sleep_past_the_horizon() -> None:
    """Its connection is cut off sooner than was promised, so that the others do not go without one."""
    async with world(ttl=600, max_ttl=600, drain_timeout=500) as w, AsyncExitStack() as borrowed:
        assert w.keeper.holder is not None
        await borrowed.enter_async_context(w.keeper.holder.connection())
        w.leases.ttl = w.leases.max_ttl = 30
        await w.keeper.rotate()
        await asyncio.sleep(60)
        assert not w.of(CredentialExpired)
        assert len(w.of(LeaseRotated)) >= 2
        [overdue] = w.of(DrainOverdue)
        assert overdue.generation == 1
        assert len(w.postgres.open) <= 3  # max_size and the overlap


async def test_a_lost_lease_waits_for_no_borrower_of_the_pool_before() -> None:
    async with world(ttl=600, max_ttl=6000, drain_timeout=500) as w, AsyncExitStack() as borrowed:
        assert w.keeper.holder is not None
        await borrowed.enter_async_context(w.keeper.holder.connection())
        await w.keeper.rotate()
        await asyncio.sleep(10)  # it is not new any more
        w.leases.ends.pop(f"{ISSUE}/2")
        w.keeper.recheck()
        await asyncio.sleep(5)
        assert [event.lease_id for event in w.of(LeaseLost)] == [f"{ISSUE}/2"]
        assert await w.serves() == "v-app-3"


async def test_a_lease_that_is_lost_while_a_rotation_waits_ends_the_wait() -> None:
    async with world(ttl=600, max_ttl=6000, drain_timeout=500) as w, AsyncExitStack() as borrowed:
        assert w.keeper.holder is not None
        await borrowed.enter_async_context(w.keeper.holder.connection())
        await w.keeper.rotate()
        asked = asyncio.create_task(w.keeper.rotate())
        await asyncio.sleep(10)
        assert not asked.done()
        w.keeper.tenure.lose("somebody says so")
        await asyncio.sleep(5)
        await asked
        assert await w.serves() == "v-app-3"


async def test_a_rotation_waits_for_no_revocation_until_so_many_leases_are_alive() -> None:
    async with world(ttl=3600, max_ttl=86_400) as w:
        mend = w.down(REVOKE)
        await w.keeper.rotate()
        tried = len(w.vault.times(REVOKE))
        await w.keeper.rotate()
        assert w.of(RevocationFailed)
        assert len(w.vault.times(REVOKE)) - tried <= 2  # by those who end, and not by the issue
        assert w.keeper.ledger.full
        assert w.leases.most == MOST_LIVE
        with pytest.raises(errors.VaultUnavailable, match="3 leases"):
            await w.keeper.rotate()
        assert w.leases.most == MOST_LIVE
        mend()
        await asyncio.sleep(40)
        assert len(w.leases.alive) == 1
