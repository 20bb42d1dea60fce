"""Vault fails in every way while a service works: its clients notice nothing, its operators are told why.

In the short form leases and outages are short and the promise about the return is checked as an order of things only; in the long form
(`make soak`) leases last 60 s, outages 30 s, and the promise is kept to the letter.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import pytest
import requests
from psycopg.errors import InsufficientPrivilege

from tests.chaos.service import Service, settings_of, under_load
from tests.servers import DatabaseView, Mount, mounted
from tests.waiting import eventually
from vault_pg.dev import DevVault, EmbeddedPostgres, Faults, RoleSpec
from vault_pg.events import VaultReachable, VaultUnreachable


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


SHORT = Scale(ttl=20, outage=3.0, lead=1.5, slow=4.0, vault_timeout=3.0, back_within=50.0, draw=lambda: 0.05)
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


HOUR = 3600

AWAY = {name: OUTAGES[name] for name in ("stopped", "sealed", "429")} | {
    "hanging": Outage(lambda faults, _: faults.hold(), "did not answer")
}
"""Those that every request meets."""


async def doubt(service: Service) -> None:
    """A client's mistake: what it may not read might as well be the sign of a dead credential, so Vault is asked for the lease."""
    with pytest.raises(InsufficientPrivilege):
        async with service.manager.get_pool().connection() as conn:
            await conn.execute("select rolpassword from pg_authid")


async def unnoticed_by_leases(stage: Stage, kind: Outage, scale: Scale) -> None:
    """No lease is due for a quarter of an hour at least, and still the status tells of the outage, and of its end."""
    loop = asyncio.get_running_loop()
    async with under_load(settings_of(stage.mount, vault_timeout=scale.vault_timeout)) as service:
        trouble = await asyncio.to_thread(kind.begin, stage.vault.faults, scale)
        await doubt(service)
        await eventually(lambda: service.of(VaultUnreachable), "Vault is known to be away")
        await asyncio.sleep(scale.outage)
        status = service.manager.status()
        assert status.health == "degraded"
        assert status.vault is not None
        assert status.vault.unreachable_since is not None
        assert re.search(kind.why, status.vault.last_error or "")
        await asyncio.to_thread(trouble.end)
        returned = loop.time()
        assert await service.is_healthy() - returned <= scale.back_within
        vault = service.manager.status().vault
        assert vault is not None
        assert (vault.reachable, vault.unreachable_since, vault.last_error) == (True, None, None)
        assert [type(event) for event in service.of(VaultUnreachable, VaultReachable)] == [VaultUnreachable, VaultReachable]
        assert not service.lost
    assert service.failures == []
    assert stage.mount.leases() == []


Act: TypeAlias = Callable[[Stage, Outage, Scale], Coroutine[None, None, None]]


async def all_of(act: Act, outages: Mapping[str, Outage], make_stage: Callable[[int], Stage], scale: Scale, ttl: int) -> None:
    stages = {name: make_stage(ttl) for name in outages}
    async with asyncio.TaskGroup() as group:
        for name, stage in stages.items():
            group.create_task(act(stage, outages[name], scale), name=name)


async def test_no_query_and_no_credential_is_lost_to_an_outage_of_vault(
    make_stage: Callable[[int], Stage], database: DatabaseView
) -> None:
    await all_of(outage, OUTAGES, make_stage, SHORT, SHORT.ttl)
    await eventually(lambda: database.sessions() == 0, "PostgreSQL has ended the sessions")
    assert database.roles() == set()


@pytest.mark.slow
async def test_an_outage_of_half_a_ttl_is_over_five_seconds_after_vaults_return(
    make_stage: Callable[[int], Stage], database: DatabaseView
) -> None:
    await all_of(outage, OUTAGES, make_stage, LETTER, LETTER.ttl)
    await eventually(lambda: database.sessions() == 0, "PostgreSQL has ended the sessions")
    assert database.roles() == set()


@pytest.mark.parametrize(
    "scale", [pytest.param(SHORT, id="short"), pytest.param(LETTER, id="to the letter", marks=pytest.mark.slow)]
)
async def test_with_leases_of_an_hour_the_status_tells_of_an_outage_and_of_its_end(
    make_stage: Callable[[int], Stage], database: DatabaseView, scale: Scale
) -> None:
    await all_of(unnoticed_by_leases, AWAY, make_stage, scale, HOUR)
    await eventually(lambda: database.sessions() == 0, "PostgreSQL has ended the sessions")
    assert database.roles() == set()
