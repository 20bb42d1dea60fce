"""Events: frozen facts about what happened, the raw material of logs, metrics and tests. None carries a secret."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import ClassVar, TypeAlias


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened; `name` is what the log calls it."""

    name: ClassVar[str] = "event"
    level: ClassVar[str] = "info"
    at: datetime = field(default_factory=_now, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseEvent(Event):
    """About one lease of one database."""

    database: str
    role: str | None
    """Vault's; None where the credential comes from elsewhere."""
    lease_id: str | None
    username: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseIssued(LeaseEvent):
    name: ClassVar[str] = "lease.issued"
    ttl_seconds: float | None
    """None where nobody knows of an end."""
    renewable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRenewed(LeaseEvent):
    name: ClassVar[str] = "lease.renewed"
    remaining_seconds: float
    """What was left before the renewal."""
    ttl_seconds: float
    """What is left after it."""
    capped: bool
    """Less than asked for: max TTL is near, the next step is a rotation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseCorrected(LeaseEvent):
    """A look-up says that less is left than was believed: this machine was paused, and no clock of it saw that."""

    name: ClassVar[str] = "lease.corrected"
    level: ClassVar[str] = "warning"
    remaining_seconds: float
    sooner_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRotated(LeaseEvent):
    """The new generation serves."""

    name: ClassVar[str] = "lease.rotated"
    generation: int
    previous_lease_id: str | None
    previous_username: str | None
    why: str
    seconds: float
    """From the request to Vault to the swap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordExchanged(LeaseEvent):
    """The same role has another password: it is proven, and what the pool opens from now on logs in with it. No connection was closed."""

    name: ClassVar[str] = "credential.exchanged"
    ttl_seconds: float | None
    """Until it is to change again; None where nobody knows."""
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceUnreadable(Event):
    """The source gives no credential now; the one before serves on."""

    name: ClassVar[str] = "source.unreadable"
    level: ClassVar[str] = "error"
    database: str
    role: str | None
    error: str
    attempt: int
    retry_in_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseLost(LeaseEvent):
    """The lease has ended before its time. `vault_pg.LeaseLost` is this; the error of a source is `vault_pg.errors.LeaseLost`."""

    name: ClassVar[str] = "lease.lost"
    level: ClassVar[str] = "error"
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRevoked(LeaseEvent):
    name: ClassVar[str] = "lease.revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationFailed(LeaseEvent):
    """The lease could not be revoked; Vault ends it by itself at its TTL."""

    name: ClassVar[str] = "lease.revocation_failed"
    level: ClassVar[str] = "warning"
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalFailed(LeaseEvent):
    name: ClassVar[str] = "lease.renewal_failed"
    level: ClassVar[str] = "warning"
    error: str
    attempt: int
    retry_in_seconds: float | None
    """None where no further renewal is tried."""
    remaining_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationFailed(Event):
    name: ClassVar[str] = "lease.rotation_failed"
    level: ClassVar[str] = "error"
    database: str
    role: str | None
    error: str
    attempt: int
    retry_in_seconds: float | None
    remaining_seconds: float | None
    """What the current credential still serves; None where there is none, or no end of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialExpired(Event):
    """The horizon passed with no new credential: checkouts fail at once from here on."""

    name: ClassVar[str] = "credential.expired"
    level: ClassVar[str] = "critical"
    database: str
    role: str | None
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseRecovered(Event):
    """A credential that works is back; checkouts are served again."""

    name: ClassVar[str] = "credential.recovered"
    database: str
    role: str | None
    outage_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRetired(Event):
    """The old pool takes no more checkouts; its borrowers may finish until the deadline."""

    name: ClassVar[str] = "generation.retired"
    database: str
    generation: int
    in_use: int
    deadline_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainOverdue(Event):
    """The drain deadline passed with connections out: their statements are cancelled and they are closed."""

    name: ClassVar[str] = "generation.drain_overdue"
    level: ClassVar[str] = "warning"
    database: str
    generation: int
    holders: tuple[str, ...]
    """Who holds what, since when."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationClosed(Event):
    name: ClassVar[str] = "generation.closed"
    database: str
    generation: int
    seconds: float
    """From retire to closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationsMissed(Event):
    """A connection that listened was lost: what was sent until another listened is missed."""

    name: ClassVar[str] = "notifications.missed"
    level: ClassVar[str] = "warning"
    database: str
    channels: tuple[str, ...]
    error: str
    """The kind of error that the connection was lost by."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultUnreachable(Event):
    """Vault answers neither calls nor probes. Told once an outage; what goes on meanwhile is told by who needs Vault."""

    name: ClassVar[str] = "vault.unreachable"
    level: ClassVar[str] = "error"
    address: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultReachable(Event):
    """Vault answers again: whoever waited for it tries again now."""

    name: ClassVar[str] = "vault.reachable"
    address: str
    outage_seconds: float
    """Since the first call that failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEvent(Event):
    method: str
    serial: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenIssued(TokenEvent):
    """A login worked, or a given token was looked up."""

    name: ClassVar[str] = "token.issued"
    ttl_seconds: float | None
    renewable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRenewed(TokenEvent):
    name: ClassVar[str] = "token.renewed"
    ttl_seconds: float | None
    capped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRenewalFailed(TokenEvent):
    name: ClassVar[str] = "token.renewal_failed"
    level: ClassVar[str] = "warning"
    error: str
    attempt: int = 1
    retry_in_seconds: float | None
    remaining_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEnding(TokenEvent):
    """A token that was given by hand will end, and nothing moves its end or brings another: somebody has to, or the service stops."""

    name: ClassVar[str] = "token.ending"
    level: ClassVar[str] = "warning"
    remaining_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLost(TokenEvent):
    name: ClassVar[str] = "token.lost"
    level: ClassVar[str] = "error"
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRevoked(TokenEvent):
    name: ClassVar[str] = "token.revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRevocationFailed(TokenEvent):
    """A token that we logged in for could not be revoked; Vault ends it by itself at its TTL, and its leases with it."""

    name: ClassVar[str] = "token.revocation_failed"
    level: ClassVar[str] = "warning"
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueUnanswered(TokenEvent):
    """The answer to an issue was lost: a lease may be alive that nobody knows of, and its role with it."""

    name: ClassVar[str] = "lease.issue_unanswered"
    level: ClassVar[str] = "warning"
    error: str
    replaced: bool
    """The token is replaced, and revoked with all that it asked for once its leases have moved. Else Vault ends it at its TTL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDied(Event):
    """A background task ended by an exception that nobody expected; it is started again."""

    name: ClassVar[str] = "manager.task_died"
    level: ClassVar[str] = "critical"
    task: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClocksParted(Event):
    """A suspend, a pause of the virtual machine, or a clock that somebody has set: every lease is looked up."""

    name: ClassVar[str] = "manager.clocks_parted"
    level: ClassVar[str] = "warning"
    slept_seconds: float
    """The timers of the event loop are that late."""
    stepped_seconds: float
    """So far the wall clock has run ahead; below zero: fallen behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagerStarted(Event):
    name: ClassVar[str] = "manager.started"
    databases: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopEnded(Event):
    """The interpreter ends, and nobody has left the manager: its event loop was closed or stopped. What can still be done is done now."""

    name: ClassVar[str] = "manager.loop_ended"
    level: ClassVar[str] = "error"
    databases: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagerStopped(Event):
    name: ClassVar[str] = "manager.stopped"
    databases: tuple[str, ...]
    seconds: float
    left_behind: tuple[str, ...]
    """Lease ids that could not be revoked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartDelayed(Event):
    """A start failed for a reason that may pass; it is tried again until `start_timeout` is over."""

    name: ClassVar[str] = "manager.start_delayed"
    level: ClassVar[str] = "warning"
    error: str
    retry_in_seconds: float
    remaining_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasesLeftBehind(Event):
    """Leases that could not be revoked on leaving: their roles live until Vault ends them, unless `vault lease revoke` does."""

    name: ClassVar[str] = "manager.leases_left_behind"
    level: ClassVar[str] = "error"
    lease_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusUnavailable(Event):
    """The status socket could not be opened; everything else works."""

    name: ClassVar[str] = "status.unavailable"
    level: ClassVar[str] = "warning"
    error: str


Listener: TypeAlias = Callable[[Event], object]
