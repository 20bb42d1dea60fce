"""Vault away for minutes, on virtual time: who asks it meanwhile, how often, and how soon everybody is served when it is back."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from pydantic import SecretStr

from tests.unit.memory_postgres import MemoryPostgres
from tests.unit.memory_vault import ADDRESS, DENIED, DOWN, MemoryCalls, MemoryVault, Refusal, Reply, Silence, auth
from tests.unit.test_keeper import ISSUE, RENEW, REVOKE, Leases
from vault_pg.errors import VaultSealed, VaultUnavailable
from vault_pg.events import (
    CredentialExpired,
    Event,
    LeaseLost,
    LeaseRenewed,
    RenewalFailed,
    TaskDied,
    TokenLost,
    TokenRenewalFailed,
    TokenRenewed,
    VaultReachable,
    VaultUnreachable,
)
from vault_pg.manager.keeper import Keeper
from vault_pg.manager.tenure import Tenure
from vault_pg.settings import AppRoleAuth, CustomAuth, DatabaseSettings, VaultSettings
from vault_pg.vault import VaultSession
from vault_pg.vault.circuit import WAKES, Circuit
from vault_pg.vault.outage import LONGEST, TRIAL

pytestmark = pytest.mark.looptime

LOOK, LOGIN, HEALTH = "auth/token/lookup-self", "auth/approle/login", "sys/health"
SEALED = Refusal(503, "Vault is sealed")
SOON = 5.0
"""Seconds from Vault's return to a service that is well."""


@dataclass
class World:
    vault: MemoryVault
    leases: Leases
    session: VaultSession = field(init=False)
    keepers: list[Keeper] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def emit(self, event: Event) -> None:
        self.events.append(event)
        self.news.set()

    def of(self, *kinds: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kinds)]

    @property
    def well(self) -> bool:
        return self.session.reachable and not any(keeper.tenure.last_error for keeper in self.keepers)

    @property
    def failing(self) -> int:
        return len([keeper for keeper in self.keepers if keeper.tenure.last_error])

    def asked(self, since: float) -> Counter[str]:
        return Counter(asked.path for asked in self.vault.asked if asked.at >= since)

    async def until(self, what: Callable[[], bool], seconds: float = 120) -> float:
        """Wait for it; the instant when it was."""
        async with asyncio.timeout(seconds):
            while not what():  # noqa: ASYNC110 - time is virtual, and nothing tells of it
                await asyncio.sleep(0.1)
        return self.vault.clock()

    async def asks(self, path: str) -> float:
        before = len(self.vault.times(path))
        return await self.until(lambda: len(self.vault.times(path)) > before)

    async def told(self, kind: type[Event]) -> float:
        """Wait for the first of them; the instant when it was."""
        while not self.of(kind):
            await self.news.wait()
            self.news.clear()
        return self.vault.clock()


@asynccontextmanager
async def world(
    databases: int = 1, *, ttl: float = 3600, token_ttl: int = 864_000, uses: int = 0, seed: int = 1, blind: bool = False
) -> AsyncIterator[World]:
    """`blind`: the policy lets no token look itself up."""
    loop = asyncio.get_running_loop()
    draw = random.Random(seed).random  # noqa: S311 - a seed for a test
    vault = MemoryVault(loop.time)
    vault.token_ttl = token_ttl
    if blind:
        vault.paths[LOOK] = DENIED
    if uses:
        numbers = itertools.count(1)
        vault.paths[LOGIN] = lambda _: auth(f"hvs.{next(numbers)}", token_ttl, renewable=True, uses=uses)
    w = World(vault, Leases(vault, ttl, 864_000))
    session = w.session = VaultSession(
        VaultSettings(address=ADDRESS, auth=AppRoleAuth(role_id="r", secret_id=SecretStr("s")), timeout=10),
        emit=w.emit,
        clock=loop.time,
        draw=draw,
        calls=MemoryCalls(vault),
    )
    postgres = MemoryPostgres()
    await session.open()
    for number in range(databases):
        settings = DatabaseSettings(role="app", min_size=1, max_size=2, connection_class=postgres.connection_class)
        tenure = Tenure(f"db{number}", settings, session, emit=w.emit, clock=loop.time, draw=draw, vault_timeout=10)
        w.keepers.append(Keeper(tenure, ended=_nothing))
    for keeper in w.keepers:
        await keeper.start(30.0)
    tasks = [asyncio.create_task(run()) for run in (session.run, session.watch, *(keeper.run for keeper in w.keepers))]
    try:
        yield w
        assert not [task for task in tasks if task.done()]
        assert not w.of(TaskDied)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for keeper in w.keepers:
            await keeper.stop(1.0)


