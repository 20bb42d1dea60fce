"""What operators see of a manager: frozen values with no secret in them. Their JSON is what `vault-pg status --json` prints."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict

from vault_pg.lease import Ending

Health: TypeAlias = Literal["healthy", "degraded", "critical"]
State: TypeAlias = Literal["starting", "serving", "rotating", "degraded", "failed", "stopping"]
Action: TypeAlias = Literal["issue", "renew", "rotate", "retry", "hold"]


def _tenths(seconds: float) -> float:
    return round(seconds, 1)


Seconds: TypeAlias = Annotated[float, AfterValidator(_tenths)]
"""A duration, kept to a tenth of a second."""

EXIT_CODES: dict[Health, int] = {"healthy": 0, "degraded": 1, "critical": 2}
NOTHING_RUNS = 3


class _Part(BaseModel):
    # A command of an older version must still read a manager of a newer one: fields it does not know are passed over.
    model_config = ConfigDict(frozen=True, extra="ignore")


class VaultStatus(_Part):
    address: str
    reachable: bool
    """The latest call was answered, and where one was not, a probe after it."""
    token_remaining_seconds: Seconds | None
    """None: the token never ends, or there is none yet."""
    unreachable_since: datetime | None = None
    """When the first call failed for want of an answer; None while Vault answers."""
    last_error: str | None = None
    """What the latest call or probe failed with; None while Vault answers."""
    answered_at: datetime | None = None
    """When Vault last answered anything; while all is well it is asked for nothing but leases and tokens."""
    token_trouble: str | None = None
    """Why the token that ends soon, or has ended, has to be replaced by hand; None while it need not be."""

    @property
    def well(self) -> bool:
        return self.reachable and self.token_trouble is None


class LeaseStatus(_Part):
    id: str | None
    """None where there is no lease, as with a static role or a file."""
    username: str
    issued_at: datetime
    ttl_seconds: Seconds | None
    """As last granted; None where nobody knows of an end."""
    remaining_seconds: Seconds | None
    """Until its horizon: the earliest of lease end, token end and max age. Zero or less means it can't be trusted."""
    renewable: bool
    renewals: int
    ending: Ending = Ending.ROLE
    """What ends then: the role, or only its password, which is exchanged beneath the open pool."""

    @property
    def expired(self) -> bool:
        return self.ending is Ending.ROLE and self.remaining_seconds is not None and self.remaining_seconds <= 0


class NextStep(_Part):
    action: Action
    in_seconds: Seconds
    why: str


class PoolStatus(_Part):
    generation: int
    size: int
    in_use: int
    waiting: int
    max_size: int


class DrainStatus(_Part):
    generation: int
    in_use: int
    deadline_in_seconds: Seconds


class DatabaseStatus(_Part):
    name: str
    source: str = "dynamic"
    """The kind of source, or the class of one of the user's own."""
    mount: str | None
    role: str | None
    """Vault's; None where the credential comes from elsewhere."""
    state: State
    lease: LeaseStatus | None
    next: NextStep | None
    pool: PoolStatus | None
    draining: tuple[DrainStatus, ...] = ()
    rotations: int
    last_error: str | None

    @property
    def health(self) -> Health:
        """Critical without a credential that works; a database that is being stopped on purpose is not ill."""
        if self.state == "stopping":
            return "healthy"
        if self.state in {"starting", "failed"} or self.lease is None or self.lease.expired:
            return "critical"
        return "degraded" if self.state == "degraded" else "healthy"


def health(vault_well: bool, databases: Iterable[DatabaseStatus]) -> Health:
    """The health of a manager: its worst database's, and at best degraded while Vault does not answer or nothing replaces its token."""
    found: list[Health] = ["healthy" if vault_well else "degraded", *(database.health for database in databases)]
    return max(found, key=EXIT_CODES.__getitem__)


class Status(_Part):
    """One manager at one instant."""

    pid: int
    health: Health
    started_at: datetime
    vault: VaultStatus | None
    """None where no database needs it."""
    databases: tuple[DatabaseStatus, ...]


class Report(_Part):
    """Every manager that was found on this host."""

    managers: tuple[Status, ...]

    @property
    def exit_code(self) -> int:
        """0 healthy, 1 degraded, 2 critical, 3 nothing runs; the worst manager decides."""
        return max((EXIT_CODES[manager.health] for manager in self.managers), default=NOTHING_RUNS)
