"""Where credentials come from, as far as anybody else has to know."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from vault_pg.errors import NotRenewable, VaultPgError
from vault_pg.lease import Grant, Lease


@runtime_checkable
class CredentialSource(Protocol):
    """Gives credentials, and may renew and revoke them. Derive a class from it, or write one that looks like it.

    Every call has `timeout` seconds, and is cancelled after that. Failures are VaultPgErrors: SourceError where asking again may help;
    what else is raised counts as one. No secret may stand in them. The methods of LooksUp and Watches are called where they are there.
    """

    async def issue(self, *, timeout: float) -> Grant:
        """The credential to use now: a new one, or what stands there. Of one user name with another password, that is exchanged
        beneath the open pool; for another user name a new pool is built.
        """
        ...

    async def renew(self, lease: Lease, increment: float, *, timeout: float) -> Grant:  # noqa: ARG002 - for those who can
        """The same credential with `increment` seconds to live from now, or fewer. Asked only where the grant was `renewable`."""
        raise NotRenewable(f"the credential of {lease.credential.username!r} cannot be renewed")

    async def revoke(self, lease: Lease, *, timeout: float) -> None:  # noqa: ARG002 - for those who can
        """End the lease now; no error where it is gone already. Asked only where the grant had a `lease_id`."""
        raise VaultPgError(f"the credential of {lease.credential.username!r} cannot be revoked: its source has no revoke()")


@runtime_checkable
class LooksUp(Protocol):
    """A source that knows whether a lease of it lives."""

    async def lookup(self, lease: Lease, *, timeout: float) -> float | None:
        """The seconds that it has left, or None if that is not known. Raises LeaseLost where it no longer lives."""
        ...


@runtime_checkable
class Watches(Protocol):
    """A source whose credential may change at any time."""

    async def watch(self) -> None:
        """Return once it may be another than the one issued last; then that is asked for. Waits a while before it looks."""
        ...
