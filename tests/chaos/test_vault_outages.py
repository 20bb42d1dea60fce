"""Vault fails in every way while a service works: its clients notice nothing, its operators are told why.

In the short form leases and outages are short and the promise about the return is checked as an order of things only; in the long form
(`make soak`) leases last 60 s, outages 30 s, and the promise is kept to the letter.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

import pytest
import requests

from tests.chaos.service import Service, settings_of, under_load
from tests.servers import DatabaseView, Mount, mounted
from tests.waiting import eventually
from vault_pg.dev import DevVault, EmbeddedPostgres, Faults, RoleSpec


class Ends(Protocol):
    def end(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Scale:
    ttl: int
    outage: float
    lead: float
    """From the beginning of an outage to the renewal that meets it, at most."""
    slow: float
    """What a slow Vault takes for each request; a little more than the time-out, so that it is too slow."""
    vault_timeout: float
    back_within: float
    """Seconds from Vault's return to a status that says healthy."""
    draw: Callable[[], float]


SHORT = Scale(ttl=20, outage=3.0, lead=1.5, slow=1.5, vault_timeout=1.0, back_within=50.0, draw=lambda: 0.05)
"""With that luck a renewal comes after little more than a quarter of the TTL, and the outage is over with half of it left."""

LETTER = Scale(ttl=60, outage=30.0, lead=18.0, slow=10.0, vault_timeout=9.0, back_within=5.0, draw=random.random)


@dataclass(frozen=True, slots=True)
class Outage:
    begin: Callable[[Faults, Scale], Ends]
    why: str
    """What the status says of it."""


def every_second(faults: Faults, _scale: Scale) -> Ends:
    return faults.unavailable(503, every=2)


OUTAGES = {
    "stopped": Outage(lambda faults, _: faults.stop(), "refuses the connection|broke off"),
    "sealed": Outage(lambda faults, _: faults.seal(), "is sealed"),
    "every second request 503": Outage(every_second, "status 503"),
    "slow": Outage(lambda faults, scale: faults.slow(scale.slow), "did not answer"),
    "429": Outage(lambda faults, _: faults.unavailable(429, retry_after=1), "takes no more requests"),
    "cut in mid-answer": Outage(lambda faults, _: faults.cut(), "broke off"),
}


@dataclass(frozen=True)
class Stage:
    """A Vault of its own for each outage."""

    vault: DevVault
    mount: Mount


@pytest.fixture
def make_stage(new_vault: Callable[..., DevVault], postgres: EmbeddedPostgres) -> Iterator[Callable[[int], Stage]]:
    with ExitStack() as stack:

        def make(ttl: int) -> Stage:
            vault = new_vault()
            mount = stack.enter_context(mounted(vault, postgres, {"app": RoleSpec(default_ttl=ttl, max_ttl=3600)}))
            stack.callback(vault.faults.clear)
            return Stage(vault, mount)

        yield make


async def renewal_comes(service: Service, scale: Scale) -> None:
    """Wait until an outage that begins now meets a renewal, and would be over well before the lease."""

    def now() -> bool:
        return (
            service.next.action == "renew"
            and 0 < service.next.in_seconds < scale.lead
            and service.lease_left > scale.outage + scale.ttl / 12
        )

    await eventually(now, "a renewal is due soon", timeout=3.0 * scale.ttl)


def told(service: Service, kind: Outage) -> bool:
    """Whether `status` has said degraded, and why."""
    return any(seen.health == "degraded" and re.search(kind.why, seen.why or "") for seen in service.seen)


async def outage(stage: Stage, kind: Outage, scale: Scale) -> None:
    faults, loop = stage.vault.faults, asyncio.get_running_loop()
    async with under_load(settings_of(stage.mount, vault_timeout=scale.vault_timeout), draw=scale.draw) as service:
        await renewal_comes(service, scale)
        trouble = await asyncio.to_thread(kind.begin, faults, scale)
        if kind.begin is every_second:
            # Somebody else's request is the first, so that the renewal is the second.
            await asyncio.to_thread(requests.get, f"{stage.vault.address}/v1/sys/health", timeout=30)
        await asyncio.sleep(scale.outage)
        await eventually(lambda: told(service, kind), "the status says why")
        await asyncio.to_thread(trouble.end)
        returned = loop.time()
        assert await service.is_healthy() - returned <= scale.back_within
        assert not service.lost
        await service.is_served_again(loop.time())
    assert service.failures == []
    assert stage.mount.leases() == []


async def all_outages(make_stage: Callable[[int], Stage], scale: Scale) -> None:
    stages = {name: make_stage(scale.ttl) for name in OUTAGES}
    async with asyncio.TaskGroup() as group:
        for name, stage in stages.items():
            group.create_task(outage(stage, OUTAGES[name], scale), name=name)


async def test_no_query_and_no_credential_is_lost_to_an_outage_of_vault(
    make_stage: Callable[[int], Stage], database: DatabaseView
) -> None:
    await all_outages(make_stage, SHORT)
    assert (database.roles(), database.sessions()) == (set(), 0)


@pytest.mark.slow
async def test_an_outage_of_half_a_ttl_is_over_five_seconds_after_vaults_return(
    make_stage: Callable[[int], Stage], database: DatabaseView
) -> None:
    await all_outages(make_stage, LETTER)
    assert (database.roles(), database.sessions()) == (set(), 0)
