"""Clocks that part, and answers that come late, on virtual time: what serves is looked at anew, never assumed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.unit.memory_vault import Reply
from tests.unit.test_keeper import ISSUE, RENEW, REVOKE, World, world
from vault_pg import errors
from vault_pg.events import CredentialExpired, DatabaseRecovered, LeaseIssued, LeaseRenewed, LeaseRotated, RotationFailed

pytestmark = pytest.mark.looptime


class Machine:
    """Its event loop's clock stands still while it sleeps; the lease clock runs on, and Vault's does."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.slept = 0.0

    def lease_clock(self) -> float:
        return self._loop.time() + self.slept

    def vaults_clock(self) -> float:
        return self.lease_clock()


async def refused(w: World) -> str:
    """A checkout is, at once; the reason."""
    assert w.keeper.holder is not None
    before = asyncio.get_running_loop().time()
    with pytest.raises(errors.NoCredential) as caught:
        await w.keeper.holder.getconn(timeout=30)
    assert asyncio.get_running_loop().time() == before
    return str(caught.value)


# -- late timers


async def test_the_first_checkout_after_a_sleep_past_the_leases_end_is_refused_before_any_timer_rings() -> None:
    machine = Machine()
    async with world(ttl=3600, max_ttl=86_400, clock=machine.lease_clock) as w:
        await asyncio.sleep(10)
        machine.slept += 3600
        assert not w.leases.alive
        assert "its lease ended" in await refused(w)
        assert len(w.of(CredentialExpired)) == 1
        await asyncio.sleep(1)
        assert await w.serves() == "v-app-2"
        assert len(w.of(DatabaseRecovered)) == 1


async def test_a_client_that_waited_through_the_end_of_the_lease_does_not_get_its_connection() -> None:
    machine = Machine()
    async with world(ttl=3600, max_ttl=86_400, clock=machine.lease_clock) as w:
        holder = w.keeper.holder
        assert holder is not None
        borrowed = [await holder.getconn(), await holder.getconn()]
        waiting = asyncio.create_task(holder.getconn(timeout=30))
        await asyncio.sleep(0)
        machine.slept += 3600
        await holder.putconn(borrowed.pop())
        with pytest.raises(errors.NoCredential):
            await waiting
        await holder.putconn(borrowed.pop())
        await asyncio.sleep(1)
        assert await w.serves() == "v-app-2"


async def test_an_idle_connection_is_not_taken_after_the_end_of_the_lease() -> None:
    machine = Machine()
    async with world(ttl=3600, max_ttl=86_400, clock=machine.lease_clock) as w:
        assert w.keeper.holder is not None
        machine.slept += 3600
        with pytest.raises(errors.NoCredential):
            async with w.keeper.holder.try_connection():
                pass


async def test_a_lease_that_has_ended_meanwhile_is_not_renewed_but_replaced() -> None:
    machine = Machine()
    async with world(ttl=3600, max_ttl=86_400, clock=machine.lease_clock) as w:
        machine.slept += 7200
        await asyncio.sleep(0.75 * 3600)
        assert f"{ISSUE}/1" not in {asked.body["lease_id"] for asked in w.vault.asked if asked.path == RENEW}
        assert await w.serves() == "v-app-2"


# -- late answers


async def test_a_lease_that_arrives_dead_is_never_served_and_not_asked_for_in_a_hot_loop() -> None:
    async with world(ttl=3, max_ttl=86_400) as w:
        w.vault.latency = 5.0
        await asyncio.sleep(10)
        issued = len(w.vault.times(ISSUE))
        for _ in range(120):
            await asyncio.sleep(1)
            assert "lives for 3 s" in await refused(w) or "did not answer" in await refused(w)
        assert [event.username for event in w.of(LeaseIssued)] == ["v-app-1"]
        assert not w.of(LeaseRotated)
        assert any("lives for 3 s" in event.error for event in w.of(RotationFailed))
        assert 120 / 30 < len(w.vault.times(ISSUE)) - issued <= 120 / 5
        assert w.leases.most <= 2
        w.vault.latency = 0.0
        await asyncio.sleep(35)
        assert (await w.serves()).startswith("v-app-")
        assert len(w.of(DatabaseRecovered)) == 1


async def test_a_lease_that_is_dead_on_arrival_is_revoked() -> None:
    """By Vault's own count it may live on for as long as its answer took."""
    async with world(ttl=3, max_ttl=86_400) as w:
        w.vault.latency = 5.0
        await asyncio.sleep(60)
        dead = len(w.vault.times(ISSUE)) - 1
        w.vault.latency = 0.0
        await asyncio.sleep(35)
        revoked = {asked.body["lease_id"] for asked in w.vault.asked if asked.path == REVOKE}
        assert dead > 0
        assert {f"{ISSUE}/{number}" for number in range(2, dead + 2)} <= revoked


async def test_where_renewals_always_come_too_late_leases_are_rotated_and_no_faster_than_they_end() -> None:
    async with world(ttl=3, max_ttl=86_400) as w:
        w.vault.latency = 1.4
        await asyncio.sleep(300)
        assert len(w.vault.times(ISSUE)) <= 300 / 3
        assert len(w.vault.times(RENEW)) <= 300
        assert w.leases.most <= 3
        w.vault.latency = 0.0


@pytest.mark.parametrize("path", [RENEW, ISSUE])
async def test_an_answer_that_a_sleep_holds_up_past_what_it_grants_is_not_trusted(path: str) -> None:
    machine = Machine()
    async with world(ttl=60, max_ttl=86_400, clock=machine.lease_clock) as w:
        answer = w.vault.paths[path]
        assert callable(answer)

        def held_up(body: dict[str, Any]) -> Reply:
            w.vault.paths[path] = answer
            reply = answer(body)
            machine.slept += 600
            return reply

        w.vault.paths[path] = held_up
        if path == ISSUE:
            with pytest.raises(errors.TooSlow, match="the answer came"):
                await w.keeper.rotate()
        else:
            await asyncio.sleep(45)
        await asyncio.sleep(5)
        assert f"{ISSUE}/{(await w.serves()).rpartition('-')[2]}" in w.leases.alive
        assert len(w.vault.times(ISSUE)) <= 3
        assert len(w.of(CredentialExpired)) <= 1


@pytest.mark.parametrize("latency", [3.0, 10.0])
async def test_a_new_lease_is_renewed_while_its_pool_is_built(latency: float) -> None:
    """Else it would be dead by the time that a slow PostgreSQL lets it serve."""
    async with world(ttl=4, max_ttl=86_400) as w:
        w.postgres.latency = latency
        await w.keeper.rotate()
        assert await w.serves() == "v-app-2"
        assert f"{ISSUE}/2" in w.leases.alive
        assert "v-app-2" in {event.username for event in w.of(LeaseRenewed)}
        assert not w.of(CredentialExpired)


async def test_a_pool_that_is_ready_after_its_lease_has_ended_does_not_replace_the_old_one() -> None:
    async with world(ttl=4, max_ttl=5) as w:
        w.postgres.latency = 10.0
        with pytest.raises(errors.TooSlow, match="its pool was ready"):
            await w.keeper.rotate()
        assert not w.of(LeaseRotated)
