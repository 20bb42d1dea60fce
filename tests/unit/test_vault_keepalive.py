"""The token's life on virtual time: `now()` is the loop's clock, an hour passes in an instant."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from pydantic import SecretStr

from tests.unit.memory_vault import ADDRESS, DENIED, DOWN, MemoryCalls, MemoryVault, Refusal, auth
from vault_pg.errors import TokenInvalid
from vault_pg.events import Event, TokenEvent, TokenIssued, TokenLost, TokenRenewalFailed, TokenRenewed
from vault_pg.schedule import BACKOFF_PRESSED
from vault_pg.settings import AppRoleAuth, TokenAuth, VaultSettings
from vault_pg.vault.session import VaultSession

pytestmark = pytest.mark.looptime

RENEW = "auth/token/renew-self"
LOGIN = "auth/approle/login"
LOOK = "auth/token/lookup-self"
APPROLE = AppRoleAuth(role_id="role", secret_id=SecretStr("secret"))
TOKEN = TokenAuth(token=SecretStr("hvs.1"))


def now() -> float:
    return asyncio.get_running_loop().time()


class World:
    """A session whose loop runs, the Vault it talks to, and the events it told."""

    def __init__(
        self, auth_settings: AppRoleAuth | TokenAuth, *, draw: float | Callable[[], float], clock: Callable[[], float] = now
    ) -> None:
        self.vault = MemoryVault(now)
        self.events: list[Event] = []
        self.session = VaultSession(
            VaultSettings(address=ADDRESS, auth=auth_settings),
            emit=self.events.append,
            clock=clock,
            draw=draw if callable(draw) else lambda: draw,
            calls=MemoryCalls(self.vault),
        )

    def told(self, kind: type[TokenEvent]) -> list[TokenEvent]:
        return [event for event in self.events if isinstance(event, kind)]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self.session.open()
        task = asyncio.create_task(self.session.run())
        try:
            yield
            assert not task.done()
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def until(instant: float) -> None:
    await asyncio.sleep(instant - now())


async def test_a_token_is_renewed_at_the_drawn_point_of_each_grant() -> None:
    world = World(APPROLE, draw=0.5)
    async with world.running():
        await until(60)
    assert world.vault.times(RENEW) == pytest.approx([10.0, 21.7, 33.4, 45.1, 56.8])  # a wider window for the first
    assert all(asked.body == {"increment": 20} for asked in world.vault.asked if asked.path == RENEW)
    assert [type(event) for event in world.events] == [TokenIssued] + [TokenRenewed] * 5
    assert world.vault.logins == 1


async def test_a_capped_token_is_replaced_early_and_the_old_one_stays_known() -> None:
    world = World(APPROLE, draw=0.5)
    world.vault.paths[RENEW] = lambda _: auth("", 6, renewable=True)
    async with world.running():
        await until(10.1)
        assert world.session.token.capped
        await until(14)
        assert world.vault.times(LOGIN) == pytest.approx([0.0, 10.3])  # a tenth of the six seconds, half of it by the draw
        assert world.session.token.serial == 2
        assert world.session.token_of(1).end == 16.0
    assert world.vault.times(RENEW) == [10.0]


async def test_a_token_that_cannot_be_renewed_is_replaced_while_its_leases_can_still_move() -> None:
    world = World(APPROLE, draw=0.999)
    world.vault.renewable = False
    async with world.running():
        await until(100)
    assert world.vault.times(RENEW) == []
    logins = world.vault.times(LOGIN)
    assert len(logins) > 5
    assert all(0 < later - earlier <= 12 for earlier, later in itertools.pairwise(logins))
    assert world.told(TokenLost) == []


async def test_a_token_too_short_for_leases_to_move_in_peace_is_replaced_a_few_times_in_its_life_and_no_more() -> None:
    draw = random.Random(1).random  # noqa: S311 - a seed for a test
    world = World(APPROLE, draw=draw)
    world.vault.token_ttl, world.vault.renewable = 60, False
    async with world.running():
        await until(600)
    assert 10 < world.vault.logins < 60  # every fifteen seconds: not every three, which a tenth of its life would be
    assert world.told(TokenLost) == []


async def test_a_given_token_that_ends_is_told_once_and_vault_is_left_alone() -> None:
    world = World(TOKEN, draw=0.5)
    world.vault.renewable = False
    async with world.running():
        await until(19)
        world.vault.dead.add("hvs.1")
        await until(3600)
        assert world.session.token.end <= 20
    assert len(world.told(TokenLost)) == 1
    assert len(world.vault.asked) == 2


async def test_a_given_token_that_somebody_else_renewed_lives_on() -> None:
    world = World(TOKEN, draw=0.5)
    world.vault.renewable = False
    async with world.running():
        await until(21)
        assert world.session.token.end == pytest.approx(40)
    assert world.told(TokenLost) == []


async def test_a_token_in_its_last_second_is_not_asked_about_in_a_hot_loop() -> None:
    world = World(TOKEN, draw=0.5)
    world.vault.renewable = False
    async with world.running():
        world.vault.token_left = 0
        await until(30)
    assert 3 < len(world.vault.times(LOOK)) < 15


async def test_a_root_token_needs_nothing_for_a_day() -> None:
    world = World(TOKEN, draw=0.5)
    world.vault.paths[LOOK] = {"data": {"ttl": 0, "creation_ttl": 0, "expire_time": None, "renewable": False}}
    async with world.running():
        assert world.session.token.ttl is None
        await until(86400)
    assert len(world.vault.asked) == 1


async def test_an_outage_is_bridged_by_retries_that_grow_apart() -> None:
    world = World(APPROLE, draw=0.5)
    world.vault.token_ttl = 3600
    renews = world.vault.paths[RENEW]
    world.vault.paths[RENEW] = DOWN
    async with world.running():
        await until(2900)
        world.vault.paths[RENEW] = renews
        await until(3000)
        assert world.session.token.end > 6000
    failures = [event for event in world.told(TokenRenewalFailed) if isinstance(event, TokenRenewalFailed)]
    waits = [event.retry_in_seconds or 0.0 for event in failures]
    assert waits == sorted(waits)
    assert waits[0] < 1
    assert max(waits) <= 30
    assert len(waits) < 100
    assert world.told(TokenLost) == []
    assert world.vault.logins == 1


async def test_vaults_own_wish_to_wait_is_honoured() -> None:
    world = World(APPROLE, draw=0.5)
    world.vault.token_ttl = 3600
    world.vault.paths[RENEW] = Refusal(429, retry_after="120")
    async with world.running():
        await until(2500)
    times = world.vault.times(RENEW)
    assert len(times) > 2
    assert all(later - earlier >= 120 for earlier, later in itertools.pairwise(times))


async def test_a_dead_token_is_replaced_at_once() -> None:
    world = World(APPROLE, draw=0.5)
    woken: list[tuple[int, float]] = []
    world.session.add_token_listener(lambda: woken.append((world.session.token.serial, world.session.token.end)))
    async with world.running():
        await until(1)
        world.vault.dead.add("hvs.1")
        await until(10.1)
        assert world.session.token.serial == 2
        assert world.session.token_of(1).end == 10.0
    assert [type(event) for event in world.events] == [TokenIssued, TokenLost, TokenIssued]
    assert woken == [(1, 20.0), (1, 10.0), (2, 30.0)]


async def test_a_call_that_finds_the_token_dead_makes_the_loop_log_in_at_once() -> None:
    world = World(APPROLE, draw=0.5)
    world.vault.token_ttl = 3600
    world.vault.paths["database/creds/app"] = DENIED
    async with world.running():
        await until(100)
        world.vault.dead.add("hvs.1")
        with pytest.raises(TokenInvalid):
            await world.session.issue("database", "app", timeout=1)
        await until(100.5)
        assert world.session.token.serial == 2
    assert len(world.told(TokenLost)) == 1


async def test_without_the_right_to_renew_itself_a_token_is_replaced_before_its_end() -> None:
    world = World(APPROLE, draw=0.5)
    world.vault.paths[RENEW] = DENIED
    async with world.running():
        await until(13)
        assert world.session.token.serial == 2
    assert world.told(TokenLost) == []
    (failure,) = world.told(TokenRenewalFailed)
    assert isinstance(failure, TokenRenewalFailed)
    assert failure.retry_in_seconds is None
    assert 'path "auth/token/renew-self"' in failure.error


@pytest.mark.parametrize("answer", [Refusal(500, "failed to renew entry: policies have changed, not renewing"), {}])
async def test_a_token_whose_user_has_changed_is_replaced_before_its_end(answer: Any) -> None:
    """Vault says so by an error of its own, or, where the user is gone, by 204."""
    world = World(APPROLE, draw=0.5)
    world.vault.paths[RENEW] = answer
    async with world.running():
        await until(19)
        assert world.session.token.serial == 2
    assert world.told(TokenLost) == []
    assert len(world.told(TokenRenewalFailed)) == 1


async def test_tokens_that_die_right_away_do_not_make_a_hot_loop_of_logins() -> None:
    world = World(APPROLE, draw=0.5)
    async with world.running():
        for _ in range(1000):
            world.vault.dead.add(f"hvs.{world.vault.logins}")
            await world.session.check_token(timeout=1)
            await asyncio.sleep(0.1)
    assert world.vault.logins < 30


async def test_a_login_that_fails_is_tried_again_with_backoff_and_never_raised() -> None:
    world = World(APPROLE, draw=0.5)
    async with world.running():
        login = world.vault.paths[LOGIN]
        world.vault.paths[LOGIN] = Refusal(400, "invalid secret id")
        world.vault.dead.add("hvs.1")
        await until(1000)
        tries = world.vault.times(LOGIN)[1:]
        assert 20 < len(tries) < 1000 / (0.4 * BACKOFF_PRESSED)
        assert tries[:3] == [10.0, 10.25, 10.75]
        world.vault.paths[LOGIN] = login
        await until(1100)
        assert world.session.token.serial == 2


async def test_after_a_suspend_the_lease_clock_counts_and_not_the_loops() -> None:
    slept = 0.0
    world = World(APPROLE, draw=0.5, clock=lambda: now() + slept)
    world.vault.token_ttl = 3600
    async with world.running():
        await until(100)
        slept = 2500.0
        await until(111)
        assert len(world.vault.times(RENEW)) == 1


async def test_a_login_that_is_refused_is_known_before_the_token_ends() -> None:
    world = World(APPROLE, draw=0.5)
    world.vault.renewable = False
    async with world.running():
        await until(1)
        login, world.vault.paths[LOGIN] = world.vault.paths[LOGIN], DENIED
        await until(19)
        assert now() < world.session.token.end
        assert "login failed" in str(world.session.token_failure)
        world.vault.paths[LOGIN] = login
        await until(60)
        assert world.session.token_failure is None
