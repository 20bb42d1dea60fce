"""Clocks that part, and answers that come late, on virtual time: what serves is looked at anew, never assumed."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from pydantic import SecretStr

from tests.unit.memory_postgres import MemoryPostgres
from tests.unit.memory_vault import Reply
from tests.unit.test_keeper import ISSUE, LOOK_UP, RENEW, REVOKE, World, world
from vault_pg import Credential, CredentialSource, DatabaseSettings, Lease, LeaseManager, Settings, errors
from vault_pg import Grant as LeaseGrant
from vault_pg.clock import Clocks
from vault_pg.events import (
    CredentialExpired,
    DatabaseRecovered,
    LeaseCorrected,
    LeaseIssued,
    LeaseLost,
    LeaseRenewed,
    LeaseRotated,
    RotationFailed,
)
from vault_pg.manager.manager import AT_ONCE
from vault_pg.vault.endpoints import Extension, Grant
from vault_pg.vault.tokens import Tokens

pytestmark = pytest.mark.looptime


class Machine:
    """Its event loop's clock stands still while it sleeps. While it is paused the lease clock does too, and only the wall clock tells."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.slept = self.paused = self.stepped = 0.0

    def lease_clock(self) -> float:
        return self._loop.time() + self.slept

    def vaults_clock(self) -> float:
        return self.lease_clock() + self.paused

    def wall_clock(self) -> float:
        return self.vaults_clock() + self.stepped

    @property
    def clocks(self) -> dict[str, Any]:
        return {"clock": self.lease_clock, "vaults_clock": self.vaults_clock, "wall_clock": self.wall_clock}


async def alive(w: World) -> bool:
    """Whoever serves is of a lease that Vault holds alive."""
    return f"{ISSUE}/{(await w.serves()).rpartition('-')[2]}" in w.leases.alive


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


# -- suspends


@pytest.mark.parametrize("slept", [60.0, 1000.0, 3000.0, 3590.0])
async def test_after_a_sleep_within_the_ttl_the_lease_is_looked_up_first_and_serves_on(slept: float) -> None:
    machine = Machine()
    async with world(ttl=3600, max_ttl=86_400, token_ttl=864_000, **machine.clocks) as w:
        await asyncio.sleep(1.5)
        before = len(w.vault.asked)
        machine.slept += slept
        assert await w.serves() == "v-app-1"
        await asyncio.sleep(1.5)
        assert [asked.path for asked in w.vault.asked[before:]][:2] == ["auth/token/lookup-self", LOOK_UP]
        await asyncio.sleep(2)
        assert await w.serves() == "v-app-1"
        assert bool(w.of(LeaseRenewed)) == (slept > 0.75 * 3600)
        assert not w.of(CredentialExpired, LeaseLost, LeaseCorrected)


@pytest.mark.parametrize("dead", [True, False])
async def test_after_a_sleep_past_the_tokens_end_the_first_checkout_is_refused_and_a_new_login_mends_it(*, dead: bool) -> None:
    """Also where Vault, by its own count, still takes the token: no lease is asked for with it."""
    machine = Machine()
    async with world(ttl=3600, max_ttl=86_400, token_ttl=600, **machine.clocks) as w:
        await asyncio.sleep(1.5)
        machine.slept += 601
        w.vault.latency = 0.2
        if dead:
            w.vault.dead.add("hvs.1")
            w.leases.ends.clear()
        await refused(w)
        await asyncio.sleep(3)
        assert await w.serves() == "v-app-2"
        assert w.vault.logins == 2
        assert len(w.of(LeaseIssued)) == 2


@pytest.mark.parametrize("slept", [1800.0, 3500.0])
async def test_woken_within_the_ttl_while_vault_is_down_it_serves_on(slept: float) -> None:
    machine = Machine()
    async with world(ttl=3600, max_ttl=86_400, token_ttl=864_000, **machine.clocks) as w:
        await asyncio.sleep(1.5)
        mend = w.down()
        machine.slept += slept
        for _ in range(45):
            await asyncio.sleep(1)
            assert await w.serves() == "v-app-1"
        mend()
        await asyncio.sleep(30)
        assert await w.serves() == "v-app-1"
        assert w.vault.times(LOOK_UP)[-1] >= slept + 45
        assert not w.of(CredentialExpired, LeaseLost)


@pytest.mark.parametrize("slept", [3600.0, 86_400.0])
async def test_woken_past_the_end_while_vault_is_down_it_refuses_and_serves_soon_after_vault_is_back(slept: float) -> None:
    machine = Machine()
    async with world(ttl=3600, max_ttl=86_400, token_ttl=864_000, **machine.clocks) as w:
        await asyncio.sleep(1.5)
        mend = w.down()
        machine.slept += slept
        for _ in range(120):
            await refused(w)
            await asyncio.sleep(1)
        assert len(w.vault.times(ISSUE)) <= 1 + 120  # no hot loop
        mend()
        await asyncio.sleep(5)
        assert await w.serves() == "v-app-2"
        assert len(w.of(CredentialExpired)) == len(w.of(DatabaseRecovered)) == 1


