"""The Vault side as the rest of the library sees it: a session with one live token, that issues, renews and revokes leases."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TypeVar

from vault_pg.clock import Clock, Instant, boottime
from vault_pg.errors import LoginFailed, PermissionDenied, TokenInvalid, VaultError, VaultUnavailable
from vault_pg.events import (
    Listener,
    TokenIssued,
    TokenLost,
    TokenRenewalFailed,
    TokenRenewed,
    TokenRevocationFailed,
    TokenRevoked,
)
from vault_pg.lease import Credential, Lease, Token
from vault_pg.schedule import call_timeout, renew_point
from vault_pg.settings import VaultSettings
from vault_pg.vault import endpoints
from vault_pg.vault.answers import origin
from vault_pg.vault.calls import Calls, ThreadCalls, Undo
from vault_pg.vault.circuit import QUICK, Circuit
from vault_pg.vault.endpoints import Client, Grant, Issued
from vault_pg.vault.keepalive import Keepalive
from vault_pg.vault.logins import TokenFile, login_for
from vault_pg.vault.outage import Outage
from vault_pg.vault.rights import Rights
from vault_pg.vault.tokens import TokenListener, Tokens
from vault_pg.vault.unanswered import Unanswered

T = TypeVar("T")

RATE, BURST = 200.0, 32
"""Calls a second, beyond a burst: what befalls all databases at once (a dead token, a suspend) makes all of them ask in one moment,
each in a thread of its own."""

LOOK_SELF, RENEW_SELF = "auth/token/lookup-self", "auth/token/renew-self"

SETTLING = 0.4
"""The part of the time to close in which tokens are kept for leases that come when nobody wants them any more."""


class VaultSession:
    """One login at one Vault, kept alive by `run`. While Vault is away `watch` looks for its return, and calls are refused meanwhile.

    Every call is over within its `timeout` (seconds), and raises VaultError: VaultUnavailable where asking again may help,
    TokenInvalid where the token is dead (then the session logs in again by itself, and every lease of the old token is lost),
    PermissionDenied where its policy lacks a right. A call that is cancelled leaves no lease and no token behind.
    """

    def __init__(
        self,
        settings: VaultSettings,
        *,
        emit: Listener,
        clock: Clock = boottime,
        draw: Callable[[], float] = random.random,
        calls: Calls | None = None,
    ) -> None:
        self.address = origin(settings.address)
        self.last_error: VaultError | None = None
        """What the latest call failed with."""
        self._keepalive: Keepalive | None = None
        self._timeout = settings.timeout
        self._emit = emit
        self._clock = clock
        self._draw = draw
        self._login = login_for(settings.auth)
        self._tokens = Tokens(clock)
        self._rights = Rights(self._tokens)
        self._unanswered = Unanswered(
            self._tokens, method=self._login.method, repeatable=self._login.supply == "repeatable", emit=emit, clock=clock
        )
        self._calls = calls or ThreadCalls(settings, lost=self._unanswered.note_of)
        self._closed = False
        self._free_at = float("-inf")
        self._circuit = Circuit(self._probe, address=self.address, emit=emit, clock=clock, draw=draw, patience=settings.timeout)

    @property
    def reachable(self) -> bool:
        """Vault has answered, whatever it said, and no later call or probe has failed for want of an answer."""
        return self._circuit.reachable

    @property
    def answered_at(self) -> Instant | None:
        """When Vault last answered anything; None where it never has."""
        return self._circuit.answered_at

    @property
    def outage(self) -> Outage | None:
        """Since when Vault does not answer, and the latest failure."""
        return self._circuit.outage

    def waking(self, wake: Callable[[], object]) -> AbstractContextManager[None]:
        """Around the wait of one whose call failed: `wake()` is called once Vault is back from an outage."""
        return self._circuit.waking(wake)

    @property
    def token(self) -> Token:
        """The current one; NotRunning before `open`."""
        return self._tokens.current

    def token_of(self, serial: int) -> Token:
        """A token as last known, old ones too. A dead one has ended. KeyError once it is forgotten."""
        return self._tokens.of(serial)

    @property
    def token_ended(self) -> bool:
        """The current token has ended by our count, and another has to come from elsewhere."""
        return self._login.supply != "repeatable" and self._clock() >= self.token.end

    @property
    def token_failure(self) -> str | None:
        """Why no login replaces the token, where no waiting mends that; an outage is told of as such."""
        return self._keepalive.refused if self._keepalive is not None else None

    @property
    def token_ending(self) -> bool:
        """The time to renew or replace the current token is over, it was given by hand, and nothing moves its end."""
        token = self.token
        if self._login.supply != "given" or token.ttl is None or token.extendable:
            return False
        return self._clock() >= renew_point(token.granted_at, token.ttl, 1.0)

    @property
    def old_serials(self) -> frozenset[int]:
        """Tokens before the current one that have not been forgotten."""
        return self._tokens.old

    def is_dead(self, serial: int) -> bool:
        """The token is known to be dead, or known no more: its leases have ended with it."""
        return self._tokens.dead(serial) or (serial != self.token.serial and serial not in self._tokens.old)

    def add_token_listener(self, listener: TokenListener) -> Callable[[], None]:
        """Call `listener()` on the loop at once when a token is new, renewed or dead; returns what ends that. It must not raise."""
        return self._tokens.add_listener(listener)

    async def open(self) -> None:
        """One attempt to log in. Starts nothing, so it may be tried again. Raises LoginFailed besides the session's errors."""
        await self.log_in()

    async def run(self) -> None:
        """Keep the token alive, for ever. Trouble with Vault is told as events and never raised."""
        self._keepalive = keepalive = Keepalive(
            self,
            self._tokens,
            method=self._login.method,
            supply=self._login.supply,
            emit=self._emit,
            clock=self._clock,
            draw=self._draw,
        )
        await keepalive.run()

    async def watch(self) -> None:
        """Look for Vault's return while it does not answer, for ever. Ask nothing while all is well."""
        await self._circuit.watch()

    async def settled(self, *, timeout: float) -> None:
        """Return once the current token is not known to be dead, or after `timeout` seconds; at once if no other can come.

        One that is about to be replaced is waited for a moment: what is asked for with it would have to move soon.
        """
        await self._unanswered.replaced(timeout)
        deadline = asyncio.get_running_loop().time() + timeout
        while self._login.supply != "given" and self._tokens.dead(self.token.serial):
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return
            await self._tokens.changed_within(left)

    async def issue(self, mount: str, role: str, *, timeout: float) -> Lease:
        """Lease a new database role. Raises RoleNotFound, MountNotFound, BackendUnavailable besides the session's errors."""
        token = self.token
        asked_at = self._clock()
        work, path = partial(endpoints.issue, mount=mount, role=role), f"{mount}/creds/{role}"
        with self._unanswered.issuing(token.serial):
            issued = await self._ask(work, path, token, timeout, undo=_undo_issue)
        return Lease(
            id=issued.lease_id,
            credential=Credential(issued.data.username, issued.data.password),
            mount=mount,
            role=role,
            token_serial=token.serial,
            issued_at=asked_at,
            granted_at=asked_at,
            ttl=issued.ttl,
            default_ttl=issued.ttl,
            renewable=issued.renewable,
        )

    async def read_static(self, mount: str, role: str, *, timeout: float) -> tuple[Credential, float]:
        """The credential of a static role, which needs no lease, and the seconds until Vault changes the password.

        Raises RoleNotFound, MountNotFound besides the session's errors.
        """
        work, path = partial(endpoints.read_static, mount=mount, role=role), f"{mount}/static-creds/{role}"
        found = await self._ask(work, path, self.token, timeout)
        return Credential(found.username, found.password), max(0.0, found.ttl)

    async def renew(self, lease: Lease, increment: float, *, timeout: float) -> Lease:
        """Make the lease end `increment` seconds from now (whole seconds, rounded up), or sooner if Vault grants less.

        Raises LeaseLost, NotRenewable, BackendUnavailable besides the session's errors.
        """
        asked = math.ceil(increment)
        asked_at = self._clock()
        work = partial(endpoints.renew, lease_id=lease.id, increment=asked)
        extension = await self._ask(work, "sys/leases/renew", self.token, timeout)
        return lease.renewed(granted_at=asked_at, ttl=extension.ttl, asked=asked, renewable=extension.renewable)

    async def lookup(self, lease: Lease, *, timeout: float) -> float:
        """Seconds that the lease has left, by Vault's count. Raises LeaseLost."""
        return await self._ask(partial(endpoints.look_up, lease_id=lease.id), "sys/leases/lookup", self.token, timeout)

    async def revoke(self, lease: Lease, *, timeout: float) -> None:
        """Revoke the lease and drop its role now; no error where it is gone already. Raises BackendUnavailable, VaultRefused."""
        await self._ask(partial(endpoints.revoke, lease_id=lease.id), "sys/leases/revoke", self.token, timeout)

    async def check_token(self, *, timeout: float | None = None) -> bool:
        """False if the current token is dead; the session then logs in again. VaultUnavailable where nobody can tell now.

        One that never could look itself up is not taken for dead because it can't.
        """
        token = self.token
        asked_at = self._clock()
        sees = self._tokens.sees_itself(token.serial)
        work = endpoints.look_up_self if sees else endpoints.look_at_self
        try:
            seen = await self._ask(work, LOOK_SELF, token, self._timeout if timeout is None else timeout)
        except TokenInvalid:
            return False
        except PermissionDenied:
            self._tokens.believe()
            return True
        self._tokens.sight(token.serial)
        if self._login.supply != "proxied":
            self._tokens.see(token.serial, seen, asked_at)
        elif self._tokens.same(seen):
            self._tokens.prolong(token.serial, seen, asked_at)
        else:
            self._adopt(seen, asked_at)
        return True

    def recheck(self) -> None:
        """The clocks have parted: let `run` look the token up before anything else."""
        self._tokens.doubt()

    async def take_new_token(self) -> bool:
        """Log in with another token where the file holds one. Trouble with the file is raised only where the current one is dead."""
        if not isinstance(self._login, TokenFile):
            return False
        token = self.token
        try:
            secret = await self._calls.call(self._login.read, token=None, timeout=self._timeout)
        except VaultError:
            if self._tokens.dead(token.serial):
                raise
            return False
        if secret == token.secret:
            return False
        await self.log_in()
        return True

    async def forget(self, serial: int, *, timeout: float) -> bool:
        """Revoke an old token whose last lease is gone. False where asking again may help; `close` tries again in any case."""
        known = {token.serial: token for token in self._tokens.revocable()}
        if serial == self.token.serial:
            return True
        if self._unanswered.under_way(serial):
            return False
        error = await self._revoke_token(known[serial], timeout) if serial in known else None
        if error is None:
            self._tokens.forget(serial)
        return error is None or not error.transient

    async def close(self, *, timeout: float, revoke: bool = True) -> None:
        """Revoke the tokens that we logged in for and end the session, within `timeout` seconds even if Vault is down."""
        deadline = asyncio.get_running_loop().time() + timeout
        if revoke and not self._closed:
            # A lease that is issued to nobody any more is revoked with its token, so that has to live until then.
            await self._calls.settled(timeout=timeout * SETTLING)
            left = deadline - asyncio.get_running_loop().time()
            # One part of the time is kept for what is still under way.
            await asyncio.gather(*(self._revoke_token(token, left * 0.8) for token in self._tokens.revocable()))
        self._closed = True  # not before: one that is cancelled may be called again
        await self._calls.close(timeout=max(0.0, deadline - asyncio.get_running_loop().time()))

    async def log_in(self) -> Token:
        """Log in now; the new token is the current one from then on."""
        with self._circuit.passage(self._timeout):
            return await self._log_in()

    async def _log_in(self) -> Token:
        asked_at = self._clock()
        undo = _undo_login if self._login.supply == "repeatable" else None
        try:
            async with asyncio.timeout(self._timeout):
                work = await self._login.prepare()

            def call(seconds: float) -> Awaitable[Grant]:
                return self._calls.call(work, token=None, timeout=seconds, undo=undo)

            # Made again beside the first it has to give another token: the first one's is undone.
            again = undo is not None and self._login.repeats
            grant = await (self._circuit.carried(call, self._timeout, undone=True) if again else call(self._timeout))
            if undo and self._tokens.same(grant):
                raise LoginFailed(
                    f"the {self._login.method} login gave the same token again, which ends no later for it: it has to make a new one"
                )
        except TimeoutError:
            late = LoginFailed(f"the {self._login.method} login did not return within {self._timeout:g} s")
            self._answered(late)
            raise late from None
        except VaultError as error:
            self._answered(error)
            raise
        self._answered(None)
        token = self._adopt(grant, asked_at)
        if not grant.seen and token.uses is None:
            await self._look(token)
        return token

    async def _look(self, token: Token) -> None:
        """Whether it may look itself up, while it is new and so lives: where it may not, a 403 of that says nothing later on."""
        try:
            await self._calls.call(endpoints.look_at_self, token=token.secret, timeout=min(QUICK, self._timeout))
        except VaultUnavailable:
            if self._tokens.current is token:
                self._tokens.doubt()  # `run` looks again: it must not be taken for one that may not
        except VaultError:
            return
        else:
            self._tokens.sight(token.serial)

    def _adopt(self, grant: Grant, asked_at: Instant) -> Token:
        token = self._tokens.adopt(grant, asked_at)
        self._emit(TokenIssued(method=self._login.method, serial=token.serial, ttl_seconds=token.ttl, renewable=token.renewable))
        return token

    async def renew_token(self) -> Token:
        """Renew the current token now. Where it is dead or can't be renewed the returned one says so; transient trouble is raised."""
        token = self.token
        increment = self._tokens.increment(token)
        asked = None if increment is None else float(math.ceil(increment))
        asked_at = self._clock()
        timeout = call_timeout(token.end - asked_at, most=self._timeout)
        try:
            extension = await self._ask(partial(endpoints.renew_self, increment=asked), RENEW_SELF, token, timeout)
        except TokenInvalid:
            return self._tokens.of(token.serial)
        except VaultError as error:
            if error.transient:
                raise
            self._emit(
                TokenRenewalFailed(
                    method=self._login.method,
                    serial=token.serial,
                    error=str(error),
                    retry_in_seconds=None,
                    remaining_seconds=round(max(0.0, token.end - self._clock()), 3),
                )
            )
            return self._tokens.pin(token.serial)
        renewed = self._tokens.extend(token.serial, extension, granted_at=asked_at, asked=asked)
        self._emit(TokenRenewed(method=self._login.method, serial=token.serial, ttl_seconds=renewed.ttl, capped=renewed.capped))
        return renewed

    def lose_token(self, serial: int, why: str) -> None:
        """The token is dead, and every lease that it asked for with it."""
        if self._tokens.bury(serial):
            self._emit(TokenLost(method=self._login.method, serial=serial, why=why))

    async def _ask(
        self, work: Callable[[Client], T], path: str, token: Token, timeout: float, *, undo: Undo[T] | None = None
    ) -> T:
        tells = path != LOOK_SELF and self._rights.tell(token.serial, path)  # a refused look tells by itself, or not at all
        asked = partial(endpoints.telling_dead_from_denied, work) if tells else work

        def call(seconds: float) -> Awaitable[T]:
            return self._calls.call(asked, token=token.secret, timeout=seconds, undo=undo)

        with self._circuit.passage(timeout):
            timeout -= await self._turn(timeout / 2)
            try:
                result = await self._circuit.carried(call, timeout, undone=undo is not None)
            except VaultError as error:
                self._tokens.spend(token.serial, 2 if isinstance(error, (PermissionDenied, TokenInvalid)) else 1)
                self._answered(error)
                if isinstance(error, TokenInvalid):
                    self.lose_token(token.serial, str(error))
                raise
            self._tokens.spend(token.serial, 1)
            self._rights.note(path)
            self._answered(None)
            return result

    async def _turn(self, most: float) -> float:
        """Wait until it is this call's turn, `most` seconds at most. The seconds waited."""
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now - BURST / RATE) + 1 / RATE
        wait = min(max(0.0, self._free_at - now), most)
        if wait > 0:
            await asyncio.sleep(wait)
        return wait

    def _answered(self, error: VaultError | None) -> None:
        self.last_error = error
        if isinstance(error, VaultUnavailable):
            self._circuit.failed(error)
        elif not isinstance(error, LoginFailed):  # which may come from a file, before Vault was asked
            self._circuit.answered()

    async def _probe(self, timeout: float) -> bool:
        """Vault answers this, be it with a no. A look at the token shows that it serves requests, and not only that it runs."""
        token = self._tokens.lasting
        try:
            if token is None:
                await self._calls.call(endpoints.ask_health, token=None, timeout=timeout)
            else:
                await self._calls.call(endpoints.look_up_self, token=token.secret, timeout=timeout)
                self._tokens.sight(token.serial)
        except VaultUnavailable:
            raise
        except TokenInvalid as error:
            if token is not None and self._tokens.sees_itself(token.serial):
                self.lose_token(token.serial, str(error))
        except VaultError:
            pass  # an answer all the same
        return token is not None

    async def _revoke_token(self, token: Token, timeout: float) -> VaultError | None:
        """What it failed with, if it failed."""
        try:
            await self._calls.call(endpoints.revoke_self, token=token.secret, timeout=timeout)
        except VaultError as error:
            self._answered(error)
            self._emit(TokenRevocationFailed(method=self._login.method, serial=token.serial, error=str(error)))
            return error
        self._emit(TokenRevoked(method=self._login.method, serial=token.serial))
        return None


def _undo_issue(client: Client, issued: Issued) -> None:
    endpoints.revoke(client, issued.lease_id)


def _undo_login(client: Client, grant: Grant) -> None:
    if grant.revocable:
        client.token = grant.secret.get_secret_value()
        endpoints.revoke_self(client)