async def _nothing() -> None: ...


def hang(path: str) -> Callable[[dict[str, Any]], Reply]:
    def swallow(_: dict[str, Any]) -> Reply:
        raise Silence(path)

    return swallow


async def test_after_an_outage_all_is_well_in_five_seconds_however_long_the_leases_have_left() -> None:
    for seed, seconds in itertools.product(range(3), (1, 10, 60, 600)):
        async with world(seed=seed) as w:
            w.vault.away = SEALED
            await w.told(RenewalFailed)
            outage = w.session.outage
            assert outage is not None
            assert "is sealed" in str(outage.error)
            assert not w.session.reachable
            await asyncio.sleep(seconds)
            w.vault.away = None
            returned = w.vault.clock()
            assert await w.until(lambda: w.well) - returned < SOON
            assert w.session.outage is None
            assert w.of(LeaseRenewed)
            assert not w.of(LeaseLost, CredentialExpired, TokenLost)


@pytest.mark.parametrize("databases", [1, 200])
async def test_ten_minutes_of_outage_cost_one_probe_at_a_time_however_many_databases(databases: int) -> None:
    async with world(databases) as w:
        w.vault.away = DOWN
        await w.told(VaultUnreachable)
        began = w.vault.clock()
        await asyncio.sleep(600)
        asked = w.asked(began)
        assert 600 / LONGEST <= asked[LOOK] <= 600 / (LONGEST / 2) + 10
        assert sum(asked.values()) - asked[LOOK] <= 600 / TRIAL + 1
        assert (len(w.of(VaultUnreachable)), len(w.of(VaultReachable))) == (1, 0)
        w.vault.away = None
        returned = w.vault.clock()
        assert await w.until(lambda: w.well) - returned < SOON
        [reachable] = w.of(VaultReachable)
        assert 600 <= reachable.outage_seconds < 600 + SOON
        assert not w.of(LeaseLost, CredentialExpired)


async def test_those_who_waited_are_woken_one_after_another_and_nobody_who_has_gone() -> None:
    loop = asyncio.get_running_loop()
    woken: dict[int, float] = {}
    away = VaultUnavailable("Vault is away")

    async def probe(_timeout: float) -> None:
        if loop.time() < 10:
            raise away

    def note(number: int) -> None:
        woken.setdefault(number, loop.time())

    circuit = Circuit(probe, address=ADDRESS, emit=lambda _event: None, clock=loop.time, draw=lambda: 0.5, patience=10.0)
    watching = asyncio.create_task(circuit.watch())
    circuit.failed(away)
    await asyncio.sleep(5)
    with ExitStack() as stack:
        for number in range(3 * WAKES):
            stack.enter_context(circuit.waking(partial(note, number)))
        with circuit.waking(partial(note, -1)):
            await asyncio.sleep(10 - loop.time() + LONGEST)
            assert woken
        await asyncio.sleep(10)
    watching.cancel()
    assert list(woken) == list(range(3 * WAKES))
    assert woken[0] < 10 + LONGEST
    seconds = Counter(int(at - woken[0]) for at in woken.values())
    assert max(seconds.values()) <= WAKES + 1


@pytest.mark.parametrize("undone", [True, False])
async def test_a_call_made_again_may_have_been_done_the_first_time_unless_that_is_undone(undone: bool) -> None:
    loop = asyncio.get_running_loop()
    calls: list[float] = []

    async def probe(_timeout: float) -> None:
        if loop.time() < 3:
            raise VaultUnavailable("Vault is away")

    async def call(timeout: float) -> None:
        calls.append(timeout)
        if len(calls) == 1:
            await asyncio.sleep(timeout)
        raise VaultUnavailable("Vault refuses the connection")

    circuit = Circuit(probe, address=ADDRESS, emit=lambda _event: None, clock=loop.time, draw=lambda: 0.5, patience=10.0)
    watching = asyncio.create_task(circuit.watch())
    circuit.failed(VaultUnavailable("Vault is away"))
    with pytest.raises(VaultUnavailable, match="refuses") as caught:
        await circuit.carried(call, 20.0, undone=undone)
    watching.cancel()
    assert len(calls) == 2
    assert 20.0 - SOON - 1 < calls[1] <= 20.0 - loop.time() + 0.001
    assert caught.value.in_doubt is not undone


