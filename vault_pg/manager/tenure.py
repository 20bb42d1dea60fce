"""What is known of the credential that serves: the lease, its horizon, and what went wrong lately."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from vault_pg import schedule
from vault_pg.clock import Clock, Instant
from vault_pg.errors import SourceBroken, SourceError, VaultPgError
from vault_pg.events import Event, Listener
from vault_pg.lease import NO_TOKEN, Credential, Lease, Token
from vault_pg.place import MISTAKES, told
from vault_pg.schedule import Limits, Rotate, Step
from vault_pg.settings import DatabaseSettings
from vault_pg.sources import source_for
from vault_pg.vault import VaultSession

ASKED = "asked for"

UNRENEWED = "its renewals have failed until it was time to rotate"

FRESH = 5.0
"""Seconds in which not every node of a cluster may know of a new lease; no more than half its TTL."""

BREATH = 0.25
"""Seconds between two attempts at the least where something has happened during the first."""


class Tenure:
    """The state that the keeper of one database, its renewals and its rotations share. All of it lives on one event loop."""

    def __init__(
        self,
        name: str,
        settings: DatabaseSettings,
        session: VaultSession | None,
        *,
        emit: Listener,
        clock: Clock,
        draw: Callable[[], float],
        vault_timeout: float,
    ) -> None:
        self.name = name
        self.settings = settings
        self.limits = Limits(
            max_age=settings.max_age, lead=settings.drain_timeout + settings.build_timeout, increment=settings.increment
        )
        self.session = session
        self.source = source_for(settings, session)
        self.emit = emit
        self.clock = clock
        self.draw = draw
        self.vault_timeout = vault_timeout
        self.lease: Lease | None = None
        self.lost: str | None = None
        """Why the lease is known to be gone before its time."""
        self.due: str | None = None
        """Why the source is to be asked at once for what it has now."""
        self.news = 0
        """How often somebody has said so."""
        self.rejected = False
        """PostgreSQL has refused a login with the password that serves."""
        self.refused_since: Instant | None = None
        """Since when checkouts are refused for want of a credential."""
        self.last_error: str | None = None
        self.in_vain: str | None = None
        """What a rotation that was asked for failed with, until one works: nobody tries it again, and nothing is ill for it."""
        self.failed_since: Instant | None = None
        self.retry: tuple[Instant, str] | None = None
        """When the next attempt is made after a failed one, and what failed."""
        self.asked: list[asyncio.Future[None]] = []
        """Those who wait for a rotation that they asked for."""
        self.on_moved: Callable[[], object] = lambda: None
        """Told when the lease is another one, or another grant of it: the horizon has moved."""
        self.on_lost: Callable[[], object] = lambda: None
        """Told at once when the lease is known to be gone."""
        self._luck = draw()
        self._wakes = 0
        self._sleeper: asyncio.Future[None] | None = None

    def adopt(self, lease: Lease, *, news: int | None = None) -> None:
        """`lease` serves from now on, as issued or as renewed; whatever failed before is over.

        `news`: how many there were when the source was asked for it. Those that have come since it does not answer, nor does a renewal.
        """
        self.lease, self._luck = lease, self.draw()
        self.lost = self.last_error = self.failed_since = self.retry = None
        if self.due == UNRENEWED or news == self.news:
            self.due = None
        self.rejected = False
        self.on_moved()

    def correct(self, lease: Lease) -> None:
        """The lease that serves ends at another time than we thought."""
        self.lease = lease
        self.on_moved()

    @property
    def token(self) -> Token | None:
        """The token that asked for the lease; None where it is known no more, which ends the lease too."""
        if self.lease is None:
            return None
        if self.session is None or not self.lease.token_serial:
            return NO_TOKEN
        try:
            return self.session.token_of(self.lease.token_serial)
        except KeyError:
            return None

    @property
    def horizon(self) -> Instant:
        """Past this instant the credential can't be trusted; minus infinity where there is none."""
        if self.lease is None or self.token is None:
            return float("-inf")
        return schedule.horizon(self.lease, self.token, self.settings.max_age)

    @property
    def left(self) -> float:
        """Seconds to the horizon, 0 past it."""
        return max(0.0, self.horizon - self.clock())

    def is_fresh(self, lease: Lease) -> bool:
        """So new that a node which does not know it may only be behind its leader."""
        return self.clock() - lease.issued_at < min(FRESH, lease.default_ttl / 2)

    @property
    def patience(self) -> float:
        """Seconds that trying again has before clients feel it: 0 where they do already."""
        return 0.0 if self.lost is not None or self.refused_since is not None else self.left

    def next_step(self) -> Step:
        now = self.clock()
        if self.lease is None or self.token is None or self.refused_since is not None:
            return Rotate(now, "there is no credential that works")
        if self.lost is not None:
            return Rotate(now, self.lost)
        if self.asked:
            return Rotate(now, ASKED)
        if self.due is not None:
            return Rotate(now, self.due)
        current = self.token if self.session is None or not self.lease.token_serial else self.session.token
        return schedule.next_step(self.lease, self.token, current, self._luck, self.limits)

    def keeps_role(self, credential: Credential) -> bool:
        """It is of the role that serves, whose open sessions are none the worse for another password."""
        return (
            self.lease is not None
            and self.lease.outlived
            and self.lost is None
            and self.refused_since is None
            and not self.asked
            and self.lease.credential.username == credential.username
        )

    @property
    def role(self) -> str | None:
        """Vault's; None where the credential comes from elsewhere."""
        return self.settings.role if self.settings.from_vault else None

    @property
    def mount(self) -> str | None:
        return self.settings.mount if self.settings.from_vault else None

    @asynccontextmanager
    async def asking(self, timeout: float) -> AsyncIterator[None]:
        """Around each call of the source. One that is no part of this library keeps to the time, and fails by our errors."""
        if self.settings.from_vault:
            yield
            return
        try:
            async with asyncio.timeout(timeout):
                yield
        except VaultPgError:
            raise
        except TimeoutError:
            raise SourceError(f"the source of database {self.name!r} did not answer within {timeout:.1f} s") from None
        except Exception as error:  # noqa: BLE001 - anything may be raised by a source of the user's
            # Without its text, which may hold anything: a source that wants to be quoted raises SourceError.
            kind = SourceBroken if isinstance(error, MISTAKES) else SourceError
            raise kind(f"the source of database {self.name!r} failed with {told(error)}") from None

    @property
    def whose(self) -> str:
        """For messages: whose credential it is."""
        return f"database {self.name!r}" if self.role is None else f"role {self.role!r}"

    @property
    def due_for_renewal(self) -> bool:
        """Its renewal would have come by now, if a rotation were not under way."""
        lease = self.lease
        if lease is None or self.lost is not None or self.refused_since is not None or lease.capped or not lease.renewable:
            return False
        return self.until_renewal <= 0.0

    @property
    def until_renewal(self) -> float:
        """Seconds until its renewal is due; 0 or less: now."""
        lease = self.lease
        if lease is None:
            return 0.0
        return schedule.renew_point(lease.granted_at, lease.ttl, self._luck, first=lease.renewals == 0) - self.clock()

    def ask_again(self, why: str) -> None:
        """Let the source be asked at once for what it has now."""
        self.due, self.news = why, self.news + 1
        self.wake()

    def lose(self, why: str) -> None:
        """The lease is known to be gone."""
        if self.lost is None:
            self.lost = why
            self.on_lost()

    def note(self, error: BaseException) -> None:
        """Remember a failure until something works."""
        self.last_error = str(error)
        if self.failed_since is None:
            self.failed_since = self.clock()

    # -- waiting

    def wake(self) -> None:
        """Look at everything again at once."""
        self._wakes += 1
        if self._sleeper is not None:
            _end_sleep(self._sleeper)

    async def nap(self, seconds: float) -> None:
        """Sleep, or less if woken meanwhile. Only the keeper's own task does, so there is one sleeper at most."""
        loop = asyncio.get_running_loop()
        # Every lease spends its life in here: a future and a timer are a third of what an event and a time-out take.
        sleeper = self._sleeper = loop.create_future()
        alarm = loop.call_later(seconds, _end_sleep, sleeper)
        try:
            await sleeper
        finally:
            alarm.cancel()
            self._sleeper = None

    def retrying(
        self,
        failed: Callable[[RetryCallState], Awaitable[None] | None],
        *,
        give_up: Callable[[], bool] = lambda: False,
        worth: Callable[[BaseException], bool] = lambda error: isinstance(error, VaultPgError),
    ) -> AsyncRetrying:
        """Attempts on the lease clock: `schedule.backoff` between attempts, `failed` told after each, its error raised at the end.

        A wake ends the wait, also one that came while the attempt before was under way.
        """
        wakes = self._wakes

        def begin(_: RetryCallState) -> None:
            nonlocal wakes
            wakes = self._wakes

        def wait(state: RetryCallState) -> float:
            retry_after = getattr(failure(state), "retry_after", None)
            return schedule.backoff(state.attempt_number, self.draw(), left=self.patience, retry_after=retry_after)

        async def sleep(seconds: float) -> None:
            with nullcontext() if self.session is None else self.session.waking(self.wake):
                await self.nap(seconds if wakes == self._wakes else min(seconds, BREATH))

        return AsyncRetrying(
            retry=retry_if_exception(worth),
            stop=lambda _: give_up(),
            wait=wait,
            before=begin,
            before_sleep=failed,
            sleep=sleep,
            reraise=True,
        )

    # -- telling

    def tell(self, event: Callable[..., Event], lease: Lease, **facts: object) -> None:
        """Emit an event about a lease of this database."""
        known = {"database": self.name, "role": self.role, "lease_id": lease.id or None, "username": lease.credential.username}
        self.emit(event(**known, **facts))

    def answer(self, error: BaseException | None) -> None:
        """Tell those who asked for a rotation how it went."""
        asked, self.asked = self.asked, []
        for done in asked:
            if not done.done():
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)


def _end_sleep(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)


def seconds(left: float) -> float | None:
    """For events: None where there is no end."""
    return None if math.isinf(left) else round(left, 3)


def failure(state: RetryCallState) -> BaseException:
    """The error of the attempt that tenacity is about to repeat."""
    error = state.outcome.exception() if state.outcome is not None else None
    return error if error is not None else VaultPgError("an attempt ended with no outcome")


def transient(error: BaseException) -> bool:
    return isinstance(error, VaultPgError) and error.transient
