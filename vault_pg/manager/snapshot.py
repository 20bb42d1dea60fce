"""From live objects to the frozen Status."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from datetime import datetime

from vault_pg.clock import Instant, wall
from vault_pg.errors import NotRunning
from vault_pg.manager.keeper import Keeper
from vault_pg.manager.status import (
    Action,
    DatabaseStatus,
    DrainStatus,
    LeaseStatus,
    NextStep,
    PoolStatus,
    State,
    Status,
    VaultStatus,
    health,
)
from vault_pg.manager.tenure import seconds
from vault_pg.schedule import Hold, Renew
from vault_pg.settings import DatabaseSettings, Settings
from vault_pg.settings.source import name_of
from vault_pg.vault import VaultSession


def snapshot(
    settings: Settings,
    session: VaultSession | None,
    keepers: Iterable[Keeper],
    *,
    now: Instant,
    started_at: datetime,
    stopping: bool,
) -> Status:
    databases = tuple(_database(keeper, now, stopping=stopping) for keeper in keepers)
    vault = _vault(settings, session, now)
    return Status(
        pid=os.getpid(),
        health=health(vault is None or vault.well, databases),
        started_at=started_at,
        vault=vault,
        databases=databases,
    )


def _vault(settings: Settings, session: VaultSession | None, now: Instant) -> VaultStatus | None:
    if not any(database.from_vault for database in settings.databases.values()):
        return None
    token_left = _token_end(session) - now
    outage = session.outage if session is not None else None
    answered_at = session.answered_at if session is not None else None
    return VaultStatus(
        address=settings.vault.address,
        reachable=session is not None and session.reachable,
        token_remaining_seconds=None if math.isinf(token_left) else max(0.0, token_left),
        unreachable_since=wall(outage.since, now) if outage is not None else None,
        last_error=str(outage.error) if outage is not None else None,
        answered_at=wall(answered_at, now) if answered_at is not None else None,
        token_trouble=_token_trouble(session, now),
    )


def _token_trouble(session: VaultSession | None, now: Instant) -> str | None:
    try:
        if session is None:
            return None
        if session.token_failure is not None:
            return f"no other token can be had for the one that serves: {session.token_failure}"
        if not session.token_ending:
            return None
    except NotRunning:
        return None
    what = "has ended" if session.token.end <= now else "ends soon"
    return (
        f"the token that was given by hand {what}, and nothing brings another: "
        "start anew with another VAULT_TOKEN, or with a login that can be repeated (VAULT_PG_AUTH)"
    )


def _token_end(session: VaultSession | None) -> Instant:
    try:
        return math.inf if session is None else session.token.end
    except NotRunning:
        return math.inf


def _database(keeper: Keeper, now: Instant, *, stopping: bool) -> DatabaseStatus:
    return DatabaseStatus(
        name=keeper.name,
        source=_source(keeper.tenure.settings),
        mount=keeper.tenure.mount,
        role=keeper.tenure.role,
        state=_state(keeper, stopping=stopping),
        lease=_lease(keeper, now),
        next=_next(keeper, now),
        pool=_pool(keeper),
        draining=_draining(keeper),
        rotations=keeper.rotation.count if keeper.rotation else 0,
        last_error=keeper.tenure.last_error or _login_failure(keeper) or keeper.tenure.in_vain,
    )


def _source(settings: DatabaseSettings) -> str:
    return str(getattr(settings.source, "kind", name_of(settings.source)))


def _state(keeper: Keeper, *, stopping: bool) -> State:
    if stopping:
        return "stopping"
    if keeper.holder is None:
        return "starting"
    if keeper.tenure.refused_since is not None:
        return "failed"
    if keeper.tenure.last_error is not None or _login_failure(keeper) is not None:
        return "degraded"
    return "rotating" if keeper.rotation and keeper.rotation.under_way else "serving"


def _login_failure(keeper: Keeper) -> str | None:
    failure = keeper.holder.login_failure if keeper.holder is not None else None
    return str(failure) if failure is not None else None


def _lease(keeper: Keeper, now: Instant) -> LeaseStatus | None:
    lease = keeper.tenure.lease
    if lease is None:
        return None
    return LeaseStatus(
        id=lease.id or None,
        username=lease.credential.username,
        issued_at=wall(lease.issued_at, now),
        ttl_seconds=seconds(lease.ttl),
        remaining_seconds=seconds(max(0.0, (lease.end if lease.outlived else keeper.tenure.horizon) - now)),
        renewable=lease.renewable,
        renewals=lease.renewals,
        ending=lease.ending,
    )


def _next(keeper: Keeper, now: Instant) -> NextStep | None:
    if keeper.tenure.lease is None:
        return None
    if keeper.tenure.retry is not None:
        at, why = keeper.tenure.retry
        return NextStep(action="retry", in_seconds=max(0.0, at - now), why=why)
    step = keeper.tenure.next_step()
    if math.isinf(step.at):
        return None
    action: Action = "renew" if isinstance(step, Renew) else "hold" if isinstance(step, Hold) else "rotate"
    return NextStep(action=action, in_seconds=max(0.0, step.at - now), why=step.why)


def _pool(keeper: Keeper) -> PoolStatus | None:
    pool = keeper.holder
    if pool is None:
        return None
    stats = pool.get_stats()
    return PoolStatus(
        generation=pool.generation,
        size=stats["pool_size"],
        in_use=pool.in_use,
        waiting=stats["requests_waiting"],
        max_size=pool.max_size,
    )


def _draining(keeper: Keeper) -> tuple[DrainStatus, ...]:
    if keeper.holder is None:
        return ()
    return tuple(
        DrainStatus(generation=number, in_use=in_use, deadline_in_seconds=left) for number, in_use, left in keeper.holder.draining
    )
