"""One database's credential through hours and outages, on virtual time: no thread, no socket, no sleep."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from tests.unit.memory_postgres import MemoryPostgres
from tests.unit.memory_vault import DENIED, DOWN, MemoryCalls, MemoryVault, Refusal, Reply
from vault_pg import errors
from vault_pg.clock import Clock, Clocks
from vault_pg.events import (
    CredentialExpired,
    DatabaseRecovered,
    Event,
    LeaseIssued,
    LeaseLost,
    LeaseRenewed,
    LeaseRevoked,
    LeaseRotated,
    RenewalFailed,
    RotationFailed,
    TaskDied,
)
from vault_pg.lease import Lease
from vault_pg.manager.keeper import Keeper
from vault_pg.manager.tenure import Tenure
from vault_pg.schedule import BACKOFF_CAP, BACKOFF_PRESSED
from vault_pg.settings import AppRoleAuth, DatabaseSettings, VaultSettings
from vault_pg.vault import VaultSession

pytestmark = pytest.mark.looptime

ISSUE, RENEW, REVOKE = "database/creds/app", "sys/leases/renew", "sys/leases/revoke"
LOOK_UP = "sys/leases/lookup"


class Leases:
    """The leases of one role as Vault keeps them: renewals set the time left, max TTL cuts them."""

    def __init__(self, vault: MemoryVault, ttl: float, max_ttl: float) -> None:
        self.vault, self.ttl, self.max_ttl = vault, ttl, max_ttl
        self.numbers = itertools.count(1)
        self.ends: dict[str, float] = {}
        self.last: dict[str, float] = {}
        self.owners: dict[str, str] = {}
        self.most = 0
        vault.paths |= {ISSUE: self.issue, RENEW: self.renew, REVOKE: self.revoke, LOOK_UP: self.look_up}
        vault.paths["auth/token/revoke-self"] = self.revoke_with_token

    @property
    def now(self) -> float:
        return self.vault.clock()

    @property
    def alive(self) -> set[str]:
        return {key for key, end in self.ends.items() if end > self.now}

    def issue(self, _: dict[str, Any]) -> Reply:
        number = next(self.numbers)
        key = f"{ISSUE}/{number}"
        self.ends[key], self.last[key] = self.now + self.ttl, self.now + self.max_ttl
        self.owners[key] = self.vault.asked[-1].token
        self.most = max(self.most, len(self.alive))
        data = {"username": f"v-app-{number}", "password": f"pw-{number}"}
        return {"lease_id": key, "lease_duration": int(self.ttl), "renewable": True, "data": data}

    def renew(self, body: dict[str, Any]) -> Reply:
        key = body["lease_id"]
        if key not in self.alive:
            return Refusal(400, "lease not found")
        granted = int(min(body["increment"], self.last[key] - self.now))
        if granted <= 0:
            return Refusal(400, "failed to renew entry: past the max TTL, cannot renew")
        self.ends[key] = self.now + granted
        return {"lease_id": key, "lease_duration": granted, "renewable": True}

    def look_up(self, body: dict[str, Any]) -> Reply:
        key = body["lease_id"]
        return {"data": {"ttl": int(self.ends[key] - self.now)}} if key in self.alive else Refusal(400, "invalid lease")

    def revoke(self, body: dict[str, Any]) -> Reply:
        self.ends.pop(body["lease_id"], None)
        return {}

    def revoke_with_token(self, _: dict[str, Any]) -> Reply:
        token = self.vault.asked[-1].token
        for key in [key for key, owner in self.owners.items() if owner == token]:
            self.ends.pop(key, None)
        return {}


class World:
    def __init__(self, keeper: Keeper, vault: MemoryVault, leases: Leases, postgres: MemoryPostgres, events: list[Event]) -> None:
        self.keeper, self.vault, self.leases, self.postgres, self.events = keeper, vault, leases, postgres, events

    def of(self, *kinds: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kinds)]

    async def serves(self) -> str:
        """Who a checkout is connected as."""
        assert self.keeper.holder is not None
        async with self.keeper.holder.connection() as conn:
            user: str = conn.user  # type: ignore[attr-defined]
            return user

    def down(self, *paths: str, reply: Refusal = DOWN) -> Callable[[], None]:
        """Let the paths fail; the returned function mends them."""
        before = {path: self.vault.paths[path] for path in paths or tuple(self.vault.paths)}
        self.vault.paths.update(dict.fromkeys(before, reply))
        return lambda: self.vault.paths.update(before)


@asynccontextmanager
async def world(
    *,
    ttl: float = 10,
    max_ttl: float = 25,
    token_ttl: int = 86_400,
    seed: int = 1,
    clock: Clock | None = None,
    vaults_clock: Clock | None = None,
    wall_clock: Clock | None = None,
    **options: Any,
) -> AsyncIterator[World]:
    clock = clock or asyncio.get_running_loop().time
    draw = random.Random(seed).random  # noqa: S311 - a seed for a test
    events: list[Event] = []
    vault = MemoryVault(vaults_clock or clock)
    vault.token_ttl = token_ttl
    leases = Leases(vault, ttl, max_ttl)
    postgres = MemoryPostgres()
    auth = AppRoleAuth(role_id="r", secret_id=SecretStr("s"))
    session = VaultSession(
        VaultSettings(address="https://vault.test:8200", auth=auth),
        emit=events.append,
        clock=clock,
        draw=draw,
        calls=MemoryCalls(vault),
    )
    settings = DatabaseSettings(role="app", min_size=1, max_size=2, connection_class=postgres.connection_class, **options)
    tenure = Tenure("default", settings, session, emit=events.append, clock=clock, draw=draw, vault_timeout=10)

    async def forget() -> None:
        needed = {lease.token_serial for lease in keeper.ledger.live}
        for serial in session.old_serials - needed:
            await session.forget(serial, timeout=10)

    clocks = Clocks(asyncio.get_running_loop().time, clock, wall_clock or clock)

    def look() -> None:
        if clocks.look() is not None:
            session.recheck()
            keeper.recheck()

    async def watch_clocks() -> None:
        while True:
            await asyncio.sleep(1)
            look()

    keeper = Keeper(tenure, ended=forget, woken=look)
    await session.open()
    await keeper.start(30.0)
    tasks = [asyncio.create_task(work()) for work in (session.run, session.watch, keeper.run, watch_clocks)]
    try:
        yield World(keeper, vault, leases, postgres, events)
        assert not [task for task in tasks if task.done()]
        assert not [event for event in events if isinstance(event, TaskDied)]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await keeper.stop(5.0)
        for lease in keeper.ledger.live:
            await keeper.ledger.revoke(lease)
        await session.close(timeout=5.0)
    assert not postgres.open
    assert not leases.alive


async def test_a_lease_is_renewed_then_rotated_before_max_ttl_and_the_old_one_revoked() -> None:
    async with world(ttl=10, max_ttl=25) as w:
        assert await w.serves() == "v-app-1"
        await asyncio.sleep(25)
        assert await w.serves() == "v-app-2"
        renewed, rotated = w.of(LeaseRenewed), w.of(LeaseRotated)
        assert [event.capped for event in renewed if event.username == "v-app-1"][-1] is True
        assert [(event.username, event.previous_username, event.generation) for event in rotated] == [("v-app-2", "v-app-1", 2)]
        assert "max TTL" in rotated[0].why
        assert [event.username for event in w.of(LeaseRevoked)] == ["v-app-1"]
        assert w.postgres.users == {"v-app-2"}
        assert not w.of(RenewalFailed, RotationFailed, LeaseLost, CredentialExpired)


@pytest.mark.parametrize("seed", range(3))
async def test_hours_of_short_leases_never_has_a_gap(seed: int) -> None:
    """Whoever asks, whenever, gets a connection of a lease that Vault holds alive; never more than two leases are."""
    async with world(ttl=60, max_ttl=150, seed=seed) as w:
        for _ in range(5 * 60):
            await asyncio.sleep(60 * random.Random(seed).random() * 2)  # noqa: S311 - a seed for a test
            user = await w.serves()
            assert f"{ISSUE}/{user.rpartition('-')[2]}" in w.leases.alive
        assert w.leases.most <= 2
        assert not w.of(RenewalFailed, RotationFailed, CredentialExpired)
        # One issue a lease life, and about one renewal each 0.42 to 0.75 of a TTL: nothing is asked in a hot loop.
        assert len(w.of(LeaseIssued)) <= w.vault.clock() / 75 + 1
        assert len(w.of(LeaseRenewed)) <= w.vault.clock() / 24


async def test_an_outage_of_a_quarter_of_the_ttl_costs_nothing() -> None:
    async with world(ttl=60, max_ttl=86_400) as w:
        for _ in range(20):
            await asyncio.sleep(random.Random(7).random() * 60)  # noqa: S311 - a seed for a test
            mend = w.down()
            await asyncio.sleep(15)
            assert await w.serves() == "v-app-1"
            mend()
        await asyncio.sleep(60)
        assert await w.serves() == "v-app-1"
        assert not w.of(LeaseRotated, CredentialExpired)
        assert w.keeper.tenure.last_error is None


async def test_past_the_horizon_checkouts_fail_at_once_and_serve_again_soon_after_vault_is_back() -> None:
    async with world(ttl=60, max_ttl=86_400) as w:
        mend = w.down(reply=Refusal(503, "Vault is sealed"))
        await asyncio.sleep(120)
        [expired] = w.of(CredentialExpired)
        assert "sealed" in expired.error
        assert w.keeper.holder is not None
        before = w.vault.clock()
        with pytest.raises(errors.NoCredential, match=r"no credential for role 'app' since .*sealed"):
            await w.keeper.holder.getconn(timeout=30)
        assert w.vault.clock() == before
        assert not w.postgres.open
        mend()
        await asyncio.sleep(5)
        assert await w.serves() == "v-app-2"
        assert len(w.of(DatabaseRecovered)) == 1
        assert w.of(RotationFailed)
        waits = [event.retry_in_seconds for event in w.of(RotationFailed)]
        assert all(0.1 <= wait <= 30 for wait in waits)


async def test_a_lost_lease_is_rotated_at_once() -> None:
    async with world(ttl=60, max_ttl=86_400) as w:
        w.leases.ends.clear()
        await asyncio.sleep(46)  # by then the renewal has come, and found it gone
        assert await w.serves() == "v-app-2"
        assert [event.lease_id for event in w.of(LeaseLost)] == [f"{ISSUE}/1"]
        assert not w.of(CredentialExpired)


async def test_a_policy_without_the_right_to_renew_means_rotations_in_time() -> None:
    async with world(ttl=60, max_ttl=86_400) as w:
        w.down(RENEW, reply=DENIED)
        for _ in range(10):
            await asyncio.sleep(60)
            await w.serves()
        [first, *_] = w.of(RenewalFailed)
        assert "sys/leases/renew" in first.error
        assert first.retry_in_seconds is None
        assert len(w.of(LeaseRotated)) >= 9
        assert not w.of(CredentialExpired)


async def test_a_pool_that_cannot_be_built_changes_nothing_and_leaves_no_lease() -> None:
    async with world(ttl=60, max_ttl=150, build_timeout=5) as w:
        w.postgres.failure = psycopg.OperationalError('connection failed: FATAL: database "nope" does not exist')
        await asyncio.sleep(140)
        assert await w.serves() == "v-app-1"
        assert w.of(RotationFailed)
        assert w.leases.most <= 3
        w.postgres.failure = None
        await asyncio.sleep(5)
        assert await w.serves() != "v-app-1"
        assert not w.of(CredentialExpired)
        assert len(w.leases.alive) == 1


async def test_a_new_token_means_a_new_lease_before_the_old_token_ends_and_the_old_token_is_revoked() -> None:
    async with world(ttl=3600, max_ttl=86_400) as w:
        ends: list[float] = []

        def capped(body: dict[str, Any]) -> Reply:
            ends.append(w.vault.clock() + 600)
            return {"auth": {"client_token": "same", "lease_duration": 600, "renewable": True, "token_type": "service"}}

        w.vault.paths["auth/token/renew-self"] = capped
        await asyncio.sleep(0.75 * 86_400 + 600)
        assert w.vault.logins == 2
        [rotated] = w.of(LeaseRotated)
        assert "token" in rotated.why
        assert w.of(LeaseRevoked)[-1].at
        assert w.vault.times("auth/token/revoke-self")[0] < ends[0]
        assert await w.serves() == "v-app-2"


async def test_a_dead_token_is_replaced_and_its_lease_with_it() -> None:
    async with world(ttl=60, max_ttl=86_400) as w:
        w.vault.dead.add("hvs.1")
        w.leases.ends.clear()
        await asyncio.sleep(46)
        assert await w.serves() == "v-app-2"
        assert w.vault.logins == 2
        assert not w.of(CredentialExpired)


async def test_a_rotation_that_is_asked_for_returns_when_the_new_generation_serves() -> None:
    async with world(ttl=3600, max_ttl=86_400) as w:
        await w.keeper.rotate()
        assert await w.serves() == "v-app-2"
        assert [event.why for event in w.of(LeaseRotated)] == ["asked for"]
        mend = w.down(ISSUE, reply=Refusal(400, "unknown role: app"))
        with pytest.raises(errors.RoleNotFound):
            await w.keeper.rotate()
        assert await w.serves() == "v-app-2"
        mend()


async def test_rotations_by_hand_keep_to_two_generations_and_leave_one_lease() -> None:
    async with world(ttl=3600, max_ttl=86_400) as w:
        for _ in range(50):
            await w.keeper.rotate()
        assert await w.serves() == "v-app-51"
        await asyncio.sleep(1)
        assert w.leases.most <= 2
        assert len(w.leases.alive) == 1


async def test_max_age_rotates_although_the_lease_could_be_renewed_for_ever() -> None:
    async with world(ttl=60, max_ttl=86_400, max_age=300) as w:
        await asyncio.sleep(3000)
        assert len(w.of(LeaseRotated)) >= 10
        assert all("max age" in event.why for event in w.of(LeaseRotated))


async def test_leases_that_vault_will_not_revoke_do_not_pile_up() -> None:
    async with world(ttl=3600, max_ttl=86_400) as w:
        mend = w.down(REVOKE)
        for _ in range(2):
            await w.keeper.rotate()
        with pytest.raises(errors.VaultUnavailable, match="3 leases"):
            await w.keeper.rotate()
        assert len(w.leases.alive) == 3
        mend()
        await w.keeper.rotate()
        await asyncio.sleep(1)
        assert len(w.leases.alive) == 1


async def test_rotations_by_hand_leave_no_debt_that_delays_the_next_one() -> None:
    async with world(ttl=60, max_ttl=86_400) as w:
        for _ in range(25):
            await w.keeper.rotate()
        w.leases.ends.clear()
        await asyncio.sleep(46)
        lost = w.of(LeaseLost)[0]
        assert w.events.index(w.of(LeaseRotated)[-1]) > w.events.index(lost)
        assert not w.of(CredentialExpired)


async def test_a_lease_is_renewed_beside_a_rotation_that_takes_longer_than_its_ttl() -> None:
    async with world(ttl=4, max_ttl=86_400) as w:
        w.postgres.latency = 10.0
        asked = asyncio.create_task(w.keeper.rotate())
        for _ in range(40):
            await asyncio.sleep(0.2)
            assert await w.serves() in {"v-app-1", "v-app-2"}
        await asked
        assert await w.serves() == "v-app-2"
        assert [event.username for event in w.of(LeaseRenewed)].count("v-app-1") >= 2
        assert not w.of(CredentialExpired)


async def test_retry_after_does_not_outlast_a_short_lease() -> None:
    async with world(ttl=3, max_ttl=86_400) as w:
        mend = w.down(RENEW, reply=Refusal(429, "quota", retry_after="20"))
        await asyncio.sleep(2.3)
        mend()
        await asyncio.sleep(20)
        assert w.of(RenewalFailed)
        assert not w.of(CredentialExpired)


async def test_a_lost_credential_is_refused_if_its_replacement_takes_long() -> None:
    async with world(ttl=60, max_ttl=86_400) as w:
        w.postgres.latency = 10.0
        w.leases.ends.clear()
        await asyncio.sleep(50)
        assert w.of(LeaseLost)
        assert w.keeper.holder is not None
        if not w.of(LeaseRotated):
            with pytest.raises(errors.NoCredential):
                await w.keeper.holder.getconn(timeout=1)
        await asyncio.sleep(30)
        assert await w.serves() == "v-app-2"


async def test_a_failed_rotation_by_hand_is_told_once_and_not_repeated() -> None:
    async with world(ttl=3600, max_ttl=86_400) as w:
        mend = w.down(ISSUE)
        with pytest.raises(errors.VaultUnavailable):
            await w.keeper.rotate()
        asked = len(w.vault.times(ISSUE))
        await asyncio.sleep(60)
        assert len(w.vault.times(ISSUE)) == asked
        assert [event.retry_in_seconds for event in w.of(RotationFailed)] == [None]
        mend()


async def test_stopping_in_the_middle_of_a_rotation_leaves_nothing() -> None:
    for stage in (0.0, 0.005, 0.012, 0.03, 0.06):
        async with world(ttl=3600, max_ttl=86_400) as w:
            asked = asyncio.create_task(w.keeper.rotate())
            await asyncio.sleep(stage)
        with (
            pytest.raises((errors.VaultPgError, asyncio.CancelledError)) if not asked.done() or asked.exception() else _nothing()
        ):
            await asked


async def test_a_wake_during_an_attempt_that_fails_is_not_lost() -> None:
    """Whatever happened meanwhile may be what was wanting: the next attempt does not wait for the backoff."""
    async with world(ttl=36_000, max_ttl=864_000, token_ttl=864_000) as w:
        renew = w.leases.renew

        def fail(body: dict[str, Any]) -> Reply:
            attempts = len(w.vault.times(RENEW))
            if attempts == 8:
                w.keeper.tenure.wake()
            return DOWN if attempts <= 8 else renew(body)

        w.vault.paths[RENEW] = fail
        await asyncio.sleep(32_000)
        times = w.vault.times(RENEW)
        gaps = [after - before for before, after in itertools.pairwise(times[:9])]
        assert gaps[-1] <= 0.25 < max(gaps)


async def test_a_lost_credential_does_not_back_off_as_if_its_hour_were_left() -> None:
    async with world(ttl=3600, max_ttl=86_400) as w:
        w.down(ISSUE)
        w.leases.ends.clear()
        await asyncio.sleep(3600)
        assert w.of(LeaseLost)
        waits = [event.retry_in_seconds for event in w.of(RotationFailed)]
        assert len(waits) > 10
        assert max(waits) <= BACKOFF_PRESSED


async def test_a_lease_whose_role_was_dropped_by_hand_is_revoked_all_the_same() -> None:
    async with world(ttl=3600, max_ttl=86_400) as w:
        renew = w.leases.renew

        def without_role(body: dict[str, Any]) -> Reply:
            if body["lease_id"] == f"{ISSUE}/1":
                return Refusal(400, 'failed to renew entry: ERROR: role "v-app-1" does not exist (SQLSTATE 42704)')
            return renew(body)

        w.vault.paths[RENEW] = without_role
        mend = w.down(REVOKE)
        await asyncio.sleep(2710)  # the renewal has come by 0.75 of the TTL
        assert [event.lease_id for event in w.of(LeaseLost)] == [f"{ISSUE}/1"]
        assert w.leases.alive == {f"{ISSUE}/1", f"{ISSUE}/2"}
        mend()
        await w.keeper.rotate()
        await asyncio.sleep(BACKOFF_CAP + 1)
        assert w.leases.alive == {f"{ISSUE}/3"}


async def test_a_lease_is_not_lost_by_the_death_of_a_token_that_is_not_its_own() -> None:
    async with world(ttl=3600, max_ttl=86_400) as w:
        session = w.keeper.tenure.session
        assert session is not None
        await session.log_in()
        w.vault.dead.add("hvs.2")
        w.keeper.recheck()
        await asyncio.sleep(5)
        assert LOOK_UP in {asked.path for asked in w.vault.asked if asked.token == "hvs.2"}
        assert not w.of(LeaseLost)
        assert not w.keeper.tenure.lost
        assert f"{ISSUE}/1" in w.leases.alive


class _nothing:  # noqa: N801 - reads as a function
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


async def test_a_renewal_that_fails_beside_a_failing_rotation_is_no_hot_loop() -> None:
    """While a rotation fails the old lease is kept alive; if Vault can't renew it either, that is asked less and less often."""
    async with world(ttl=600, max_ttl=86_400, max_age=700) as w:
        await asyncio.sleep(200)
        end = w.down(ISSUE, RENEW)
        await asyncio.sleep(60)
        w.keeper.tenure.ask_again("so that a rotation fails for long")
        start = w.vault.clock()
        await asyncio.sleep(220)
        renewals = [at for at in w.vault.times(RENEW) if at >= start]
        assert len(renewals) <= 60
        end()
        await asyncio.sleep(31)
        assert w.keeper.tenure.last_error is None