# -- clocks that are set, and pauses that only the wall clock shows


@pytest.mark.parametrize("paused", [600.0, 2000.0, 3300.0])
async def test_after_a_pause_within_the_ttl_vaults_own_count_says_when_the_lease_ends(paused: float) -> None:
    machine = Machine()
    async with world(ttl=3600, max_ttl=864_000, token_ttl=864_000, **machine.clocks) as w:
        await asyncio.sleep(100)
        before, lease = len(w.vault.asked), w.keeper.tenure.lease
        machine.paused += paused
        await asyncio.sleep(2)
        assert [asked.path for asked in w.vault.asked[before:]][:2] == ["auth/token/lookup-self", LOOK_UP]
        corrected = w.keeper.tenure.lease
        assert lease is not None
        assert corrected is not None
        assert not corrected.capped
        assert lease.issued_at - corrected.issued_at == pytest.approx(paused, abs=2)
        [event] = w.of(LeaseCorrected)
        assert event.sooner_seconds == pytest.approx(paused, abs=2)
        for _ in range(700):
            await asyncio.sleep(10)
            assert await alive(w)
        assert await w.serves() == "v-app-1"
        assert not w.of(CredentialExpired, LeaseLost)


async def test_after_a_pause_past_the_leases_end_it_is_found_lost_before_anything_else_and_replaced() -> None:
    machine = Machine()
    async with world(ttl=3600, max_ttl=86_400, token_ttl=864_000, **machine.clocks) as w:
        await asyncio.sleep(100)
        before = len(w.vault.asked)
        machine.paused += 4000
        await asyncio.sleep(3)
        assert [asked.path for asked in w.vault.asked[before:]][:2] == ["auth/token/lookup-self", LOOK_UP]
        assert await w.serves() == "v-app-2"
        assert len(w.of(LeaseLost)) == len(w.of(LeaseRotated)) == 1


async def test_a_keeper_that_wakes_first_looks_the_lease_up_before_it_does_what_was_due() -> None:
    machine = Machine()
    async with world(ttl=3600, max_ttl=86_400, token_ttl=864_000, **machine.clocks) as w:
        step = w.keeper.tenure.next_step()
        await asyncio.sleep(step.at - machine.lease_clock() - 0.01)
        before = len(w.vault.asked)
        machine.paused += 4000
        await asyncio.sleep(0.02)
        assert LOOK_UP in [asked.path for asked in w.vault.asked[before:]]
        await asyncio.sleep(2)
        assert RENEW not in [asked.path for asked in w.vault.asked]
        assert await w.serves() == "v-app-2"


async def test_after_a_pause_the_lease_is_looked_up_again_and_again_until_vault_answers() -> None:
    machine = Machine()
    async with world(ttl=3600, max_ttl=864_000, token_ttl=864_000, **machine.clocks) as w:
        await asyncio.sleep(100)
        mend = w.down()
        machine.paused += 3000
        await asyncio.sleep(120)
        assert 120 / 40 <= len(w.vault.times(LOOK_UP)) <= 20
        assert await w.serves() == "v-app-1"
        assert not w.of(LeaseCorrected)
        mend()
        await asyncio.sleep(40)
        assert len(w.of(LeaseCorrected)) == 1
        asked = len(w.vault.times(LOOK_UP))
        for _ in range(360):
            await asyncio.sleep(10)
            assert await alive(w)
        assert len(w.vault.times(LOOK_UP)) == asked
        assert not w.of(CredentialExpired, LeaseLost)


async def test_a_pause_is_taken_off_the_tokens_life_too() -> None:
    machine = Machine()
    async with world(ttl=3600, max_ttl=864_000, token_ttl=7200, **machine.clocks) as w:
        session = w.keeper.tenure.session
        assert session is not None
        await asyncio.sleep(100)
        machine.paused += 3000
        w.vault.token_left = 500
        await asyncio.sleep(2)
        assert session.token.end - machine.lease_clock() <= 500
        assert w.keeper.tenure.horizon - machine.lease_clock() <= 500
        await asyncio.sleep(450)
        assert w.vault.times("auth/token/renew-self")
        assert w.vault.logins == 1


@pytest.mark.parametrize("step", [-86_400.0, -10.0, 10.0, 86_400.0])
async def test_a_clock_that_is_set_harms_nothing(step: float) -> None:
    machine = Machine()
    async with world(ttl=3600, max_ttl=864_000, token_ttl=864_000, **machine.clocks) as w:
        await asyncio.sleep(100)
        due, left = w.keeper.tenure.next_step(), w.keeper.tenure.left
        machine.stepped += step
        await asyncio.sleep(2)
        assert len(w.vault.times(LOOK_UP)) == 1
        assert w.keeper.tenure.next_step() == due
        assert w.keeper.tenure.left == pytest.approx(left - 2)
        assert await w.serves() == "v-app-1"
        assert not w.of(CredentialExpired, LeaseLost, LeaseCorrected, LeaseRotated)


