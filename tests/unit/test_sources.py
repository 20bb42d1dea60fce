"""Credentials that come from elsewhere than a lease of Vault's, on virtual time: what becomes of the pool when they change."""

from __future__ import annotations

import asyncio
import math
import random
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr

from tests.unit.memory_postgres import MemoryPostgres
from vault_pg import errors
from vault_pg.events import (
    CredentialExpired,
    Event,
    LeaseIssued,
    LeaseRenewed,
    LeaseRevoked,
    LeaseRotated,
    PasswordExchanged,
    RenewalFailed,
    RotationFailed,
    SourceUnreadable,
    TaskDied,
)
from vault_pg.lease import Credential, Ending, Grant, Lease
from vault_pg.manager.keeper import Keeper
from vault_pg.manager.manager import AT_ONCE, LeaseManager
from vault_pg.manager.tenure import Tenure
from vault_pg.settings import DatabaseSettings, Settings
from vault_pg.source import CredentialSource

pytestmark = pytest.mark.looptime


class Shelf(CredentialSource):
    """Gives what lies on it; `accepts()` makes PostgreSQL take that password and no other."""

    def __init__(self, postgres: MemoryPostgres, username: str = "app") -> None:
        self.postgres = postgres
        self.username = username
        self.password = "pw-0"
        self.ttl = math.inf
        self.ending = Ending.PASSWORD
        self.failure: errors.VaultPgError | None = None
        self.asked: list[float] = []
        self.changed = asyncio.Event()

    def put(self, password: str, username: str = "") -> None:
        self.password, self.username = password, username or self.username

    def accepts(self) -> None:
        self.postgres.passwords[self.username] = self.password

    async def issue(self, *, timeout: float) -> Grant:
        self.asked.append(asyncio.get_running_loop().time())
        if self.failure is not None:
            raise self.failure
        return Grant(Credential(self.username, SecretStr(self.password)), self.ttl, self.ending)


class Watched(Shelf):
    async def watch(self) -> None:
        await self.changed.wait()
        self.changed.clear()


class World:
    def __init__(self, keeper: Keeper, postgres: MemoryPostgres, events: list[Event]) -> None:
        self.keeper, self.postgres, self.events = keeper, postgres, events

    def of(self, *kinds: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kinds)]

    @property
    def holder(self) -> Any:
        assert self.keeper.holder is not None
        return self.keeper.holder

    async def serves(self) -> str:
        async with self.holder.connection() as conn:
            user: str = conn.user
            return user

    async def reconnects(self) -> None:
        """The connections are lost, and the pool opens others."""
        for conn in list(self.postgres.open):
            await conn.close()
        await self.holder.check()

    async def settle(self) -> None:
        await asyncio.sleep(5)


@asynccontextmanager
async def world(make: Callable[[MemoryPostgres], CredentialSource], **options: Any) -> AsyncIterator[World]:
    loop = asyncio.get_running_loop()
    draw = random.Random(1).random  # noqa: S311 - a seed for a test
    events: list[Event] = []
    postgres = MemoryPostgres()
    settings = DatabaseSettings(
        source=make(postgres), connection_class=postgres.connection_class, **({"min_size": 1, "max_size": 2} | options)
    )
    tenure = Tenure("default", settings, None, emit=events.append, clock=loop.time, draw=draw, vault_timeout=10)

    async def ended() -> None: ...

    keeper = Keeper(tenure, ended=ended)
    await keeper.start(30.0)
    running = asyncio.create_task(keeper.run())
    try:
        yield World(keeper, postgres, events)
        assert not running.done()
        assert not [event for event in events if isinstance(event, TaskDied)]
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await keeper.stop(5.0)
        for lease in keeper.ledger.live:
            await keeper.ledger.revoke(lease)
    assert not postgres.open


async def test_another_password_of_the_same_role_goes_beneath_the_open_pool() -> None:
    async with world(Shelf) as w:
        source: Any = w.keeper.tenure.source
        source.put("pw-1")
        source.accepts()
        before = list(w.postgres.open)
        w.keeper.tenure.ask_again("a test says so")
        await w.settle()
        assert w.postgres.open == before  # none was closed
        [exchanged] = w.of(PasswordExchanged)
        assert (exchanged.username, exchanged.why, exchanged.lease_id) == ("app", "a test says so", None)
        await w.reconnects()
        assert await w.serves() == "app"
        assert w.holder.generation == 1
        assert not w.of(LeaseRotated, RotationFailed, CredentialExpired)
        assert len(w.of(LeaseIssued)) == 1


