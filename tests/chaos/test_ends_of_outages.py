"""Outages at the worst moment: Vault or PostgreSQL fails in the middle of a rotation, and once it is back nothing of that is left.

Each life is struck once, at one moment of a rotation that somebody asked for. In short some pairs of moment and fault, in `make soak`
all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
from psycopg import AsyncConnection

from tests.chaos.service import QUERY, Service, settings_of, under_load
from tests.servers import DatabaseView, Mount, mounted
from tests.waiting import eventually
from vault_pg import VaultPgError
from vault_pg.dev import DevVault, EmbeddedPostgres, Faults, RoleSpec
from vault_pg.events import Event

OUTAGE = 0.5
"""Seconds; nothing is asserted of what happens in them."""

VAULT_TIMEOUT = 3.0


@dataclass
class Parking:
    """Where a new connection waits while it is being proven."""

    full: bool = False
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def probe(self, _: AsyncConnection) -> None:
        if self.full:
            self.arrived.set()
            await self.go_on.wait()


@dataclass
class Life:
    vault: DevVault
    postgres: EmbeddedPostgres
    mount: Mount
    parking: Parking
    service: Service
    rotation: asyncio.Task[None] | None = None

    @property
    def faults(self) -> Faults:
        return self.vault.faults

    def rotate(self) -> None:
        async def rotate() -> None:
            with suppress(VaultPgError):  # whoever asked is told; what becomes of it is seen at the servers
                await self.service.manager.rotate()

        self.rotation = asyncio.create_task(rotate(), name="rotate")

    def told(self, name: str) -> bool:
        return any(event.name == name for event in self.service.events)


Strike = Callable[[Life], object]
Moment = Callable[[Life, Strike], Awaitable[None]]


# -- moments: each comes, is struck, and goes on


async def issue(life: Life, strike: Strike) -> None:
    with life.faults.hold(f"{life.mount.path}/creds/app") as held:
        life.rotate()
        await eventually(lambda: held.hits, "the lease is asked for")
        strike(life)


async def issued(life: Life, strike: Strike) -> None:
    """Vault has made the lease, and its answer is on the way."""
    with life.faults.late(60, f"{life.mount.path}/creds/app"):
        before = len(life.mount.leases())
        life.rotate()
        await eventually(lambda: len(life.mount.leases()) > before, "the lease is made")
        strike(life)


async def build(life: Life, strike: Strike) -> None:
    life.parking.full = True
    life.rotate()
    await life.parking.arrived.wait()
    strike(life)
    life.parking.full = False
    life.parking.go_on.set()


async def replace(life: Life, strike: Strike) -> None:
    struck: list[object] = []

    def listen(event: Event) -> None:
        if event.name == "lease.rotated" and not struck:  # in the very moment of the swap
            struck.append(strike(life))

    life.service.manager.add_listener(listen)
    life.rotate()
    await eventually(lambda: struck, "the swap")


async def drain(life: Life, strike: Strike) -> None:
    async with life.service.manager.get_pool().connection() as conn:
        life.rotate()
        await eventually(lambda: life.told("generation.retired"), "the old generation drains")
        strike(life)
        with suppress(Exception):  # the borrower of a server that is gone is told so
            await conn.execute(QUERY)
            await conn.rollback()


async def revoke(life: Life, strike: Strike) -> None:
    with life.faults.hold("sys/leases/revoke") as held:
        life.rotate()
        await eventually(lambda: held.hits, "the old lease is being revoked")
        strike(life)


MOMENTS: tuple[Moment, ...] = (issue, issued, build, replace, drain, revoke)


# -- faults: each begins with a strike, and ends once the servers are back


@dataclass(frozen=True, slots=True)
class Fault:
    name: str
    strike: Strike
    heal: Callable[[Life], object]
    clients: bool = False
    """Clients may feel it."""
    loses_answers: bool = False


def stop_vault(life: Life) -> None:
    life.faults.stop()


def silence_vault(life: Life) -> None:
    life.faults.hold()


def cut_answers(life: Life) -> None:
    """The one that is on its way, and all that follow."""
    life.faults.stop().end()
    life.faults.cut()


def stop_postgres(life: Life) -> None:
    life.postgres.stop(immediate=True)


def cut_sessions(life: Life) -> None:
    with life.postgres.admin() as admin:
        admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename like 'v-%'")


def clear(life: Life) -> None:
    life.faults.clear()


FAULTS = (
    Fault("Vault stopped", stop_vault, clear, loses_answers=True),
    Fault("Vault silent", silence_vault, clear),
    Fault("answers cut", cut_answers, clear, loses_answers=True),
    Fault("PostgreSQL stopped", stop_postgres, lambda life: life.postgres.start(), clients=True),
    Fault("sessions cut", cut_sessions, lambda _: None, clients=True),
)

IN_SHORT = {
    ("issued", "Vault silent"),
    ("issue", "PostgreSQL stopped"),
    ("build", "PostgreSQL stopped"),
    ("replace", "sessions cut"),
    ("drain", "Vault stopped"),
    ("revoke", "Vault stopped"),
    ("revoke", "answers cut"),
}

pairs = pytest.mark.parametrize(
    ("moment", "fault"),
    [
        pytest.param(
            moment,
            fault,
            id=f"{moment.__name__}-{fault.name}",
            marks=[] if (moment.__name__, fault.name) in IN_SHORT else pytest.mark.slow,
        )
        for moment in MOMENTS
        for fault in FAULTS
    ],
)


def tokens(mount: Mount) -> int:
    return len(mount.root.auth.token.list_accessors()["data"]["keys"])


@asynccontextmanager
async def living(mount: Mount, vault: DevVault) -> AsyncIterator[Life]:
    parking = Parking()
    settings = settings_of(mount, vault_timeout=VAULT_TIMEOUT)
    default = settings.databases["default"].model_copy(update={"probe": parking.probe})
    async with under_load(settings.model_copy(update={"databases": {"default": default}})) as service:
        yield Life(vault, mount.postgres, mount, parking, service)


@pytest.fixture
def stage(new_vault: Callable[..., DevVault], postgres: EmbeddedPostgres) -> Iterator[tuple[Mount, DevVault]]:
    vault = new_vault(revoke_retry_base=0.2)
    with mounted(vault, postgres, {"app": RoleSpec()}) as mount:
        yield mount, vault
        vault.faults.clear()


@pairs
async def test_an_outage_at_the_worst_moment_leaves_nothing_once_all_is_back(
    stage: tuple[Mount, DevVault], database: DatabaseView, moment: Moment, fault: Fault
) -> None:
    mount, vault = stage
    before = tokens(mount)
    loop = asyncio.get_running_loop()
    async with living(mount, vault) as life:
        service = life.service
        await moment(life, fault.strike)
        await asyncio.sleep(OUTAGE)
        fault.heal(life)
        healed = loop.time()
        assert life.rotation is not None
        await life.rotation
        await service.is_served_again(healed)
        # An answer that is lost on its way may leave a lease that nobody knows of. It ends with the token that asked for it.
        unknown = moment in (issue, issued) and fault.loses_answers
        await eventually(lambda: len(mount.leases()) <= 1 + unknown, "what was left is revoked")
        assert service.lease_id in mount.leases()
        assert service.lost == []
        assert fault.clients or service.failures == []
    if unknown:
        await eventually(lambda: mount.leases() == [], "Vault has ended the lease after its token")
    assert mount.leases() == []
    await eventually(lambda: database.sessions() == 0, "PostgreSQL has ended the sessions")
    assert database.roles() == set()
    # To end that lease the session logs in anew, and the answer to a login may be lost as well: that token has no lease.
    assert unknown or tokens(mount) == before
