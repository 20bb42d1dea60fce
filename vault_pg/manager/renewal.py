"""How a lease is renewed, and what is made of every way that can fail."""

from __future__ import annotations

import asyncio
import math

from tenacity import RetryCallState

from vault_pg import schedule
from vault_pg.clock import Instant
from vault_pg.errors import LeaseLost as LeaseIsLost
from vault_pg.errors import TokenInvalid, VaultPgError
from vault_pg.events import LeaseCorrected, LeaseLost, LeaseRenewed, RenewalFailed
from vault_pg.lease import COUNT_SLACK, Lease
from vault_pg.manager.ledger import Ledger
from vault_pg.manager.tenure import UNRENEWED, Tenure, failure, transient

LATE = 1 / 3
"""While renewals fail, this part of what is left is kept for a rotation, unless the user's own lead is shorter."""


PAUSE = 0.25
"""Seconds between two looks at a lease that is kept alive beside a rotation."""


class Renewal:
    """Renews the lease of a tenure."""

    def __init__(self, tenure: Tenure, ledger: Ledger) -> None:
        self._tenure = tenure
        self._ledger = ledger

    async def run(self) -> None:
        """Renew, trying again while a rotation could still come in time. Whatever can't be renewed is left to be rotated."""
        tenure = self._tenure
        give_up_at = tenure.horizon - min(tenure.limits.lead, tenure.left * LATE)

        def out_of_time() -> bool:
            return tenure.clock() >= give_up_at

        def give_up() -> bool:
            return out_of_time() or tenure.lost is not None or bool(tenure.asked)

        try:
            async for attempt in tenure.retrying(self._failed, give_up=give_up, worth=self.may_pass):
                with attempt:
                    await self.once()
        except VaultPgError as error:
            if self.is_fatal(error):
                self.lose(error)
                return
            tenure.note(error)
            if tenure.lease is None or not (out_of_time() or not self.may_pass(error)):
                return
            self._tell_failed(error, attempt=attempt.retry_state.attempt_number, wait=None)
            if self.may_pass(error):
                tenure.due = tenure.due or UNRENEWED  # it can be renewed still, beside the rotation: that answers no news
            else:
                tenure.lease = tenure.lease.unrenewable()

    def is_fatal(self, error: BaseException, lease: Lease | None = None) -> bool:
        """The lease (the one that serves, if none is given) is gone.

        A dead token says so only where it is the lease's own: a later one may ask for it, and die, too.
        """
        lease, session = lease or self._tenure.lease, self._tenure.session
        if isinstance(error, TokenInvalid):
            return lease is None or session is None or session.is_dead(lease.token_serial)
        return isinstance(error, LeaseIsLost) and not (lease is not None and self._tenure.is_fresh(lease))

    def may_pass(self, error: BaseException, lease: Lease | None = None) -> bool:
        """Asking again may help: also where the token is dead, and soon followed by another, but the lease is not."""
        return not self.is_fatal(error, lease) and (transient(error) or isinstance(error, (TokenInvalid, LeaseIsLost)))

    async def once(self) -> None:
        """One attempt. Raises VaultError."""
        tenure, before = self._tenure, self._tenure.lease
        if before is None or tenure.lost is not None:
            return
        lease = await self._extended(before, tenure.left)
        if tenure.lease is before and tenure.lost is None:  # else it was replaced, or found lost, while it was being renewed
            tenure.adopt(lease)
            self._tell_renewed(lease, before)

    async def _extended(self, before: Lease, left: float) -> Lease:
        """The lease as renewed; `left` seconds are left for that."""
        tenure, asked_at = self._tenure, self._tenure.clock()
        asked = float(math.ceil(schedule.increment(before, asked_at, tenure.limits.increment)))
        timeout = schedule.call_timeout(left, most=tenure.vault_timeout)
        with self._ledger.renewing(before, asked):
            async with tenure.asking(timeout):
                grant = await tenure.source.renew(before, asked, timeout=timeout)
        lease = before.renewed(granted_at=asked_at, ttl=grant.ttl, asked=asked, renewable=grant.renewable)
        self._ledger.renewed(lease)
        return lease

    def _tell_renewed(self, lease: Lease, before: Lease) -> None:
        left = before.end - lease.granted_at
        self._tenure.tell(LeaseRenewed, lease, remaining_seconds=round(left, 3), ttl_seconds=lease.ttl, capped=lease.capped)

    async def keep_new(self, lease: Lease) -> None:
        """Beside the building of its pool: a lease that does not serve yet would else be dead by then, where building is slow."""
        tenure, failures = self._tenure, 0
        draw = tenure.draw()
        while lease.renewable and not lease.capped and lease.ttl < math.inf:
            due = schedule.renew_point(lease.granted_at, lease.ttl, draw, first=not lease.renewals) - tenure.clock()
            await asyncio.sleep(
                max(due, schedule.backoff(failures, draw, left=lease.end - tenure.clock()) if failures else PAUSE)
            )
            try:
                before, lease = lease, await self._extended(lease, lease.end - tenure.clock())
            except VaultPgError as error:
                failures += 1
                if not self.may_pass(error, lease):
                    return
            else:
                failures = 0
                self._tell_renewed(lease, before)

    async def keep_alive(self) -> None:
        """Beside a rotation, for as long as that takes: renew the lease when its time has come, for it is all that serves."""
        tenure, failures, wait = self._tenure, 0, PAUSE
        while True:
            await asyncio.sleep(max(wait, tenure.until_renewal))
            wait = PAUSE
            if not tenure.due_for_renewal:
                continue
            failed = await self._keep_alive_once()
            failures = 0 if failed is None else failures + 1
            if failed is not None:
                retry_after = getattr(failed, "retry_after", None)
                wait = schedule.backoff(failures, tenure.draw(), left=tenure.patience, retry_after=retry_after)

    async def _keep_alive_once(self) -> VaultPgError | None:
        """What it failed with, if it failed."""
        tenure = self._tenure
        lease, error, since, retry = tenure.lease, tenure.last_error, tenure.failed_since, tenure.retry
        try:
            await self.once()
        except VaultPgError as failed:
            # Of one that was replaced meanwhile it says nothing of the one that serves.
            if self._same(lease) and self.is_fatal(failed):
                self.lose(failed)  # any other is told already: it is the rotation's own
            return failed
        if self._same(lease):  # else the rotation has worked meanwhile, and what failed before is over
            tenure.last_error, tenure.failed_since, tenure.retry = error, since, retry
        return None

    def _same(self, lease: Lease | None) -> bool:
        """The lease that serves is this one still, perhaps renewed."""
        now = self._tenure.lease
        return now is not None and lease is not None and now.credential == lease.credential

    def count(self, lease: Lease, asked_at: Instant, left: float) -> None:
        """Take the source's own count of what is left, if that is less than ours: there was a pause that no clock of ours has seen.

        Asked at `asked_at`, it says nothing of a renewal that was granted since.
        """
        tenure, late = self._tenure, lease.end - (self._tenure.clock() + left)
        if tenure.lease is not lease or tenure.lost is not None or late <= COUNT_SLACK:
            return
        corrected = lease.ending_at(asked_at + left)
        self._ledger.renewed(corrected)
        tenure.correct(corrected)
        tenure.tell(LeaseCorrected, corrected, remaining_seconds=round(left, 3), sooner_seconds=round(late, 3))

    def lose(self, error: VaultPgError) -> None:
        """The credential is dead. Its lease is revoked all the same once its pool is closed: Vault may hold it, for want of a role."""
        tenure = self._tenure
        tenure.note(error)
        tenure.lose("the lease is lost")
        if tenure.lease is not None:
            tenure.tell(LeaseLost, tenure.lease, why=str(error))

    def _failed(self, state: RetryCallState) -> None:
        error, wait = failure(state), state.upcoming_sleep
        self._tenure.note(error)
        self._tenure.retry = (self._tenure.clock() + wait, "the renewal failed")
        self._tell_failed(error, attempt=state.attempt_number, wait=wait)

    def _tell_failed(self, error: BaseException, *, attempt: int, wait: float | None) -> None:
        if (lease := self._tenure.lease) is not None:
            self._tenure.tell(
                RenewalFailed,
                lease,
                error=str(error),
                attempt=attempt,
                retry_in_seconds=None if wait is None else round(wait, 3),
                remaining_seconds=round(self._tenure.left, 3),
            )