async def test_a_hanging_vault_does_not_hold_up_the_notice_of_its_return() -> None:
    for seed in range(5):
        async with world(seed=seed) as w:
            w.vault.away = Silence()
            await w.told(VaultUnreachable)
            # Until a call of the database itself is under way, which nothing will ever come of.
            await w.asks(RENEW)
            await asyncio.sleep(1)
            w.vault.away = None
            returned = w.vault.clock()
            assert await w.until(lambda: w.well) - returned < SOON
            assert not w.of(LeaseLost, CredentialExpired)


async def test_a_vault_too_slow_for_probes_serves_all_the_same() -> None:
    async with world() as w:
        w.vault.away = DOWN
        await w.told(VaultUnreachable)
        w.vault.away = None
        w.vault.latency = 8.0
        assert await w.until(lambda: bool(w.of(LeaseRenewed)), 60)
        assert w.session.reachable


async def test_probes_that_are_refused_for_a_reason_of_their_own_stop_no_calls_for_long() -> None:
    async with world(10) as w:
        w.vault.away = DOWN
        await w.told(VaultUnreachable)
        w.vault.away = None
        w.vault.paths[LOOK] = DOWN
        await w.until(lambda: not w.failing, 60)
        await asyncio.sleep(7200)
        assert not w.failing
        assert not w.of(LeaseLost, CredentialExpired)


async def test_one_database_that_hangs_behind_vault_holds_nobody_else_up() -> None:
    async with world(5) as w:
        renew = w.leases.renew
        w.vault.paths[RENEW] = lambda body: hang(RENEW)(body) if body["lease_id"] == f"{ISSUE}/1" else renew(body)
        failed = await w.told(RenewalFailed)
        await asyncio.sleep(1)
        assert w.session.reachable
        await asyncio.sleep(599)
        assert [keeper.name for keeper in w.keepers if keeper.tenure.last_error] == ["db0"]
        hanging = [asked for asked in w.vault.asked if asked.path == RENEW and asked.body["lease_id"] == f"{ISSUE}/1"]
        assert 600 / 40 <= len(hanging) <= 600 / 12 + 8  # its own backoff, of up to 30 s after 10 s each
        assert w.asked(failed)[LOOK] <= 2 * len(hanging)
        assert not w.of(VaultUnreachable)
        assert {event.database for event in w.of(RenewalFailed)} == {"db0"}
        w.vault.paths[RENEW] = renew
        await w.until(lambda: w.well, 60)


@pytest.mark.parametrize("databases", [1, 2, 30])
async def test_every_second_request_refused_costs_little_and_is_over_at_once(databases: int) -> None:
    for seed in range(5):
        async with world(databases, seed=seed) as w:
            w.vault.away, w.vault.every = DOWN, 2
            began = await w.told(RenewalFailed)
            await asyncio.sleep(300)
            assert sum(w.asked(began).values()) < 300 * 2 + 20 * databases
            assert len(w.of(VaultUnreachable)) < 300 / (LONGEST / 2)
            w.vault.away = None
            returned = w.vault.clock()
            assert await w.until(lambda: w.well) - returned < SOON
            assert not w.of(LeaseLost, CredentialExpired)


@pytest.mark.parametrize(("wish", "least"), [("8", 8.0), ("7200", 30.0)])
async def test_vaults_own_wish_to_be_left_alone_is_honoured_within_a_bound(wish: str, least: float) -> None:
    async with world(20) as w:
        w.vault.away = Refusal(429, "rate limit quota exceeded", retry_after=wish)
        await w.told(VaultUnreachable)
        began = w.vault.clock()
        await asyncio.sleep(600)
        probes = [at for at in w.vault.times(LOOK) if at >= began]
        assert all(after - before >= least for before, after in itertools.pairwise(probes))
        assert len(probes) >= 600 / (1.1 * least) - 1
        w.vault.away = None
        returned = w.vault.clock()
        assert await w.until(lambda: w.well) - returned < 1.1 * least + SOON


async def test_a_lease_of_seconds_does_not_wait_for_the_probes_of_others() -> None:
    for seed in range(10):
        async with world(3, ttl=4, seed=seed) as w:
            for _ in range(10):
                await asyncio.sleep(3 + seed / 10)
                w.vault.away = Refusal(429, "quota", retry_after="20")
                await asyncio.sleep(0.8)
                w.vault.away = None
            assert not w.of(LeaseLost, CredentialExpired)
            assert w.of(RenewalFailed)


