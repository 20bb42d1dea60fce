"""`vault-pg demo`: a load on a pool whose credential rotates every few seconds, and a verdict."""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING

import tenacity
from rich.console import Console

from vault_pg.cli.demo_view import LiveView, PlainView, View
from vault_pg.cli.embedded import MOUNT, POLICY, ROLE, Servers, servers
from vault_pg.cli.interrupts import interrupt, on_ending
from vault_pg.cli.load import Meter, drive
from vault_pg.cli.record import Record
from vault_pg.cli.verdict import Leftovers, Outcome, Plan, print_summary
from vault_pg.errors import VaultPgError

if TYPE_CHECKING:
    from vault_pg import LeaseManager, Settings

REFRESH = 0.25
SESSIONS_END_WITHIN = 3.0
"""Seconds. A server process ends some milliseconds after its client has said goodbye."""


def run(plan: Plan) -> int:
    """Run the demo as planned; returns the exit code. Raises VaultPgError."""
    console = Console(highlight=False)
    for name in ("vault_pg", "psycopg"):
        # Without any handler, warnings would go to stderr, through the middle of the picture, which shows them already.
        logging.getLogger(name).addHandler(logging.NullHandler())
    with on_ending(interrupt):
        with console.status("starting PostgreSQL and the dev Vault ..."), ExitStack() as starting:
            running = starting.enter_context(servers(ttl=plan.ttl, max_ttl=plan.max_ttl))
            ending = starting.pop_all()
        with ending:
            settings = _settings(plan, running)
            outcome = asyncio.run(_perform(plan, settings, console))
            left = _leftovers(running)
    print_summary(console, plan, outcome, left)
    return 0 if all(check.passed for check in outcome.checks(plan, left)) else 1


def _settings(plan: Plan, running: Servers) -> Settings:
    """A login of its own, with a token that ends: it has to be renewed, and replaced half-way through a run of the usual length."""
    from vault_pg import AppRoleAuth, DatabaseSettings, Settings, VaultSettings  # noqa: PLC0415 - the environment is clean now
    from vault_pg.dev import provision_approle  # noqa: PLC0415 - likewise

    login = provision_approle(running.root, "demo", policies=[POLICY], token_ttl=plan.token_ttl, token_max_ttl=2 * plan.token_ttl)
    return Settings(
        vault=VaultSettings(
            address=running.vault.address, auth=AppRoleAuth(role_id=login.role_id, secret_id=login.secret_id, mount=login.mount)
        ),
        databases={
            "default": DatabaseSettings(
                role=ROLE,
                mount=MOUNT,
                conninfo=running.postgres.conninfo(),
                min_size=min(4, plan.max_size),
                max_size=plan.max_size,
            )
        },
        handle_sigterm=False,
    )


async def _perform(plan: Plan, settings: Settings, console: Console) -> Outcome:
    """The load and the manager under it, until the time is over or a signal comes."""
    from vault_pg import LeaseManager  # noqa: PLC0415 - see `_settings`

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    meter, record = Meter(), Record(loop.time)
    manager = LeaseManager(settings)
    manager.add_listener(record)
    kind = LiveView if console.is_terminal else PlainView
    with on_ending(lambda: loop.call_soon_threadsafe(stop.set)), kind(console, plan, meter, record, loop.time()) as view:
        async with manager:
            view.start = loop.time()
            await _load(plan, manager, meter, view, stop)
            lasted = loop.time() - view.start
    return Outcome(lasted=lasted, planned=plan.seconds, meter=meter, record=record)


async def _load(plan: Plan, manager: LeaseManager, meter: Meter, view: View, stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    end = view.start + plan.seconds
    async with asyncio.TaskGroup() as group:
        group.create_task(drive(manager.get_pool(), meter, plan.clients, stop), name="load")
        while not stop.is_set() and (now := loop.time()) < end:
            view.show(manager.status(), now)
            try:
                await asyncio.wait_for(stop.wait(), min(REFRESH, end - now))
            except TimeoutError:
                continue
        stop.set()


def _leftovers(running: Servers) -> Leftovers:
    """What is still there right after the end: roles and leases at once, before they could end by their TTL."""
    import hvac  # noqa: PLC0415 - see `servers`
    import psycopg  # noqa: PLC0415 - likewise

    try:
        leases = running.root.sys.list_leases(f"{MOUNT}/creds/{ROLE}")["data"]["keys"]
    except hvac.exceptions.InvalidPath:
        leases = []
    try:
        with running.postgres.admin() as conn:
            (roles,) = conn.execute("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'").fetchone() or (0,)
        return Leftovers(roles=roles, leases=len(leases), connections=_connections(running))
    except psycopg.Error as error:
        raise VaultPgError(f"PostgreSQL could not be asked what was left behind: {type(error).__name__}") from None


@tenacity.retry(
    retry=tenacity.retry_if_result(bool),
    stop=tenacity.stop_after_delay(SESSIONS_END_WITHIN),
    wait=tenacity.wait_fixed(0.05),
    retry_error_callback=lambda state: state.outcome.result() if state.outcome else 0,
)
def _connections(running: Servers) -> int:
    """Sessions that are neither the superuser's nor PostgreSQL's own; one of a role that was dropped has no user name any more."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename IS DISTINCT FROM %s"
    with running.postgres.admin() as conn:
        (sessions,) = conn.execute(query, [running.postgres.admin_user]).fetchone() or (0,)
    return int(sessions)