async def test_another_user_name_means_another_generation() -> None:
    async with world(Shelf) as w:
        source: Any = w.keeper.tenure.source
        source.put("pw-1", "app2")
        w.keeper.tenure.ask_again("a test says so")
        await w.settle()
        assert await w.serves() == "app2"
        assert w.postgres.users == {"app2"}
        assert w.holder.generation == 2
        assert not w.of(PasswordExchanged, LeaseRevoked)


async def test_a_refused_login_makes_the_source_be_read_at_once() -> None:
    async with world(Shelf) as w:
        source: Any = w.keeper.tenure.source
        source.put("pw-1")
        source.accepts()
        await w.reconnects()
        await w.settle()
        assert [event.why for event in w.of(PasswordExchanged)] == ["PostgreSQL refuses a login with its password"]


async def test_a_password_that_postgresql_refuses_and_the_source_still_gives_is_told_and_tried_again() -> None:
    async with world(Shelf) as w:
        source: Any = w.keeper.tenure.source
        w.postgres.passwords["app"] = "pw-1"
        w.keeper.suspicion.raise_()
        await asyncio.sleep(20)
        assert "refuses" in w.of(RotationFailed)[0].error
        assert w.keeper.tenure.last_error is not None
        assert w.keeper.tenure.refused_since is None
        assert len(source.asked) < 20
        source.put("pw-1")
        await asyncio.sleep(30)
        assert await w.serves() == "app"
        assert w.keeper.tenure.last_error is None


async def test_a_password_is_replaced_before_it_expires_for_hours() -> None:
    async with world(Shelf) as w:
        source: Any = w.keeper.tenure.source
        source.ttl = 900.0
        source.put("pw-1")
        w.keeper.tenure.ask_again("a test says so")
        await w.settle()
        for number in range(2, 12):
            source.put(f"pw-{number}")
            asked = len(source.asked)
            await asyncio.sleep(0.76 * 900)
            assert len(source.asked) > asked
        assert w.holder.generation == 1
        assert len(w.of(PasswordExchanged)) >= 10
        assert not w.of(RotationFailed, SourceUnreadable)


async def test_past_the_end_of_a_password_the_open_sessions_serve_on_and_it_is_told() -> None:
    async with world(Shelf) as w:
        source: Any = w.keeper.tenure.source
        source.ttl = 60.0
        source.put("pw-1")
        w.keeper.tenure.ask_again("a test says so")
        await w.settle()
        source.failure = errors.SourceError("the token service is down")
        await asyncio.sleep(300)
        assert await w.serves() == "app"
        assert not w.of(CredentialExpired, RotationFailed)
        assert {event.error for event in w.of(SourceUnreadable)} == {"the token service is down"}
        assert w.keeper.tenure.last_error == "the token service is down"
        source.failure = None
        source.put("pw-2")
        await asyncio.sleep(31)
        assert w.keeper.tenure.last_error is None


async def test_a_password_that_changes_is_read_after_it_has_and_again_in_the_odd_second() -> None:
    async with world(Shelf) as w:
        source: Any = w.keeper.tenure.source
        source.ending, source.ttl = Ending.CHANGE, 100.0
        source.put("pw-1")
        w.keeper.tenure.ask_again("a test says so")
        await w.settle()
        end = source.asked[-1] + 100
        await asyncio.sleep(95)
        assert [at for at in source.asked if at > end] == []
        await asyncio.sleep(5)  # ttl has started over, the password is the old one
        again = [at for at in source.asked if at > end]
        assert len(again) >= 2
        source.put("pw-2")
        await asyncio.sleep(10)
        assert len(w.of(PasswordExchanged)) == 2
        settled = len(source.asked)
        await asyncio.sleep(80)
        assert len(source.asked) == settled


async def test_a_rotation_by_hand_reads_the_source_again_and_logs_everybody_in_anew() -> None:
    async with world(Shelf) as w:
        source: Any = w.keeper.tenure.source
        source.put("pw-1")
        source.accepts()
        before = list(w.postgres.open)
        await w.keeper.rotate()
        assert w.holder.generation == 2
        await w.settle()
        assert not set(before) & set(w.postgres.open)
        assert await w.serves() == "app"


async def test_a_rotation_by_hand_that_failed_is_remembered_until_a_new_password_works() -> None:
    async with world(Shelf) as w:
        source: Any = w.keeper.tenure.source
        source.failure = errors.SourceError("the disk is away")
        with pytest.raises(errors.SourceError):
            await w.keeper.rotate()
        source.failure = None
        assert w.keeper.tenure.in_vain is not None
        source.put("pw-1")
        source.accepts()
        w.keeper.tenure.ask_again("a test says so")
        await w.settle()
        assert len(w.of(PasswordExchanged)) == 1
        assert w.keeper.tenure.in_vain is None


