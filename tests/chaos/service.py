"""A service under load, watched from all sides: what its clients see, what its manager says, and when."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import psycopg

from tests.servers import Mount
from tests.waiting import eventually
from vault_pg import AppRoleAuth, DatabaseSettings, LeaseManager, Settings, VaultSettings
from vault_pg.events import CredentialExpired, Event, LeaseLost, RenewalFailed, RotationFailed, TokenLost
from vault_pg.manager.status import Health, LeaseStatus, NextStep, Status

CLIENTS = 4
PAUSE = 0.01
"""Seconds between two queries of a client: several services share the machine."""

LOOK = 0.02
"""Seconds between two looks at the status."""

QUERY = "select item from orders where id = 1"
"""Fails on every connection whose role has been dropped."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A query that a client lost."""

    client: int
    at: float
    seconds: float
    """From asking for a connection to the error."""
    error: psycopg.Error


@dataclass(frozen=True, slots=True)
class Seen:
    """What `status` said at an instant of the loop's clock."""

    at: float
    health: Health
    why: str | None


@dataclass(eq=False)
class Service:
    manager: LeaseManager
    events: list[Event] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    served: list[float] = field(default_factory=list)
    """When each query was answered, on the loop's clock."""
    seen: list[Seen] = field(default_factory=list)
    over: bool = False

    def of(self, *kinds: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kinds)]

    @property
    def lost(self) -> list[Event]:
        """Events that say that a credential ended before its replacement served."""
        return self.of(LeaseLost, CredentialExpired, TokenLost)

    @property
    def next(self) -> NextStep:
        step = self.manager.status().databases[0].next
        assert step is not None
        return step

    @property
    def lease(self) -> LeaseStatus:
        lease = self.manager.status().databases[0].lease
        assert lease is not None
        return lease

    @property
    def lease_left(self) -> float:
        return self.lease.remaining_seconds or 0.0

    @property
    def lease_id(self) -> str:
        return self.lease.id or ""

    def failures_by_client(self) -> Counter[int]:
        return Counter(failure.client for failure in self.failures)

    def note(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, RenewalFailed | RotationFailed):
            self._look()

    def _look(self) -> Status:
        status = self.manager.status()
        [database] = status.databases
        self.seen.append(Seen(asyncio.get_running_loop().time(), status.health, database.last_error))
        return status

    async def watch(self) -> None:
        while not self.over:
            self._look()
            await asyncio.sleep(LOOK)

    async def client(self, number: int) -> None:
        pool, loop = self.manager.get_pool(), asyncio.get_running_loop()
        while not self.over:
            begun = loop.time()
            try:
                async with pool.connection() as conn:
                    await conn.execute(QUERY)
            except psycopg.Error as error:
                self.failures.append(Failure(number, begun, loop.time() - begun, error))
            else:
                self.served.append(loop.time())
            await asyncio.sleep(PAUSE)

    async def is_healthy(self) -> float:
        """Wait for the status to say so, and return when it did, on the loop's clock."""
        loop = asyncio.get_running_loop()
        await eventually(lambda: self._look().health == "healthy", f"{self._look()} is healthy")
        return loop.time()

    async def is_served_again(self, since: float) -> float:
        """Wait until every client could have been served after `since`; when the first was, on the loop's clock."""
        await eventually(lambda: len([at for at in self.served if at > since]) > CLIENTS, "queries are answered")
        return next(at for at in self.served if at > since)


def settings_of(mount: Mount, *, vault_timeout: float = 10.0, token_ttl: int = 3600) -> Settings:
    login = mount.approle(token_ttl=token_ttl)
    return Settings(
        vault=VaultSettings(
            address=mount.server.address,
            auth=AppRoleAuth(role_id=login.role_id, secret_id=login.secret_id, mount=login.mount),
            timeout=vault_timeout,
        ),
        databases={
            "default": DatabaseSettings(
                role="app", mount=mount.path, conninfo=mount.postgres.conninfo(), min_size=2, max_size=CLIENTS, timeout=30.0
            )
        },
        status_socket=False,
        handle_sigterm=False,
    )


@asynccontextmanager
async def under_load(settings: Settings, *, draw: Callable[[], float] | None = None) -> AsyncIterator[Service]:
    """A manager that runs, with CLIENTS clients in a loop."""
    manager = LeaseManager(settings, shared=False) if draw is None else LeaseManager(settings, shared=False, draw=draw)
    service = Service(manager)
    manager.add_listener(service.note)
    async with manager, asyncio.TaskGroup() as group:
        group.create_task(service.watch(), name="watch")
        for number in range(CLIENTS):
            group.create_task(service.client(number), name=f"client-{number}")
        try:
            await eventually(lambda: len(service.served) > CLIENTS, "queries are answered")
            yield service
        finally:
            service.over = True
