"""Answers that are lost on the way: what Vault may have done is reckoned with, and undone in the end. On virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.unit.test_keeper import ISSUE, RENEW, world
from vault_pg import errors
from vault_pg.events import CredentialExpired, LeaseRenewed, RenewalFailed

pytestmark = pytest.mark.looptime


async def until(check: Callable[[], bool]) -> None:
    """In virtual time, looked at every second of an hour."""
    for _ in range(3600):
        if check():
            return
        await asyncio.sleep(1)
    raise AssertionError(f"not in an hour: {check}")


async def test_a_lease_whose_renewals_were_never_answered_is_revoked_although_its_horizon_is_over() -> None:
    """Vault has made it end later than anybody was told. The world looks for what is left on leaving."""
    async with world(ttl=60, max_ttl=86_400) as w:
        w.vault.unheard.add(RENEW)
        w.down(ISSUE)
        await asyncio.sleep(61)
        assert w.of(CredentialExpired)
        assert w.keeper.holder is not None
        with pytest.raises(errors.NoCredential):
            await w.keeper.holder.getconn(timeout=1)
        assert w.leases.alive == {f"{ISSUE}/1"}
        assert [lease.id for lease in w.keeper.ledger.live] == [f"{ISSUE}/1"]


async def test_a_renewal_that_vault_refused_leaves_nothing_in_doubt() -> None:
    async with world(ttl=60, max_ttl=86_400) as w:
        w.down()
        await asyncio.sleep(61)
        assert w.of(RenewalFailed)
        assert not w.keeper.ledger.live


async def test_an_answered_renewal_ends_the_doubt_of_those_before() -> None:
    async with world(ttl=60, max_ttl=86_400) as w:
        w.vault.unheard.add(RENEW)
        await until(lambda: bool(w.of(RenewalFailed)))
        w.vault.unheard.clear()
        await until(lambda: bool(w.of(LeaseRenewed)))
        w.down()
        await asyncio.sleep(61)
        assert not w.leases.alive
        assert not w.keeper.ledger.live


async def test_a_renewal_that_is_cancelled_on_its_way_is_in_doubt_too() -> None:
    async with world(ttl=60, max_ttl=86_400) as w:
        lease = w.keeper.tenure.lease
        assert lease is not None
        with pytest.raises(asyncio.CancelledError), w.keeper.ledger.renewing(lease, 60):
            raise asyncio.CancelledError
        w.down()
        await asyncio.sleep(61)
        assert [lease.id for lease in w.keeper.ledger.live] == [f"{ISSUE}/1"]