async def test_a_token_of_few_uses_is_not_spent_on_probes() -> None:
    async with world(uses=200) as w:
        w.vault.away = SEALED
        await w.told(VaultUnreachable)
        began = w.vault.clock()
        await asyncio.sleep(600)
        asked = w.asked(began)
        assert asked[HEALTH] >= 600 / LONGEST
        assert asked[LOOK] == 0
        assert {asked.token for asked in w.vault.asked if asked.path == HEALTH} == {""}
        w.vault.away = None
        returned = w.vault.clock()
        assert await w.until(lambda: w.well) - returned < SOON
        assert w.vault.times(LOGIN) == [0.0]


async def test_a_health_that_a_load_balancer_answers_by_itself_makes_no_storm_of_calls() -> None:
    async with world(60, ttl=20, uses=100_000) as w:
        await asyncio.sleep(1)
        mended = dict(w.vault.paths)
        w.vault.paths.update({path: DOWN for path in mended if path != HEALTH})
        await w.until(lambda: bool(w.of(VaultUnreachable)), 300)
        await asyncio.sleep(25)
        assert len(w.of(CredentialExpired)) == 60
        began = w.vault.clock()
        await asyncio.sleep(40)
        asked = w.asked(began)
        assert asked[HEALTH] <= 40 / (LONGEST / 2) + 1
        assert 1 <= sum(asked.values()) - asked[HEALTH] <= 40 / TRIAL + 1
        assert not w.session.reachable
        w.vault.paths.update(mended)
        returned = w.vault.clock()
        assert await w.until(lambda: w.session.reachable) - returned < SOON
        assert await w.until(lambda: w.well) - returned < 2 * SOON


async def test_a_dead_token_is_no_outage_and_is_replaced_when_vault_is_back() -> None:
    async with world() as w:
        w.vault.away = SEALED
        await w.told(VaultUnreachable)
        w.vault.dead.add("hvs.1")
        w.leases.ends.clear()
        await asyncio.sleep(60)
        assert not w.of(TokenLost)
        w.vault.away = None
        returned = w.vault.clock()
        assert await w.until(lambda: w.well and w.session.token.serial == 2) - returned < SOON
        assert len(w.of(TokenLost)) == 1


async def test_without_a_token_health_is_asked_and_the_login_made_once_it_is_good() -> None:
    async with world(token_ttl=600) as w:
        w.vault.away = SEALED
        await w.told(TokenLost)
        began = w.vault.clock()
        await asyncio.sleep(120)
        asked = w.asked(began)
        assert asked[HEALTH] >= 120 / LONGEST
        assert asked[LOGIN] <= 120 / TRIAL + 1
        w.vault.away = None
        returned = w.vault.clock()
        assert await w.until(lambda: w.well) - returned < SOON


async def test_a_probe_that_is_refused_tells_of_a_dead_token_before_anything_is_asked_with_it() -> None:
    async with world(3) as w:
        w.vault.away = SEALED
        await w.told(VaultUnreachable)
        w.vault.dead.add("hvs.1")
        w.leases.ends.clear()
        await asyncio.sleep(10)
        w.vault.away = None
        returned = w.vault.clock()
        await w.told(TokenLost)
        [probe] = [asked.path for asked in w.vault.asked if asked.at >= returned and asked.token == "hvs.1"]
        assert probe == LOOK
        assert await w.until(lambda: w.well and w.session.token.serial == 2) - returned < SOON


async def test_a_token_without_the_right_to_look_at_itself_is_neither_dead_nor_an_outage() -> None:
    async with world(blind=True) as w:
        w.vault.away = DOWN
        await w.told(VaultUnreachable)
        await asyncio.sleep(60)
        w.vault.away = None
        returned = w.vault.clock()
        assert await w.until(lambda: w.well) - returned < SOON
        assert not w.of(TokenLost, LeaseLost)


async def test_whoever_asks_during_an_outage_is_told_the_reason_at_once() -> None:
    async with world() as w:
        w.vault.away = SEALED
        await w.told(VaultUnreachable)
        before, asked = w.vault.clock(), len(w.vault.asked)
        with pytest.raises(VaultSealed, match="is sealed") as caught:
            await w.session.issue("database", "app", timeout=10)
        assert w.vault.clock() == before
        assert len(w.vault.asked) == asked
        with pytest.raises(VaultSealed) as again:
            await w.session.issue("database", "app", timeout=10)
        assert caught.value is not again.value
        w.vault.away = None


