"""The loop that keeps the session's token alive: renew it, replace it before it must end, log in again when it died."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from vault_pg.clock import Clock, Instant
from vault_pg.errors import VaultError, VaultUnavailable
from vault_pg.events import Listener, TokenEnding, TokenRenewalFailed
from vault_pg.lease import Token
from vault_pg.schedule import BACKOFF_CAP, Limits, backoff, renew_point, rotate_point
from vault_pg.vault.logins import Supply
from vault_pg.vault.tokens import Tokens

NAP = 10.0
"""Seconds. The loop's clock stands still while the machine sleeps, so the lease clock is looked at again this often."""

TICK = 0.001
"""Seconds. Two clocks never agree to the last digit; this close an instant has come."""

LOOK_AGAIN = 1.0
"""Seconds between two looks at a token that should have ended."""

SHORTEST_GLANCE = 0.2
"""Seconds between two looks at a file, however short its tokens live."""

NEVER = float("inf")

Deed: TypeAlias = Literal["renew", "log in", "look up", "warn"]


@dataclass(frozen=True, slots=True)
class TokenStep:
    at: Instant
    deed: Deed


def token_step(token: Token, *, dead: bool, supply: Supply, now: Instant, draw: float, lead: float) -> TokenStep:
    """What the token needs next, and when. `supply`: where the next one comes from; `lead`: seconds that leases need to move."""
    step = _regular_step(token, dead=dead, supply=supply, now=now, draw=draw, lead=lead)
    at = token.replace_at
    # What is due stands above it: a login that fails again and again must not keep the token from being renewed.
    if supply != "repeatable" or at is None or step.at <= max(now, at):
        return step
    return TokenStep(max(now, at), "log in")


def _regular_step(token: Token, *, dead: bool, supply: Supply, now: Instant, draw: float, lead: float) -> TokenStep:
    repeatable = supply == "repeatable"
    if dead:
        return TokenStep(now, "log in") if repeatable or supply == "proxied" else TokenStep(NEVER, "look up")
    if repeatable and token.worn:
        return TokenStep(now, "log in")
    if supply == "proxied" and token.ttl is not None:
        # The agent renews and replaces it: look in time for leases to move, and each time less is left sooner again.
        return TokenStep(renew_point(token.granted_at, token.ttl, draw), "look up")
    if token.extendable and now < token.end:
        return TokenStep(renew_point(token.granted_at, token.ttl or 0.0, draw, first=token.asked is None), "renew")
    if token.ttl is None:
        return TokenStep(NEVER, "look up")
    if repeatable:
        if token.asked is None:
            lead = min(lead, token.ttl / 2)  # of a whole life: the next token would else be in the same hurry, and so on for ever
        return TokenStep(rotate_point(token.granted_at, token.end, lead, draw), "log in")
    # Nothing moves its end, but somebody else may have renewed it meanwhile.
    return TokenStep(token.end, "look up")


class TokenDesk(Protocol):
    """The calls that the loop makes; all update the tokens and tell the listeners. They raise VaultError."""

    async def log_in(self) -> object: ...

    async def renew_token(self) -> object:
        """Also where the token turns out to be dead or not renewable, which the tokens then say."""
        ...

    async def check_token(self) -> bool: ...

    async def take_new_token(self) -> bool:
        """Where somebody else supplies the tokens: whether another one came, which then is the current one."""
        ...

    def lose_token(self, serial: int, why: str) -> None: ...

    def waking(self, wake: Callable[[], object]) -> AbstractContextManager[None]:
        """Around a wait after a failure: `wake()` is called when Vault is back."""
        ...