async def test_a_watched_source_is_asked_when_it_says_so() -> None:
    async with world(Watched) as w:
        source: Any = w.keeper.tenure.source
        await asyncio.sleep(86_400)
        assert len(source.asked) == 1
        source.put("pw-1")
        source.changed.set()
        await w.settle()
        assert [event.why for event in w.of(PasswordExchanged)] == ["its source has changed"]


async def test_a_source_that_changes_while_it_is_asked_is_asked_again() -> None:
    async with world(Watched) as w:
        source: Any = w.keeper.tenure.source
        source.put("pw-1")
        source.changed.set()
        w.postgres.latency = 2.0  # what it gives is proven by a login
        await asyncio.sleep(1)
        source.put("pw-2")
        source.changed.set()
        await w.settle()
        assert len(w.of(PasswordExchanged)) == 2
        assert len(source.asked) == 3


async def test_a_source_that_changes_during_a_renewal_is_asked_all_the_same() -> None:
    class Renewed(Watched):
        async def issue(self, *, timeout: float) -> Grant:
            await super().issue(timeout=timeout)
            return Grant(Credential(self.username, SecretStr(self.password)), 60, lease_id=self.username, renewable=True)

        async def renew(self, lease: Lease, increment: float, *, timeout: float) -> Grant:
            self.put("pw", "app-2")
            self.changed.set()
            await asyncio.sleep(1)
            return Grant(lease.credential, increment, lease_id=lease.id, renewable=True)

        async def revoke(self, lease: Lease, *, timeout: float) -> None: ...

    async with world(Renewed) as w:
        await asyncio.sleep(50)
        assert await w.serves() == "app-2"


async def test_a_source_that_changes_while_its_renewals_fail_is_asked_though_one_works_again() -> None:
    class Renewed(Watched):
        issuable = renewable = False

        async def issue(self, *, timeout: float) -> Grant:
            if self.asked and not self.issuable:
                raise errors.SourceError("the network is away")
            await super().issue(timeout=timeout)
            return Grant(Credential(self.username, SecretStr(self.password)), 60, lease_id=self.username, renewable=True)

        async def renew(self, lease: Lease, increment: float, *, timeout: float) -> Grant:
            if not self.renewable:
                raise errors.SourceError("the network is away")
            return Grant(lease.credential, increment, lease_id=lease.id, renewable=True)

        async def revoke(self, lease: Lease, *, timeout: float) -> None: ...

    async with world(Renewed) as w:
        source: Any = w.keeper.tenure.source
        await asyncio.sleep(42)
        assert w.of(RenewalFailed)
        source.put("pw", "app-2")
        source.changed.set()
        await asyncio.sleep(12)
        assert w.of(RotationFailed)
        source.renewable = True
        await w.settle()
        assert w.of(LeaseRenewed)
        source.issuable = True
        await asyncio.sleep(10)
        assert await w.serves() == "app-2"


class Rented(CredentialSource):
    """A source of a user's own that renews and revokes."""

    def __init__(self, _: MemoryPostgres) -> None:
        self.alive: list[str] = []

    async def issue(self, *, timeout: float) -> Grant:
        name = f"rented-{len(self.alive)}"
        self.alive.append(name)
        return Grant(Credential(name, SecretStr("pw")), 60.0, lease_id=name, renewable=True)

    async def renew(self, lease: Lease, increment: float, *, timeout: float) -> Grant:
        return Grant(lease.credential, increment, lease_id=lease.id, renewable=True)

    async def revoke(self, lease: Lease, *, timeout: float) -> None:
        self.alive.remove(lease.id)


async def test_a_source_of_ones_own_is_renewed_rotated_and_revoked_like_a_lease_of_vault() -> None:
    async with world(Rented) as w:
        source: Any = w.keeper.tenure.source
        await asyncio.sleep(300)
        assert len(w.of(LeaseRenewed)) >= 4
        assert await w.serves() == "rented-0"
        await w.keeper.rotate()
        await w.settle()
        assert await w.serves() == "rented-1"
        assert [event.lease_id for event in w.of(LeaseRevoked)] == ["rented-0"]
        assert not w.of(CredentialExpired)
    assert source.alive == []


