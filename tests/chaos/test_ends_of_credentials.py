"""A credential ends, by an outage longer than its lease or behind the service's back: told at once, and mended without help.

In the short form the bounds are wide, but narrower than any time-out; the long form (`make soak`) keeps them to the letter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.chaos.service import Failure, Service, settings_of, under_load
from tests.servers import DatabaseView, Mount, mounted
from tests.waiting import eventually
from vault_pg import NoCredential
from vault_pg.dev import DevVault, EmbeddedPostgres, RoleSpec
from vault_pg.events import CredentialExpired, Event
from vault_pg.manager import keeper


@dataclass(frozen=True, slots=True)
class Promise:
    """In seconds."""

    ttl: int
    refused_within: float
    back_within: float
    mended_within: float
    grace: float
    """So long do checkouts wait for what replaces a lost lease, before they are refused."""


LETTER = Promise(ttl=60, refused_within=0.1, back_within=5.0, mended_within=3.0, grace=keeper.LOST_GRACE)
RELAXED = Promise(ttl=4, refused_within=15.0, back_within=50.0, mended_within=30.0, grace=30.0)

promises = pytest.mark.parametrize(
    "promise", [pytest.param(RELAXED, id="relaxed"), pytest.param(LETTER, id="to the letter", marks=pytest.mark.slow)]
)


@dataclass(frozen=True)
class Scene:
    """A Vault of a test's own, with a mount on it."""

    vault: DevVault
    postgres: EmbeddedPostgres
    mount: Mount


@pytest.fixture
def make_scene(new_vault: Callable[..., DevVault], postgres: EmbeddedPostgres) -> Iterator[Callable[[int], Scene]]:
    vault = new_vault()
    with ExitStack() as stack:

        def make(ttl: int) -> Scene:
            mount = stack.enter_context(mounted(vault, postgres, {"app": RoleSpec(default_ttl=ttl, max_ttl=3600)}))
            stack.callback(vault.faults.clear)
            return Scene(vault, postgres, mount)

        yield make


@promises
async def test_past_the_horizon_checkouts_fail_at_once_with_the_reason_and_serve_again_when_vault_is_back(
    make_scene: Callable[[int], Scene], promise: Promise
) -> None:
    scene = make_scene(promise.ttl)
    loop = asyncio.get_running_loop()
    async with under_load(settings_of(scene.mount)) as service:
        expired: list[tuple[float, int]] = []

        def note(event: Event) -> None:
            if isinstance(event, CredentialExpired):
                expired.append((loop.time(), len(service.failures)))

        def refused() -> list[Failure]:
            """Of the checkouts since then; a query that was under way at the horizon is cut off."""
            return [failure for failure in service.failures if expired and failure.at >= expired[0][0]]

        service.manager.add_listener(note)
        trouble = scene.vault.faults.stop()
        await eventually(lambda: expired, "the horizon has passed", timeout=2 * promise.ttl + 60)
        await eventually(lambda: len(refused()) >= 20, "checkouts are refused")
        [database] = service.manager.status().databases
        assert (service.manager.status().health, database.state) == ("critical", "failed")
        failures = refused()
        trouble.end()
        returned = loop.time()
        assert await service.is_served_again(returned) - returned <= promise.back_within
        await service.is_healthy()
    assert expired[0][1] == 0
    for failure in failures:
        assert failure.seconds <= promise.refused_within
        assert "no credential for role 'app'" in str(failure.error)
        assert "refuses the connection" in str(failure.error)
        assert isinstance(failure.error, NoCredential)
    assert scene.mount.leases() == []


def revoke_the_lease(scene: Scene, service: Service) -> None:
    scene.vault.faults.lose_lease(service.lease_id)


def revoke_the_token(scene: Scene, _service: Service) -> None:
    assert scene.vault.faults.kill_logins() == 1


def restart_postgres(scene: Scene, _service: Service) -> None:
    scene.postgres.restart()


def drop_the_role(scene: Scene, service: Service) -> None:
    DatabaseView(scene.postgres).execute("DROP ROLE {}", service.lease.username)


@promises
@pytest.mark.parametrize("kill", [revoke_the_lease, revoke_the_token, restart_postgres, drop_the_role])
async def test_what_ends_behind_the_services_back_is_mended_in_a_moment(
    make_scene: Callable[[int], Scene],
    promise: Promise,
    kill: Callable[[Scene, Service], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeper, "LOST_GRACE", promise.grace)
    scene = make_scene(3600)
    loop = asyncio.get_running_loop()
    async with under_load(settings_of(scene.mount)) as service:
        await asyncio.to_thread(kill, scene, service)
        ended = loop.time()
        await eventually(lambda: service.failures, "a client has noticed")
        assert await service.is_served_again(max(ended, service.failures[-1].at)) - ended <= promise.mended_within
        await service.is_healthy()
    assert set(service.failures_by_client().values()) == {1}, "a query is the only sign, and each client needs no more than one"
    assert scene.mount.leases() == []
