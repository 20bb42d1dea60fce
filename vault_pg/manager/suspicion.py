"""Is the credential that serves still alive? Asked when something makes it doubtful, once for all who doubt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from vault_pg.clock import Instant
from vault_pg.errors import CredentialRejected, LeaseLost, VaultPgError
from vault_pg.lease import Lease
from vault_pg.manager.renewal import Renewal
from vault_pg.manager.tenure import Tenure
from vault_pg.pool import prove_login
from vault_pg.schedule import backoff, call_timeout
from vault_pg.source import LooksUp

ONCE_IN = 1.0
"""Seconds between two investigations: a thousand clients that fail at once are one doubt."""

LONGEST = 60.0
"""The same, where one after the other came to nothing: a plain lack of privilege must not ask Vault every second for ever."""

SILENT = 10.0
"""Seconds that PostgreSQL has for its answer, or half of what is left before the horizon: one that is silent after the login must not
keep a lease from being renewed."""


@dataclass(eq=False, slots=True)
class _Pace:
    """Of one kind of sign: how often in a row it came to nothing, and when it was last looked into."""

    fruitless: int = 0
    latest: Instant = float("-inf")

    @property
    def due(self) -> Instant:
        return self.latest + min(LONGEST, ONCE_IN * 2.0 ** min(max(0, self.fruitless - 1), 16))

    def came_to(self, found: bool, at: Instant) -> None:
        self.fruitless, self.latest = 0 if found else self.fruitless + 1, at


class Suspicion:
    """A suspend, a clock leap, a login that failed, or a query that failed for want of a right or of the role itself.

    Open sessions outlive the role: `SELECT 1` works on them while every table read fails with 42501. But 42501 may be just what it
    says, so Vault is asked, and then PostgreSQL, before anything is rotated. A refused login says more, and waits for none of those.
    """

    def __init__(self, tenure: Tenure, renewal: Renewal) -> None:
        self._tenure = tenure
        self._renewal = renewal
        self._pending = False
        self._asked_at: Instant = float("-inf")
        self._uncounted = False
        """The lease may have less left than we believe, and its source has not told yet."""
        self._unanswered = 0
        self._denied, self._rejected = _Pace(), _Pace()
        self._raised: set[_Pace] = set()
        """Those of what is pending."""
        self._beside = False
        self._looking: asyncio.Task[None] | None = None
        self.crowded: Callable[[], bool] = lambda: False
        """PostgreSQL is not to be asked: the connections that there may be are needed."""

    @property
    def pending(self) -> bool:
        return self._pending

    def raise_(self, *, rejected: bool = False) -> None:
        """Let the keeper look into it soon. `rejected`: PostgreSQL has refused a login."""
        pace = self._rejected if rejected else self._denied
        if self._tenure.lost is not None or self._tenure.refused_since is not None:
            return
        if pace in self._raised:
            return
        if self._tenure.clock() - pace.latest > 2 * LONGEST:
            pace.fruitless = 0
        self._pending = True
        self._raised.add(pace)
        self._tenure.wake()
        self._begin()

    @asynccontextmanager
    async def beside(self) -> AsyncIterator[None]:
        """Around a renewal or a rotation, which may take its time: what is raised meanwhile is looked into beside it."""
        self._beside = True
        self._begin()
        try:
            yield
        finally:
            self._beside = False
            if (looking := self._looking) is not None:
                self._looking = None
                looking.cancel()
                await asyncio.wait([looking])
                if not looking.cancelled():
                    looking.result()

    def _begin(self) -> None:
        if self._beside and self._pending and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look(), name=f"vault-pg-doubt-{self._tenure.name}")

    async def _look(self) -> None:
        while self._pending:
            if (wait := self.due_in) > 0:
                await asyncio.sleep(min(wait, ONCE_IN))  # it may come to be due sooner
            else:
                await self.investigate()

    def distrust_clocks(self, after: float) -> None:
        """The same in `after` seconds, and until the source has told how much is left: our own count of it may be wrong."""
        self._uncounted, self._unanswered, self._asked_at = True, 0, self._tenure.clock() + after - ONCE_IN
        self._denied, self._rejected = _Pace(), _Pace()
        self._raised.clear()
        self.raise_()

    @property
    def due_in(self) -> float:
        """Seconds until it may be looked into."""
        if self._unanswered:
            due = self._asked_at + max(ONCE_IN, backoff(self._unanswered, 1.0, left=self._tenure.patience))
        else:
            due = max(self._asked_at + ONCE_IN, min((pace.due for pace in self._raised), default=0.0))
        return max(0.0, due - self._tenure.clock())

    async def investigate(self) -> None:
        """Ask the source whether the lease lives, and PostgreSQL whether the role does; declare it lost if either says no.

        Where open sessions outlive their password a refused login says no more than that the source may have another.
        """
        lease, looked, asked_at = self._tenure.lease, self._raised, self._tenure.clock()
        self._pending, self._raised, self._asked_at = False, set(), asked_at
        if lease is None:
            return
        try:
            found = await self._ask_source(lease, asked_at)
            if found is None and self.crowded():
                self._pending = True
            elif found is None:
                found = await self._ask_postgres(lease)
        except asyncio.CancelledError:
            self._pending, self._raised = True, self._raised | looked
            raise
        for pace in looked:
            pace.came_to(bool(found), asked_at)
        if self._pending:
            self._raised |= looked

    async def _ask_source(self, lease: Lease, asked_at: Instant) -> bool | None:
        """Whether something was found; None where PostgreSQL is to be asked too."""
        tenure = self._tenure
        try:
            await self._look_up(lease)
        except VaultPgError as error:
            if not self._serves(lease):
                return False
            if self._renewal.is_fatal(error):
                if tenure.lease is not lease and tenure.lease is not None and tenure.lease.granted_at >= asked_at:
                    return False  # it was renewed since that was asked
                self._renewal.lose(error)
                return True
            if self._uncounted and self._renewal.may_pass(error):
                self._pending = True
                self._unanswered += 1
            if isinstance(error, LeaseLost):
                self._pending = True  # so new that it may not be known everywhere yet
            # It can't tell now, or not this token; PostgreSQL can.
        return None

    async def _ask_postgres(self, lease: Lease) -> bool:
        """Whether something was found."""
        tenure = self._tenure
        try:
            await prove_login(lease.credential, tenure.settings, within=call_timeout(tenure.left, most=SILENT))
        except CredentialRejected as error:
            if not self._serves(lease):
                return False
            if lease.outlived:
                tenure.rejected = tenure.lease is lease
                tenure.ask_again("PostgreSQL refuses a login with its password")
            else:
                self._renewal.lose(error)
            return True
        except VaultPgError:
            pass  # not the credential's fault
        return False

    def _serves(self, lease: Lease) -> bool:
        """Its credential is the one that serves still, and is not known to be lost."""
        now = self._tenure.lease
        return now is not None and now.credential == lease.credential and self._tenure.lost is None

    async def _look_up(self, lease: Lease) -> None:
        """Raises VaultPgError, LeaseLost among them."""
        tenure = self._tenure
        if isinstance(tenure.source, LooksUp):
            timeout, asked_at = call_timeout(tenure.left, most=tenure.vault_timeout), tenure.clock()
            async with tenure.asking(timeout):
                left = await tenure.source.lookup(lease, timeout=timeout)
            if isinstance(left, int | float):
                self._renewal.count(lease, asked_at, left)
        self._uncounted, self._unanswered = False, 0