async def test_a_pool_that_keeps_no_connection_holds_none_after_its_proof() -> None:
    async with world(Rented, min_size=0) as w:
        assert w.postgres.executed == [("rented-0", "select current_user")]
        assert w.postgres.open == []
        await w.keeper.rotate()
        await w.settle()
        assert ("rented-1", "select current_user") in w.postgres.executed
        assert w.postgres.open == []
        assert await w.serves() == "rented-1"
        assert w.postgres.users == {"rented-1"}


class Slow(Shelf):
    """Counts how many of its kind are asked at the same moment."""

    now = most = 0

    async def issue(self, *, timeout: float) -> Grant:
        Slow.now += 1
        Slow.most = max(Slow.most, Slow.now)
        try:
            await asyncio.sleep(1.0)
            return await super().issue(timeout=timeout)
        finally:
            Slow.now -= 1


async def test_many_databases_are_opened_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Slow, "most", 0)
    postgres = MemoryPostgres()
    databases = {
        f"db-{number}": DatabaseSettings(
            source=Slow(postgres), min_size=0, max_size=2, connection_class=postgres.connection_class, check_interval=None
        )
        for number in range(3 * AT_ONCE)
    }
    settings = Settings(databases=databases, status_socket=False, handle_sigterm=False)
    async with LeaseManager(settings, clock=asyncio.get_running_loop().time, shared=False) as manager:
        assert len(manager.status().databases) == 3 * AT_ONCE
    assert Slow.most == AT_ONCE


class Failing(CredentialSource):
    """Raises what it is given, in a line of this file."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.asked = 0

    async def issue(self, *, timeout: float) -> Grant:
        self.asked += 1
        raise self.error


async def refused(source: CredentialSource) -> errors.VaultPgError:
    settings = Settings(databases={"default": DatabaseSettings(source=source)}, status_socket=False, handle_sigterm=False)
    with pytest.raises(errors.SourceError) as caught:
        await LeaseManager(settings, clock=asyncio.get_running_loop().time, shared=False).__aenter__()
    assert "hvs.secret" not in "".join(traceback.format_exception(caught.value))
    return caught.value


async def test_what_a_source_raises_is_told_by_type_and_place_without_its_text() -> None:
    source = Failing(ValueError("hvs.secret"))
    told = str(await refused(source))
    line = Failing.issue.__code__.co_firstlineno + 2
    assert told == f"the source of database 'default' failed with ValueError at {__file__}:{line}"
    assert source.asked > 1  # it may pass


@pytest.mark.parametrize("kind", [TypeError, NameError, AttributeError, ImportError, NotImplementedError])
async def test_a_mistake_in_the_code_of_a_source_ends_the_start_at_once(kind: type[Exception]) -> None:
    source = Failing(kind("hvs.secret"))
    assert isinstance(await refused(source), errors.SourceBroken)
    assert source.asked == 1
    assert asyncio.get_running_loop().time() < 1


async def test_a_source_that_gives_no_grant_ends_the_start_at_once() -> None:
    class Wrong(CredentialSource):
        async def issue(self, *, timeout: float) -> Any:
            return "hvs.secret"

    assert "gave a str: issue() has to return a Grant" in str(await refused(Wrong()))
    assert asyncio.get_running_loop().time() < 1


async def test_what_a_watch_raises_is_told_without_its_text() -> None:
    class Blind(Watched):
        async def watch(self) -> None:
            raise ValueError("hvs.secret")

    async with world(Blind) as w:
        await asyncio.sleep(1)
        died = w.of(TaskDied)
        assert died
        assert {event.error for event in died} == {f"ValueError at {__file__}:{Blind.watch.__code__.co_firstlineno + 1}"}
        w.events.clear()  # elsewhere no task may die


async def _raise(_: object) -> None:
    raise ValueError("hvs.secret")


@pytest.mark.parametrize(("hook", "named"), [("configure", "the configure hook"), ("probe", "the probe")])
async def test_what_a_hook_raises_is_told_by_type_and_place_without_its_text(hook: str, named: str) -> None:
    with pytest.raises(errors.ProofFailed) as caught:
        async with world(Shelf, **{hook: _raise}):
            pass
    line = _raise.__code__.co_firstlineno + 1
    assert str(caught.value) == f"{named} failed on a new connection: ValueError at {__file__}:{line}"
    assert "hvs.secret" not in "".join(traceback.format_exception(caught.value))


async def test_a_hook_that_cannot_be_awaited_is_told() -> None:
    with pytest.raises(errors.ProofFailed, match="the probe returned a NoneType: make it a coroutine function"):
        async with world(Shelf, probe=lambda _: None):
            pass