async def test_a_token_is_renewed_as_soon_as_vault_is_back_too() -> None:
    for seed in range(3):
        async with world(ttl=360_000, token_ttl=36_000, seed=seed) as w:
            w.vault.away = SEALED
            await w.told(TokenRenewalFailed)
            await asyncio.sleep(300)
            w.vault.away = None
            returned = w.vault.clock()
            assert await w.until(lambda: bool(w.of(TokenRenewed))) - returned < SOON


async def test_a_rotation_by_hand_tells_of_an_outage_and_nothing_of_it_is_left_afterwards() -> None:
    async with world() as w:
        [keeper] = w.keepers
        w.vault.away = SEALED
        with pytest.raises(VaultSealed):
            await keeper.rotate()
        assert not w.well
        await asyncio.sleep(60)
        assert not w.well
        w.vault.away = None
        returned = w.vault.clock()
        assert await w.until(lambda: w.well) - returned < SOON


async def test_leases_are_revoked_on_leaving_though_vault_was_away_until_then() -> None:
    async with world() as w:
        w.vault.away = SEALED
        await w.told(VaultUnreachable)
        w.vault.away = None
    for keeper in w.keepers:
        for lease in keeper.ledger.live:
            await keeper.ledger.revoke(lease)
    assert w.vault.times(REVOKE)
    assert not w.leases.alive


async def test_while_all_is_well_nothing_is_probed() -> None:
    async with world(3) as w:
        await asyncio.sleep(36_000)
        assert w.asked(1.0)[LOOK] == 0
        assert w.asked(0.0)[HEALTH] == 0


async def test_a_failure_of_vault_raised_before_anybody_watches_refuses_nobody() -> None:
    async with world() as w:
        session = VaultSession(
            VaultSettings(address=ADDRESS, auth=AppRoleAuth(role_id="r", secret_id=SecretStr("s"))),
            emit=w.events.append,
            clock=w.vault.clock,
            calls=MemoryCalls(w.vault),
        )
        w.vault.away = SEALED
        for _ in range(3):
            with pytest.raises(VaultUnavailable):
                await session.open()
        assert len(w.vault.times(LOGIN)) == 4
        w.vault.away = None
        await session.open()
        assert session.reachable
        assert not w.of(VaultUnreachable)


async def test_a_hanging_vault_does_not_hold_up_the_login_after_its_return() -> None:
    """A login that it has swallowed is made again, as any other call."""
    async with world() as w:
        w.vault.away = Silence()
        w.session.lose_token(1, "somebody has revoked it")
        await w.told(VaultUnreachable)
        await w.asks(LOGIN)
        await asyncio.sleep(0.5)
        w.vault.away, back = None, w.vault.clock()
        assert await w.until(lambda: w.vault.logins == 2) - back < SOON
        assert await w.until(lambda: w.well) - back < SOON


async def test_a_login_whose_token_is_made_before_is_not_made_again_since_what_is_undone_of_the_first_would_end_it() -> None:
    vault = MemoryVault(asyncio.get_running_loop().time)
    events: list[Event] = []

    async def login() -> dict[str, Any]:
        answer: Any = vault.log_in()
        del answer["auth"]["num_uses"]  # older servers do not say, so the token is looked at
        return {"auth": answer["auth"]}

    session = VaultSession(
        VaultSettings(address=ADDRESS, auth=CustomAuth(login=login), timeout=10),
        emit=events.append,
        clock=vault.clock,
        draw=random.Random(1).random,  # noqa: S311 - a seed for a test
        calls=MemoryCalls(vault),
    )
    await session.open()
    watching = asyncio.create_task(session.watch())
    vault.away = Silence()
    with pytest.raises(VaultUnavailable):
        await session.check_token(timeout=0.5)
    await asyncio.sleep(0.1)
    vault.away, vault.latency = None, 5.0  # answers are on their way for longer than a probe waits
    logging_in = asyncio.create_task(session.log_in())
    await asyncio.sleep(4)
    assert [event for event in events if isinstance(event, VaultUnreachable)]
    vault.latency = 0.0
    await logging_in
    watching.cancel()
    assert [event for event in events if isinstance(event, VaultReachable)]
    assert session.token.secret.get_secret_value() not in {
        asked.token for asked in vault.asked if asked.path == "auth/token/revoke-self"
    }
