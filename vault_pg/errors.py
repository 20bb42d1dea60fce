"""Everything that can go wrong, as one tree.

    VaultPgError
    ├── SettingsError            bad settings; every mistake of one start at once
    ├── NotRunning               `get_pool()` with no manager running
    ├── NoCredential             no credential that works: checkouts are refused until there is one (of a pool: CheckoutRefused,
    │                            which is psycopg's OperationalError too)
    ├── SourceError              a file or a function that the credential comes from gives none now (transient)
    │   └── SourceBroken         the code of a source is wrong: nothing but another code helps
    ├── TooSlow                  a new credential has ended before it could serve (transient)
    ├── CommitOutcomeUnknown     the connection was lost between COMMIT and its answer
    ├── EndpointError            the status socket can't be served or its directory can't be trusted
    ├── VaultError
    │   ├── VaultUnavailable     Vault cannot answer now; asking again later may work (transient)
    │   │   └── VaultSealed
    │   ├── BackendUnavailable   Vault answers, the database behind it does not (transient)
    │   ├── LoginFailed          Vault refuses the login
    │   ├── TokenInvalid         the token is dead, and its leases with it
    │   ├── PermissionDenied     the token lives, its policy lacks a right
    │   ├── RoleNotFound
    │   ├── MountNotFound
    │   ├── LeaseLost            Vault no longer knows the lease
    │   ├── NotRenewable         this lease or token cannot be renewed, ever
    │   └── VaultRefused         any other refusal
    └── DatabaseError
        ├── DatabaseUnavailable  PostgreSQL cannot be reached now (transient)
        ├── CredentialRejected   PostgreSQL refuses the login (a replica may not have the role yet: transient)
        ├── DatabaseNotFound
        └── ProofFailed          logged in, but the proof of a new pool failed

Messages are sentences for the reader of a log at 3 a.m.; none carries a password or a token.
"""

from __future__ import annotations

from typing import ClassVar


class VaultPgError(Exception):
    """Root of all errors of vault_pg."""

    transient: ClassVar[bool] = False
    """True where the same call may work later with nothing changed by the user."""
    in_doubt: bool = False
    """What was asked may have been done all the same: the request went out, and no answer came back that says so."""


class SettingsError(VaultPgError):
    """The settings cannot be used; `mistakes` has a sentence for each mistake."""

    def __init__(self, *mistakes: str) -> None:
        self.mistakes = mistakes
        super().__init__("; ".join(mistakes))


class NotRunning(VaultPgError):
    """No LeaseManager runs in this process, none that keeps this database, or it runs in another process or event loop."""


def astray(what: str) -> str:
    """What to tell whoever uses something of one event loop in another."""
    return (
        f"{what} belongs to another event loop, and cannot be used in this one: hand the work over to that with "
        "asyncio.run_coroutine_threadsafe(), or enter a LeaseManager(shared=False) in each loop and use its own get_pool()"
    )


class NoCredential(VaultPgError):
    """There is no credential that works; the message says for which role, since when and why.

    A checkout raises it as `CheckoutRefused`, which logs show: that is a psycopg.OperationalError too. Catch this one.
    """


class TooSlow(VaultPgError):
    """A new credential has ended before it could serve: Vault, PostgreSQL or this machine takes longer than its lease lives."""

    transient = True


class SourceError(VaultPgError):
    """A source other than Vault gives no credential now. Sources of yours raise it to have their own words in the log."""

    transient = True
    in_doubt = True


class SourceBroken(SourceError):
    """A source of the user's own has a mistake in its code, or gives what is no credential. A start does not wait for it to pass."""

    transient = False


class CommitOutcomeUnknown(VaultPgError):
    """COMMIT was sent and its answer never came: the transaction may be committed or not. Only the database knows."""


class EndpointError(VaultPgError):
    """The status socket can't be served, or its directory can't be trusted."""


class VaultError(VaultPgError):
    """Vault was asked and the answer was not the one we need."""


class VaultUnavailable(VaultError):
    """Vault cannot answer now. `retry_after` (seconds) is Vault's own wish, where it told one.

    `hopeless`: nothing but a changed setting helps (what was asked is no Vault, speaks no TLS, ...), so a start need not wait for it.
    """

    transient = True

    def __init__(self, message: str, *, retry_after: float | None = None, hopeless: bool = False, in_doubt: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.hopeless = hopeless
        self.in_doubt = in_doubt


class VaultSealed(VaultUnavailable):
    """Vault is sealed: it answers nothing until an operator unseals it."""


class BackendUnavailable(VaultError):
    """Vault answers, but its own connection to the database fails."""

    transient = True


class LoginFailed(VaultError):
    """Vault refuses the login."""


class TokenInvalid(VaultError):
    """Vault does not know the token (expired, revoked or mistyped)."""


class PermissionDenied(VaultError):
    """The token is alive but its policy does not allow `capability` on `path`."""

    def __init__(self, message: str, *, path: str, capability: str) -> None:
        super().__init__(message)
        self.path = path
        self.capability = capability


class RoleNotFound(VaultError):
    """The database mount has no such role."""


class MountNotFound(VaultError):
    """No secrets engine is mounted at this path."""


class LeaseLost(VaultError):
    """Vault no longer knows the lease: its PostgreSQL role is gone, or soon will be.

    Import it as `vault_pg.errors.LeaseLost`: `vault_pg.LeaseLost` is the event that tells of it. Sources raise it, services see the event.
    """


class NotRenewable(VaultError):
    """This lease or token can't be renewed, now or later."""


class VaultRefused(VaultError):
    """Vault refused for a reason that asking again won't change."""


class DatabaseError(VaultPgError):
    """PostgreSQL could not be used with a new credential."""


class DatabaseUnavailable(DatabaseError):
    """PostgreSQL cannot be reached, is starting or stopping, or has no slot left."""

    transient = True

    def __init__(self, message: str, *, too_many_clients: bool = False) -> None:
        super().__init__(message)
        self.too_many_clients = too_many_clients


class CredentialRejected(DatabaseError):
    """PostgreSQL refuses user name and password. On a replica the role may be late, hence transient."""

    transient = True


class DatabaseNotFound(DatabaseError):
    """The database named in the conninfo does not exist, or its name is refused."""


class ProofFailed(DatabaseError):
    """The login worked; the probe or the filling of the pool did not."""
