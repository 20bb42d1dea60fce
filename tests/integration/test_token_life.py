"""Tokens of every kind under a manager: new leases before the old token ends, in order, and no query that notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.servers import DatabaseView, Mount
from tests.waiting import eventually
from vault_pg import LeaseManager
from vault_pg.events import (
    CredentialExpired,
    Event,
    LeaseIssued,
    LeaseRevoked,
    LeaseRotated,
    TokenIssued,
    TokenLost,
    TokenRenewed,
    TokenRevoked,
)
from vault_pg.settings import AppRoleAuth, AuthSettings, DatabaseSettings, Settings, TokenAuth, VaultSettings

SECONDS: dict[str, dict[str, object]] = {
    "max TTL": {"token_ttl": "8s", "token_max_ttl": "12s"},
    "explicit max TTL": {"token_ttl": "8s", "token_explicit_max_ttl": "12s"},
    "batch": {"token_ttl": "8s", "token_type": "batch"},
    "periodic with an explicit max TTL": {"token_period": "8s", "token_explicit_max_ttl": "12s"},
}


@pytest.fixture(autouse=True)
def _runtime_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_PG_RUNTIME_DIR", str(tmp_path / "run"))


def by_approle(mount: Mount, **token: object) -> AppRoleAuth:
    """A login that yields tokens of the kind that `token` describes."""
    login = mount.approle()
    mount.root.auth.approle.create_or_update_approle(mount.path, token_policies=[mount.policy], **token)
    return AppRoleAuth(role_id=login.role_id, secret_id=login.secret_id, mount=login.mount)


@asynccontextmanager
async def serving(mount: Mount, auth: AuthSettings, events: list[Event]) -> AsyncIterator[LeaseManager]:
    """A manager whose pool four clients query all the time; none of their queries may fail."""
    settings = Settings.model_validate(
        {
            "vault": VaultSettings.model_validate({"address": mount.server.address, "auth": auth}),
            "databases": {
                "default": DatabaseSettings(
                    role="app", mount=mount.path, conninfo=mount.postgres.conninfo(), min_size=1, max_size=4, drain_timeout=2
                )
            },
        }
    )
    manager = LeaseManager(settings)
    manager.add_listener(events.append)
    stop = asyncio.Event()

    async def query() -> None:
        while not stop.is_set():
            async with manager.get_pool().connection() as conn:
                await conn.execute("select count(*) from orders")
            await asyncio.sleep(0.01)

    async with manager:
        clients = [asyncio.create_task(query()) for _ in range(4)]
        try:
            yield manager
        finally:
            stop.set()
            await asyncio.gather(*clients)


def of(kind: type[Event], events: list[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def handed_over(events: list[Event], serial: int) -> bool:
    """A lease was asked for, and serves, since this token is there."""
    since = next((at for at, event in enumerate(events) if isinstance(event, TokenIssued) and event.serial == serial), None)
    return since is not None and bool(of(LeaseRotated, events[since:]))


def in_order(events: list[Event], serial: int, *, revoked: bool = True) -> None:
    """Token, lease, rotation, the old lease's end, and last that of the old token."""
    kinds: list[tuple[type[Event], Callable[[Any], bool]]] = [
        (TokenIssued, lambda event: event.serial == serial),
        (LeaseIssued, lambda _: True),
        (LeaseRotated, lambda _: True),
        (LeaseRevoked, lambda _: True),
    ]
    if revoked:
        kinds.append((TokenRevoked, lambda event: event.serial == serial - 1))
    at = 0
    for kind, fits in kinds:
        at = next(n for n, event in enumerate(events[at:], at) if isinstance(event, kind) and fits(event)) + 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", SECONDS)
async def test_a_token_of_seconds_is_replaced_and_its_leases_with_it(mount: Mount, database: DatabaseView, kind: str) -> None:
    events: list[Event] = []
    async with serving(mount, by_approle(mount, **SECONDS[kind]), events):
        await eventually(lambda: handed_over(events, 3), "two tokens are replaced, and the leases with them")
        batch = kind == "batch"
        await eventually(lambda: batch or of(TokenRevoked, events), "the first token is revoked")
    in_order(events, 2, revoked=not batch)
    assert of(TokenLost, events) == of(CredentialExpired, events) == []
    assert bool(of(TokenRenewed, events)) == (not batch)
    assert mount.leases() == []
    assert database.sessions() == 0


@pytest.mark.slow
async def test_a_periodic_token_is_renewed_for_ever_and_no_lease_moves(mount: Mount) -> None:
    events: list[Event] = []
    async with serving(mount, by_approle(mount, token_period="4s"), events):
        await eventually(lambda: len(of(TokenRenewed, events)) >= 4, "four renewals")
    assert len(of(TokenIssued, events)) == len(of(LeaseIssued, events)) == 1
    assert of(TokenLost, events) == []


async def test_a_token_of_few_uses_is_replaced_before_they_are_used_up(mount: Mount) -> None:
    """With its last use it would die, and its leases with it."""
    events: list[Event] = []
    async with serving(mount, by_approle(mount, token_num_uses=9), events) as manager:
        for _ in range(6):
            await manager.rotate()
        await eventually(lambda: len(of(TokenIssued, events)) >= 3, "the third token")
    assert of(TokenLost, events) == of(CredentialExpired, events) == []


async def test_root_needs_nothing_and_is_never_revoked(mount: Mount) -> None:
    events: list[Event] = []
    async with serving(mount, TokenAuth(token=mount.server.root_token), events) as manager:
        await manager.rotate()
        status = manager.status()
        assert status.vault is not None
        assert (status.health, status.vault.token_remaining_seconds) == ("healthy", None)
    assert mount.root.auth.token.lookup_self()["data"]["id"]
    assert {type(event) for event in events} & {TokenRenewed, TokenRevoked, TokenLost} == set()


async def test_a_token_that_is_replaced_by_hand_takes_its_leases_along(mount: Mount, tmp_path: Path) -> None:
    """A sink, as an agent rewrites it: the leases move, and the old token is left to whoever made it."""
    sink = tmp_path / "sink"
    old, new = mount.token(ttl="30s", explicit_max_ttl="30s"), mount.token()
    sink.write_text(old.get_secret_value())
    events: list[Event] = []
    async with serving(mount, TokenAuth(token_file=sink), events):
        sink.with_suffix(".new").write_text(new.get_secret_value())
        sink.with_suffix(".new").rename(sink)
        await eventually(lambda: handed_over(events, 2), "the leases have moved")
    in_order(events, 2, revoked=False)
    assert of(TokenLost, events) == of(TokenRevoked, events) == []
