"""What could not be revoked is tried again by itself, on virtual time."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from tests.unit.test_keeper import REVOKE, world
from vault_pg import errors
from vault_pg.events import LeaseRevoked, RevocationFailed
from vault_pg.schedule import BACKOFF_CAP

pytestmark = pytest.mark.looptime

HOUR = 3600.0


async def test_a_lease_that_could_not_be_revoked_is_revoked_soon_after_vault_is_back_with_no_rotation_between() -> None:
    async with world(ttl=24 * HOUR, max_ttl=48 * HOUR) as w:
        mend = w.down(REVOKE)
        await w.keeper.rotate()
        await asyncio.sleep(HOUR)
        assert len(w.leases.alive) == 2
        assert len(w.of(RevocationFailed)) == 1  # however often it was tried
        mend()
        await asyncio.sleep(BACKOFF_CAP + 1)
        assert len(w.leases.alive) == 1
        assert len(w.of(LeaseRevoked)) == 1
        asked = len(w.vault.times(REVOKE))
        await asyncio.sleep(HOUR)
        assert len(w.vault.times(REVOKE)) == asked, "with nothing left nothing is asked"


async def test_the_lease_of_a_failed_attempt_is_revoked_with_no_other_attempt() -> None:
    async with world(ttl=24 * HOUR, max_ttl=48 * HOUR) as w:
        w.postgres.failure = psycopg.OperationalError("FATAL:  the database system is shutting down")
        with pytest.raises(errors.VaultPgError):
            await w.keeper.rotate()
        await asyncio.sleep(1)
        assert len(w.leases.alive) == 1
        assert len(w.of(LeaseRevoked)) == 1


async def test_a_lease_that_ends_meanwhile_is_asked_about_no_more() -> None:
    async with world(ttl=600, max_ttl=900) as w:
        mend = w.down(REVOKE)
        await w.keeper.rotate()
        begun = asyncio.get_running_loop().time()
        await asyncio.sleep(HOUR)
        mend()
        last = max(asked.at for asked in w.vault.asked if asked.body.get("lease_id", "").endswith("/1"))
        assert begun < last <= begun + 600 + BACKOFF_CAP


async def test_stopping_ends_the_sweep_and_keeps_the_lease_for_the_leaving() -> None:
    async with world(ttl=24 * HOUR, max_ttl=48 * HOUR) as w:
        mend = w.down(REVOKE)
        await w.keeper.rotate()
        await asyncio.sleep(10)
        await w.keeper.stop(0.0)
        asked = len(w.vault.times(REVOKE))
        await asyncio.sleep(HOUR)
        assert len(w.vault.times(REVOKE)) == asked
        assert len(w.keeper.ledger.live) == 2
        mend()