async def test_a_clock_that_is_set_right_bit_by_bit_has_not_leapt() -> None:
    machine = Machine()
    async with world(ttl=3600, max_ttl=864_000, token_ttl=864_000, **machine.clocks) as w:
        for _ in range(500):
            await asyncio.sleep(1)
            machine.stepped += 0.5
        assert not w.vault.times(LOOK_UP)


async def test_a_look_up_may_wait_for_its_turn_among_thousands_and_comes_then() -> None:
    async with world(ttl=3600, max_ttl=864_000, token_ttl=864_000) as w:
        w.keeper.recheck(after=5.0)
        await asyncio.sleep(4.9)
        assert not w.vault.times(LOOK_UP)
        await asyncio.sleep(0.2)
        assert len(w.vault.times(LOOK_UP)) == 1


class Counted(CredentialSource):
    """A source that tells how much is left, and notes when it is asked for that."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    async def issue(self, *, timeout: float) -> LeaseGrant:
        return LeaseGrant(Credential("app", SecretStr("pw")), 3600.0)

    async def lookup(self, lease: Lease, *, timeout: float) -> float:
        self.asked.append(asyncio.get_running_loop().time())
        return lease.ttl


async def test_the_leases_of_a_hundred_databases_are_all_looked_up_but_not_all_in_one_moment() -> None:
    machine, source, postgres = Machine(), Counted(), MemoryPostgres()
    database = DatabaseSettings(source=source, min_size=0, max_size=1, connection_class=postgres.connection_class)
    settings = Settings(databases={f"db-{number}": database for number in range(100)}, status_socket=False, handle_sigterm=False)
    async with LeaseManager(settings, clock=machine.lease_clock, wall_clock=machine.wall_clock, shared=False):
        await asyncio.sleep(1.5)
        assert not source.asked
        machine.stepped += 3600
        await asyncio.sleep(2)
        assert len(source.asked) == 100
        assert max(Counter(round(at, 2) for at in source.asked).values()) <= AT_ONCE


async def test_many_short_sleeps_add_up_to_one_that_counts() -> None:
    machine = Machine()
    async with world(ttl=3600, max_ttl=864_000, token_ttl=864_000, **machine.clocks) as w:
        for _ in range(20):
            await asyncio.sleep(5)
            machine.slept += 0.4
        assert 5 <= len(w.vault.times(LOOK_UP)) <= 7


def test_a_machine_that_is_too_busy_to_read_its_clocks_at_once_has_not_slept() -> None:
    now, stalls = 0.0, iter([0.0, 30.0, 0.0, 0.0])

    def lease_clock() -> float:
        nonlocal now
        now += next(stalls)
        return now

    clocks = Clocks(lambda: now, lease_clock, lambda: now)
    assert clocks.look() is None


# -- what a look-up says


async def test_a_look_up_does_not_take_back_a_renewal_that_was_granted_after_it_was_asked() -> None:
    async with world(ttl=60, max_ttl=86_400) as w:
        before = w.keeper.tenure.lease
        assert before is not None
        await asyncio.sleep(46)
        renewed = w.keeper.tenure.lease
        assert renewed is not None
        assert renewed.renewals == 1
        w.keeper.renewal.count(before, renewed.granted_at - 1, 1.0)
        assert w.keeper.tenure.lease is renewed


async def test_rounding_corrects_nothing() -> None:
    async with world(ttl=10, max_ttl=86_400) as w:
        lease = w.keeper.tenure.lease
        assert lease is not None
        now = w.vault.clock()
        w.keeper.renewal.count(lease, now - 1, lease.end - now - 1.5)
        assert w.keeper.tenure.lease is lease
        w.keeper.renewal.count(lease, now - 1, lease.end - now - 1.6)
        assert w.keeper.tenure.lease is not lease
        assert w.keeper.tenure.left == pytest.approx(lease.end - now - 2.6)


def test_a_look_up_of_a_token_does_not_take_back_a_renewal_that_was_granted_after_it_was_asked() -> None:
    tokens = Tokens(lambda: 100.0)
    grant = Grant(secret=SecretStr("hvs.x"), ttl=60.0, renewable=True)
    tokens.adopt(grant, 50.0)
    extended = tokens.extend(1, Extension(lease_duration=60, renewable=True), granted_at=99.0, asked=60.0)
    tokens.see(1, grant.model_copy(update={"ttl": 12.0}), 98.0)
    assert tokens.current == extended


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
        assert await alive(w)
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


async def test_while_a_rotation_hangs_checkouts_are_refused_from_the_horizon_on_as_the_last_renewal_has_moved_it() -> None:
    async with world(ttl=60, max_ttl=90, build_timeout=600) as w:
        w.postgres.latency = 3600.0
        await asyncio.sleep(46)
        assert "v-app-1" in {event.username for event in w.of(LeaseRenewed)}
        await asyncio.sleep(w.keeper.tenure.left - 0.1)
        assert not w.of(CredentialExpired)
        assert await w.serves() == "v-app-1"
        await asyncio.sleep(0.2)
        assert len(w.of(CredentialExpired)) == 1
        w.postgres.latency = 0.0