async def test_a_rotation_by_hand_that_fails_leaves_no_mark_on_a_credential_that_is_well() -> None:
    async with world(ttl=3600, max_ttl=86_400) as w:
        end = w.down(ISSUE)
        with pytest.raises(errors.VaultUnavailable):
            await w.keeper.rotate()
        end()
        assert (w.keeper.tenure.last_error, w.keeper.tenure.failed_since, w.keeper.tenure.retry) == (None, None, None)
        assert len(w.of(RotationFailed)) == 1


async def test_a_rotation_by_hand_that_failed_is_remembered_until_one_works() -> None:
    async with world(ttl=3600, max_ttl=86_400) as w:
        end = w.down(ISSUE)
        with pytest.raises(errors.VaultUnavailable) as caught:
            await w.keeper.rotate()
        end()
        assert re.fullmatch(
            rf"the rotation asked for at \d\d:\d\d:\d\d UTC failed: {re.escape(str(caught.value))}", w.keeper.tenure.in_vain or ""
        )
        await w.keeper.rotate()
        assert w.keeper.tenure.in_vain is None


async def test_a_renewal_that_is_given_up_tells_how_often_it_was_tried() -> None:
    async with world(ttl=600, max_ttl=86_400) as w:
        mend = w.down(RENEW)
        await asyncio.sleep(590)
        (last,) = [event for event in w.of(RenewalFailed) if event.retry_in_seconds is None]
        assert last.attempt == len(w.of(RenewalFailed)) > 1
        mend()


