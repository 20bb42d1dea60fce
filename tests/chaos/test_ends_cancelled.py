"""A whole life on real servers, cancelled at any moment: no lease, token, role, session, task or thread of it is left.

In short at a score of moments spread over the life, in `make soak` at hundreds; every one of them, on virtual time, is in
tests/unit/test_ends_cancelled.py.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass

import pytest

import vault_pg
from tests.chaos.service import QUERY, settings_of
from tests.moments import Moments, moments
from tests.servers import DatabaseView, Mount, mounted
from tests.waiting import eventually
from vault_pg import LeaseManager, Settings
from vault_pg.dev import DevVault, EmbeddedPostgres, RoleSpec
from vault_pg.events import Event, LeaseRenewed

TTL = 3
"""Seconds, in the long form: with the luck of `draw` the first renewal comes after a quarter of it."""


@dataclass(frozen=True, slots=True)
class World:
    mount: Mount
    database: DatabaseView
    settings: Settings
    renewals: int

    async def nothing_is_left(self, what: object) -> None:
        assert self.mount.leases() == [], what
        assert self.database.roles() == set(), what
        assert len(self.mount.root.auth.token.list_accessors()["data"]["keys"]) == 1, f"only the root token lives: {what}"
        await eventually(lambda: self.database.sessions() == 0, f"PostgreSQL has noticed: {what}")
        await eventually(lambda: not threads(), f"threads end: {what}")
        assert asyncio.all_tasks() == {asyncio.current_task()}, what


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("vault_pg")]


async def life(world: World) -> None:
    events: list[Event] = []
    manager = LeaseManager(world.settings, draw=lambda: 0.0, shared=False)
    manager.add_listener(events.append)
    async with manager:
        async with manager.get_pool().connection() as conn:
            await conn.execute(QUERY)
        await eventually(lambda: len([e for e in events if isinstance(e, LeaseRenewed)]) >= world.renewals, "renewed")
        await manager.rotate()
        async with manager.get_pool().connection() as conn:
            await conn.execute(QUERY)


async def script(world: World) -> None:
    async with vault_pg.connect(world.settings) as conn:
        await conn.execute(QUERY)


Victim = Callable[[World], Coroutine[object, object, None]]


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Moments]:
    with moments(monkeypatch.setattr) as counted:
        yield counted


async def strike_everywhere(world: World, victim: Victim, at: Moments, lives: int) -> None:
    """Strikes at moments spread evenly over as many callbacks as a whole life has, every other time a second time."""
    draw = random.Random(lives)  # noqa: S311 - the same moments in every run
    whole = await at.count(victim(world))
    await world.nothing_is_left("a whole life")
    struck = 0
    for number in range(lives):
        after = [1 + whole * number // lives, *[draw.randint(1, 60)] * (number % 2)]
        struck += await at.cancel(victim(world), *after)
        await world.nothing_is_left((after, whole))
    assert struck > lives / 2


@pytest.fixture
def make_world(
    new_vault: Callable[..., DevVault], postgres: EmbeddedPostgres, database: DatabaseView
) -> Iterator[Callable[[RoleSpec, int], World]]:
    vault = new_vault()
    with mounted(vault, postgres, {"app": RoleSpec()}) as mount:

        def make(role: RoleSpec, renewals: int) -> World:
            mount.provision({"app": role})
            return World(mount, database, settings_of(mount), renewals)

        yield make


@pytest.mark.parametrize(("victim", "lives"), [(life, 14), (script, 8)])
async def test_cancelled_at_any_moment_it_leaves_nothing(
    make_world: Callable[[RoleSpec, int], World], at: Moments, victim: Victim, lives: int
) -> None:
    await strike_everywhere(make_world(RoleSpec(), 0), victim, at, lives)


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "lives"), [(life, 250), (script, 80)])
async def test_cancelled_at_hundreds_of_moments_it_leaves_nothing(
    make_world: Callable[[RoleSpec, int], World], at: Moments, victim: Victim, lives: int
) -> None:
    await strike_everywhere(make_world(RoleSpec(default_ttl=TTL, max_ttl=3600), 1), victim, at, lives)
