"""When a doubtful credential is looked into, and what is made of the answers. On virtual time."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from tests.unit.memory_vault import Refusal, Reply
from tests.unit.test_keeper import ISSUE, LOOK_UP, RENEW, world
from vault_pg.events import CredentialExpired, LeaseLost, LeaseRenewed, LeaseRotated

pytestmark = pytest.mark.looptime


async def test_doubts_that_come_to_nothing_ask_vault_less_and_less_often() -> None:
    async with world(ttl=36_000, max_ttl=864_000, token_ttl=864_000) as w:
        await asyncio.sleep(10)
        for _ in range(6000):
            w.keeper.suspicion.raise_()
            await asyncio.sleep(0.1)
        times = w.vault.times(LOOK_UP)
        gaps = [after - before for before, after in itertools.pairwise(times)]
        assert gaps[:6] == pytest.approx([1, 2, 4, 8, 16, 32], abs=0.5)
        assert max(gaps) == pytest.approx(60, abs=0.5)
        assert len(times) <= 17
        assert not w.of(LeaseLost, LeaseRotated)


async def test_a_doubt_after_a_quiet_time_is_looked_into_at_once_and_again_in_a_second() -> None:
    async with world(ttl=36_000, max_ttl=864_000, token_ttl=864_000) as w:
        for _ in range(1000):
            w.keeper.suspicion.raise_()
            await asyncio.sleep(0.1)
        await asyncio.sleep(300)
        before = len(w.vault.times(LOOK_UP))
        for _ in range(25):
            w.keeper.suspicion.raise_()
            await asyncio.sleep(0.1)
        assert len(w.vault.times(LOOK_UP)) - before == 2


async def test_a_refused_login_is_looked_into_in_a_second_however_long_missing_rights_have_come_to_nothing() -> None:
    async with world(ttl=36_000, max_ttl=864_000, token_ttl=864_000) as w:

        async def noise() -> None:
            while True:
                w.keeper.suspicion.raise_()
                await asyncio.sleep(0.1)

        noisy = asyncio.create_task(noise())
        await asyncio.sleep(600)
        for wait in (1, 2, 4):
            before = len(w.vault.times(LOOK_UP))
            w.keeper.suspicion.raise_(rejected=True)
            await asyncio.sleep(wait + 0.1)
            assert len(w.vault.times(LOOK_UP)) > before
        w.leases.ends.clear()
        await asyncio.sleep(200)
        noisy.cancel()
        assert len(w.of(LeaseLost)) == len(w.of(LeaseRotated)) == 1


async def test_a_doubt_is_looked_into_beside_a_rotation_that_fails() -> None:
    async with world(ttl=3600, max_ttl=86_400, max_age=600) as w:
        w.down(ISSUE)
        hung = asyncio.get_running_loop().create_future()
        issue = w.keeper.ledger.issue

        async def hang() -> Any:
            await hung
            return await issue()

        w.keeper.ledger.issue = hang  # type: ignore[method-assign]  # a Vault that swallows it
        await asyncio.sleep(560)
        assert w.keeper.rotation is not None
        assert w.keeper.rotation.under_way
        w.leases.ends.clear()
        w.keeper.suspicion.raise_()
        await asyncio.sleep(0.5)
        assert [event.lease_id for event in w.of(LeaseLost)] == [f"{ISSUE}/1"]
        hung.set_result(None)


@pytest.mark.parametrize("refusal", [Refusal(400, "lease not found"), Refusal(400, "invalid lease"), Refusal(412)])
async def test_a_new_lease_that_a_node_does_not_know_yet_is_asked_for_again(refusal: Refusal) -> None:
    async with world(ttl=60, max_ttl=86_400) as w:
        look_up = w.leases.look_up

        def behind(body: dict[str, Any]) -> Reply:
            return refusal if w.vault.clock() < 3 else look_up(body)

        w.vault.paths[LOOK_UP] = behind
        w.keeper.suspicion.raise_()
        await asyncio.sleep(20)
        assert len(w.vault.times(LOOK_UP)) >= 2 or refusal.status == 412
        assert not w.of(LeaseLost, LeaseRotated)


async def test_a_new_lease_that_stays_unknown_is_lost_once_it_is_not_new_any_more() -> None:
    async with world(ttl=60, max_ttl=86_400) as w:
        w.leases.ends.clear()
        w.keeper.suspicion.raise_()
        await asyncio.sleep(3)
        assert not w.of(LeaseLost)
        await asyncio.sleep(7)
        assert len(w.of(LeaseLost)) == 1
        assert await w.serves() == "v-app-2"


async def test_an_old_lease_that_is_unknown_is_lost_at_once() -> None:
    async with world(ttl=3600, max_ttl=86_400) as w:
        await asyncio.sleep(10)
        w.leases.ends.clear()
        w.keeper.suspicion.raise_()
        await asyncio.sleep(0.1)
        assert len(w.of(LeaseLost)) == 1


async def test_a_renewal_of_a_new_lease_that_is_not_known_yet_is_tried_again() -> None:
    async with world(ttl=8, max_ttl=86_400) as w:
        renew = w.leases.renew

        def behind(body: dict[str, Any]) -> Reply:
            return Refusal(400, "lease not found") if len(w.vault.times(RENEW)) == 1 else renew(body)

        w.vault.paths[RENEW] = behind
        w.keeper.tenure._luck = 0.0  # renewed at a quarter of the TTL
        w.keeper.tenure.wake()
        await asyncio.sleep(7)
        assert len(w.vault.times(RENEW)) >= 2
        assert w.vault.times(RENEW)[0] < 4
        assert not w.of(LeaseLost, LeaseRotated)


async def test_a_look_up_answered_late_does_not_lose_a_lease_that_was_renewed_since() -> None:
    async with world(ttl=3600, max_ttl=86_400) as w:
        await asyncio.sleep(10)
        source: Any = w.keeper.tenure.source
        look_up = source.lookup

        async def late(lease: Any, *, timeout: float) -> Any:
            w.leases.ends, kept = {}, w.leases.ends
            try:
                await look_up(lease, timeout=timeout)
            finally:
                w.leases.ends = kept
                await asyncio.sleep(1)
                await w.keeper.renewal.once()

        source.lookup = late
        w.keeper.suspicion.raise_()
        await asyncio.sleep(5)
        assert len(w.vault.times(RENEW)) == 1
        assert not w.of(LeaseLost, LeaseRotated)


async def test_a_postgresql_that_falls_silent_after_the_login_keeps_no_lease_from_being_renewed() -> None:
    async with world(ttl=60, max_ttl=86_400) as w:

        async def silent(*_: object, **__: object) -> None:
            await asyncio.sleep(36_000)

        await asyncio.sleep(10)
        w.postgres.connection_class.execute = silent
        w.keeper.suspicion.raise_()
        await asyncio.sleep(300)
        assert len(w.of(LeaseRenewed)) >= 4
        assert not w.of(CredentialExpired, LeaseLost, LeaseRotated)


async def test_a_renewal_answered_late_does_not_bring_back_a_lease_that_was_found_lost_since() -> None:
    async with world(ttl=60, max_ttl=86_400) as w:
        source: Any = w.keeper.tenure.source
        renew = source.renew

        async def late(*args: Any, **options: Any) -> Any:
            source.renew = renew
            grant = await renew(*args, **options)
            w.leases.ends.clear()  # an operator revokes it
            w.keeper.suspicion.raise_()
            await asyncio.sleep(0.5)
            return grant

        source.renew = late
        await asyncio.sleep(50)
        assert [event.lease_id for event in w.of(LeaseLost)] == [f"{ISSUE}/1"]
        assert await w.serves() == "v-app-2"
        assert not w.of(CredentialExpired)


async def test_a_lease_that_a_node_does_not_know_yet_is_kept_while_its_pool_is_built() -> None:
    """It is new, however old the one is that serves."""
    async with world(ttl=10, max_ttl=86_400) as w:
        await asyncio.sleep(20)
        renew, unknown = w.leases.renew, [f"{ISSUE}/2"]

        def behind(body: dict[str, Any]) -> Reply:
            if body["lease_id"] in unknown:
                unknown.clear()
                return Refusal(400, "lease not found")
            return renew(body)

        w.vault.paths[RENEW] = behind
        w.keeper.tenure.draw = lambda: 0.0  # renewed at a quarter of the TTL
        w.postgres.latency = 12.0
        await w.keeper.rotate()
        assert not unknown
        assert await w.serves() == "v-app-2"
        w.postgres.latency = 0.01