class Keepalive:
    """Runs for ever, and survives any trouble of Vault's."""

    def __init__(
        self,
        desk: TokenDesk,
        tokens: Tokens,
        *,
        method: str,
        supply: Supply,
        emit: Listener,
        clock: Clock,
        draw: Callable[[], float],
    ) -> None:
        self._desk = desk
        self._tokens = tokens
        self._method = method
        self._supply = supply
        self._emit = emit
        self._clock = clock
        self._draw = draw
        self._drawn: tuple[Token | None, float] = (None, 0.0)
        self._logged_in_at = clock()
        self._short_lived = 0
        self._mourned = 0
        self._refused: tuple[int, str] | None = None
        """The token that was to be replaced, and why no login will do it, however often it is tried."""
        self._warned: tuple[int, Instant] | None = None

    async def run(self) -> None:
        failures = 0
        while True:
            step = self._next()
            try:
                if not await self._changed_before(step.at):
                    await self._take(step)
            except VaultError as error:
                failures += 1
                with self._desk.waking(self._tokens.wake):
                    await self._tokens.changed_within(self._wait_after(error, failures))
            else:
                failures = 0

    @property
    def refused(self) -> str | None:
        """Why the current token cannot be replaced; None where nobody tried, or another try may work."""
        serial, why = self._refused or (None, None)
        return why if serial == self._tokens.current.serial else None

    def _next(self) -> TokenStep:
        token = self._tokens.current
        if self._drawn[0] is not token:  # one draw for each grant, however often it is looked at
            self._drawn = (token, self._draw())
        now = self._clock()
        step = token_step(
            token,
            dead=self._tokens.dead(token.serial),
            supply=self._supply,
            now=now,
            draw=self._drawn[1],
            lead=Limits().lead,
        )
        if self._tokens.doubted and now < token.end and not self._tokens.dead(token.serial):
            # A renewal that is due, or a login, tells as much: look-ups that fail must not keep the token from it.
            return step if step.at <= now else TokenStep(now, "look up")
        if self._supply == "given" and step.deed == "look up" and now < token.end < NEVER:
            warning = TokenStep(renew_point(token.granted_at, token.ttl or 0.0, 1.0), "warn")
            return step if self._warned == (token.serial, token.end) else warning
        return step

    async def _changed_before(self, at: Instant) -> bool:
        """Wait until then. True where the token changed meanwhile, also by a new one that somebody else supplied."""
        watched, version = self._supply == "watched", self._tokens.version
        while (left := at - self._clock()) > TICK:
            nap = self._glance if watched else NAP
            if await self._tokens.changed_within(min(left, nap) if at < NEVER or watched else None):
                return True
            # A token that dies while the file is read has changed as well.
            if watched and (await self._desk.take_new_token() or self._tokens.version != version):
                return True
        return False

    @property
    def _glance(self) -> float:
        """Seconds between two looks at the file that tokens come in: more often where they live for seconds, or none lives."""
        token = self._tokens.current
        if self._tokens.dead(token.serial):
            return LOOK_AGAIN
        return NAP if token.ttl is None else min(NAP, max(SHORTEST_GLANCE, token.ttl / 10))

    async def _take(self, step: TokenStep) -> None:
        if step.deed == "renew":
            await self._desk.renew_token()
        elif step.deed == "look up":
            await self._look_up()
        elif step.deed == "warn":
            self._warn()
        else:
            await self._log_in()

    def _warn(self) -> None:
        token = self._tokens.current
        self._warned = (token.serial, token.end)
        left = max(0.0, token.end - self._clock())
        self._emit(TokenEnding(method=self._method, serial=token.serial, remaining_seconds=round(left, 3)))

    async def _look_up(self) -> None:
        if await self._desk.check_token() and self._clock() >= self._tokens.current.end:
            await self._tokens.changed_within(LOOK_AGAIN)  # in its last second

    async def _log_in(self) -> None:
        token = self._tokens.current
        if self._clock() >= token.end:
            self._desk.lose_token(token.serial, "it ended before it could be renewed or replaced")
        if self._tokens.dead(token.serial) and token.serial != self._mourned:
            self._mourned = token.serial
            await self._mourn()
        try:
            await self._desk.log_in()
        except VaultError as error:
            if not error.transient:
                self._tokens.spare(token.serial)
                self._refused = (token.serial, str(error))
            raise
        self._logged_in_at = self._clock()

    async def _mourn(self) -> None:
        """Tokens that die right after each login (of few uses, say) must not make us log in in a hot loop."""
        lived = self._clock() - self._logged_in_at
        self._short_lived = self._short_lived + 1 if lived < BACKOFF_CAP else 0
        if self._short_lived > 1:
            await self._tokens.changed_within(backoff(self._short_lived, self._draw(), left=NEVER))

    def _wait_after(self, error: VaultError, failures: int) -> float:
        token = self._tokens.current
        left = token.end - self._clock()
        retry_after = error.retry_after if isinstance(error, VaultUnavailable) else None
        wait = backoff(failures, self._draw(), retry_after=retry_after, left=left)
        self._emit(
            TokenRenewalFailed(
                method=self._method,
                serial=token.serial,
                error=str(error),
                attempt=failures,
                retry_in_seconds=round(wait, 3),
                remaining_seconds=round(max(0.0, left), 3) if left < NEVER else None,
            )
        )
        return wait