async def test_a_horizon_that_a_token_makes_is_told_as_that() -> None:
    async with world(ttl=600, max_ttl=6000, token_ttl=60) as w:
        mend = w.down("auth/approle/login", "auth/token/renew-self")
        await asyncio.sleep(90)
        assert w.of(CredentialExpired)[0].error == "its token ended, and no other has come"
        mend()
        await asyncio.sleep(60)


async def test_a_renewal_of_the_old_lease_that_fails_after_the_swap_says_nothing_of_the_new_one() -> None:
    async with world(ttl=60, max_ttl=86_400, build_timeout=20) as w:
        keeper, holder = w.keeper, w.keeper.holder
        assert holder is not None
        source, renewing, swapped = keeper.tenure.source, asyncio.Event(), asyncio.Event()
        renew, replace = source.renew, holder.replace

        async def renew_late(lease: Lease, *args: Any, **options: Any) -> Any:
            if lease.credential.username != "v-app-1":
                return await renew(lease, *args, **options)
            renewing.set()
            await swapped.wait()
            raise errors.LeaseLost("lease not found")

        async def replace_slowly(*args: Any, **options: Any) -> Any:
            await renewing.wait()
            await asyncio.sleep(6)
            result = await replace(*args, **options)
            swapped.set()
            await asyncio.sleep(0.5)  # the handover under load
            return result

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(source, "renew", renew_late)
            patch.setattr(holder, "replace", replace_slowly)
            await asyncio.sleep(keeper.tenure.until_renewal - 1)
            await keeper.rotate()
            await asyncio.sleep(3)
        assert await w.serves() == "v-app-2"
        assert not w.of(LeaseLost, CredentialExpired)
