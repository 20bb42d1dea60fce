"""Is the credential that serves still alive? Asked when something makes it doubtful, once for all who doubt."""

from __future__ import annotations

from vault_pg.clock import Instant
from vault_pg.errors import CredentialRejected, VaultPgError
from vault_pg.lease import Lease
from vault_pg.manager.renewal import Renewal
from vault_pg.manager.tenure import Tenure
from vault_pg.pool import prove_login
from vault_pg.schedule import backoff, call_timeout
from vault_pg.source import LooksUp

ONCE_IN = 1.0
"""Seconds between two investigations: a thousand clients that fail at once are one doubt."""


class Suspicion:
    """A suspend, a clock leap, a login that failed, or a query that failed for want of a right or of the role itself.

    Open sessions outlive the role: `SELECT 1` works on them while every table read fails with 42501. But 42501 may be just what it
    says, so Vault is asked, and then PostgreSQL, before anything is rotated.
    """

    def __init__(self, tenure: Tenure, renewal: Renewal) -> None:
        self._tenure = tenure
        self._renewal = renewal
        self._pending = False
        self._asked_at: Instant = float("-inf")
        self._uncounted = False
        """The lease may have less left than we believe, and its source has not told yet."""
        self._unanswered = 0

    @property
    def pending(self) -> bool:
        return self._pending

    def raise_(self) -> None:
        """Let the keeper look into it soon."""
        if not self._pending and self._tenure.lost is None and self._tenure.refused_since is None:
            self._pending = True
            self._tenure.wake()

    def distrust_clocks(self, after: float) -> None:
        """The same in `after` seconds, and until the source has told how much is left: our own count of it may be wrong."""
        self._uncounted, self._unanswered, self._asked_at = True, 0, self._tenure.clock() + after - ONCE_IN
        self.raise_()

    @property
    def due_in(self) -> float:
        """Seconds until it may be looked into."""
        return max(0.0, self._asked_at + self._pause - self._tenure.clock())

    @property
    def _pause(self) -> float:
        if not self._unanswered:
            return ONCE_IN
        return max(ONCE_IN, backoff(self._unanswered, 1.0, left=self._tenure.patience))

    async def investigate(self) -> None:
        """Ask the source whether the lease lives, and PostgreSQL whether the role does; declare it lost if either says no.

        Where open sessions outlive their password a refused login says no more than that the source may have another.
        """
        tenure, lease = self._tenure, self._tenure.lease
        self._pending, self._asked_at = False, tenure.clock()
        if lease is None:
            return
        try:
            await self._look_up(lease)
        except VaultPgError as error:
            if self._renewal.is_fatal(error):
                self._renewal.lose(error)
                return
            if self._uncounted and self._renewal.may_pass(error):
                self._pending = True
                self._unanswered += 1
            # It can't tell now, or not this token; PostgreSQL can.
        try:
            await prove_login(lease.credential, tenure.settings)
        except CredentialRejected as error:
            if lease.outlived:
                tenure.rejected = tenure.lease is lease
                tenure.ask_again("PostgreSQL refuses a login with its password")
            else:
                self._renewal.lose(error)
        except VaultPgError:
            pass  # not the credential's fault

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
