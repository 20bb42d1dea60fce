"""A report as tables for people, and as a line for logs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vault_pg.cli.bar import bar, colour, share
from vault_pg.cli.wording import count, duration, printable
from vault_pg.lease import Ending
from vault_pg.manager.reader import Survey
from vault_pg.manager.status import DatabaseStatus, LeaseStatus, NextStep, PoolStatus, Status, VaultStatus

HEALTH_STYLE = {"healthy": "green", "degraded": "yellow", "critical": "red"}
STATE_STYLE = {
    "starting": "yellow",
    "serving": "green",
    "rotating": "cyan",
    "degraded": "yellow",
    "failed": "red",
    "stopping": "bright_black",
}
BAR_WIDTH = 24
LABEL = 10

RECENT = 60.0
"""Seconds for which an answer of Vault's is told as the present."""


def table(survey: Survey) -> RenderableType:
    """Every manager with its databases, in full: nothing is cut, however narrow the terminal."""
    parts: list[RenderableType] = []
    for manager in survey.report.managers:
        parts += [Text(), _headline(manager), *_vault(manager.vault), *(_database(database) for database in manager.databases)]
    for pid in survey.mute:
        parts += [Text(), _mute(pid)]
    return Group(*parts[1:])


def _headline(manager: Status) -> Text:
    style = HEALTH_STYLE[manager.health]
    up = duration((datetime.now(UTC) - manager.started_at).total_seconds())
    return Text.assemble(("● ", style), (manager.health, f"bold {style}"), f"  pid {manager.pid}, up {up}")


def _vault(vault: VaultStatus | None) -> Iterator[RenderableType]:
    if vault is None:
        return
    remaining = vault.token_remaining_seconds
    token = "token never ends" if remaining is None else f"token {duration(remaining)} left"
    answers = (_answer(vault), "") if vault.reachable else (_silence(vault), "bold red")
    yield Padding(Text.assemble(f"Vault {printable(vault.address)} ", answers, f", {token}"), (0, 0, 0, 2))
    if vault.last_error:
        yield Padding(Text(printable(vault.last_error), "red"), (0, 0, 0, 2))
    if vault.token_trouble:
        yield Padding(Text(printable(vault.token_trouble), "red"), (0, 0, 0, 2))


def _answer(vault: VaultStatus) -> str:
    """It is asked when something is due, so an answer may be old news."""
    ago = 0.0 if vault.answered_at is None else (datetime.now(UTC) - vault.answered_at).total_seconds()
    return "answers" if ago < RECENT else f"answered {duration(ago)} ago"


def _silence(vault: VaultStatus) -> str:
    if vault.unreachable_since is None:
        return "does not answer"
    return f"has not answered for {duration((datetime.now(UTC) - vault.unreachable_since).total_seconds())}"


def _database(database: DatabaseStatus) -> RenderableType:
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="bright_black", min_width=LABEL, no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row(_what_ends(database.lease), _lease(database.lease))
    if database.lease is not None:
        facts.add_row("", Text(printable(_user(database.lease)), "bright_black"))
    facts.add_row("next", next_step(database.next))
    facts.add_row("pool", _pool(database.pool))
    for old in database.draining:
        left = duration(old.deadline_in_seconds)
        facts.add_row("draining", Text(f"generation {old.generation}: {old.in_use} in use, {left} left", "cyan"))
    if database.last_error:
        # Loud while it goes wrong, a memory afterwards.
        well = database.health == "healthy"
        facts.add_row("last error" if well else "error", Text(printable(database.last_error), "" if well else "red"))
    return Group(Text(), Padding(_title(database), (0, 0, 0, 2)), Padding(facts, (0, 0, 0, 4)))


def _title(database: DatabaseStatus) -> Text:
    return Text.assemble(
        (printable(database.name), "bold"),
        (printable(f"  {_origin(database)}"), "bright_black"),
        "  ",
        (database.state, STATE_STYLE[database.state]),
        (f"  {count(database.rotations, 'rotation')}", "bright_black"),
    )


def _lease(lease: LeaseStatus | None) -> Text:
    return Text("none: no credential that works", "bold red") if lease is None else lease_bar(lease, BAR_WIDTH)


def _origin(database: DatabaseStatus) -> str:
    if database.role is None:
        return f"from {database.source}"
    return f"{'static ' if database.source == 'static' else ''}role {database.mount}/{database.role}"


def _what_ends(lease: LeaseStatus | None) -> str:
    return "lease" if lease is None or lease.ending is Ending.ROLE else "password"


def _user(lease: LeaseStatus) -> str:
    return lease.username if lease.id is None else f"{lease.username}, {count(lease.renewals, 'renewal')}"


def lease_bar(lease: LeaseStatus, width: int) -> Text:
    remaining, ttl = lease.remaining_seconds, lease.ttl_seconds
    if remaining is None or ttl is None:
        return Text("no end known", "green")
    if lease.expired:
        return Text.assemble(bar(0, width), "  ", ("expired", "bold red"))
    if remaining <= 0:
        return Text.assemble(bar(0, width), "  ", ("over; open connections serve on", "yellow"))
    left = share(remaining, ttl)
    # A password that is to change is no cause for alarm.
    style = colour(left) if lease.ending is Ending.ROLE else "green"
    return Text.assemble(bar(left, width, style=style), "  ", (lease_life(lease), style))


def lease_life(lease: LeaseStatus) -> str:
    if lease.remaining_seconds is None or lease.ttl_seconds is None:
        return "with no end known"
    return f"{duration(lease.remaining_seconds)} of {duration(lease.ttl_seconds)}"


def lease_left(lease: LeaseStatus) -> str:
    """In one word: `3000s/3600s`, or `endless`."""
    if lease.remaining_seconds is None or lease.ttl_seconds is None:
        return "endless"
    return f"{lease.remaining_seconds:.0f}s/{lease.ttl_seconds:.0f}s"


def next_step(step: NextStep | None) -> Text:
    if step is None:
        return Text("-", "bright_black")
    style = "yellow" if step.action == "retry" else ""
    return Text.assemble((due(step), style), (printable(f": {step.why}"), "bright_black"))


def due(step: NextStep) -> str:
    """`renew in 48 s`; a step whose time has come is under way. Where nothing can be done it is the end that comes."""
    if step.action == "hold":
        return f"ends in {duration(step.in_seconds)}" if step.in_seconds > 0 else "ends now"
    if step.in_seconds > 0:
        return f"{step.action} in {duration(step.in_seconds)}"
    return "trying now" if step.action == "retry" else f"{step.action} now"


def _pool(pool: PoolStatus | None) -> Text:
    return Text("-", "bright_black") if pool is None else Text.assemble(f"generation {pool.generation}: ", pool_use(pool))


def pool_use(pool: PoolStatus) -> Text:
    waiting = (f", {pool.waiting} waiting", "yellow") if pool.waiting else ""
    return Text.assemble(f"{pool.in_use} of {pool.size} in use", (f" (max {pool.max_size})", "bright_black"), waiting)


def _mute(pid: int) -> Text:
    return Text.assemble(("● no answer", "bold red"), f"  pid {pid} {MUTE}")


MUTE = "lives but gives no status: its event loop is blocked or overloaded, or it runs another version of vault_pg"


def lines(survey: Survey) -> list[str]:
    """A line for each database of each manager, as `key=value`, for `--watch` into a file or a pipe."""
    found = [_line(manager, database) for manager in survey.report.managers for database in manager.databases]
    return found + [f"pid={pid} health=unknown: it {MUTE}" for pid in survey.mute]


def _line(manager: Status, database: DatabaseStatus) -> str:
    lease, step, pool = database.lease, database.next, database.pool
    facts = [f"pid={manager.pid} health={manager.health} database={database.name} state={database.state}"]
    facts.append(f"{_what_ends(lease)}={lease_left(lease)} user={lease.username}" if lease else "lease=none")
    if step is not None:
        facts.append(f"next={step.action} in={step.in_seconds:.0f}s")
    if pool is not None:
        facts.append(f"generation={pool.generation} in_use={pool.in_use}/{pool.size} waiting={pool.waiting}")
    facts.append(f"rotations={database.rotations} draining={len(database.draining)} vault={_reachable(manager)}")
    if manager.vault is not None and manager.vault.last_error:
        facts.append(f"vault_error={manager.vault.last_error!r}")
    if manager.vault is not None and manager.vault.token_trouble:
        facts.append(f"token_trouble={manager.vault.token_trouble!r}")
    if database.last_error:
        facts.append(f"last_error={database.last_error!r}")
    return printable(" ".join(facts))


def _reachable(manager: Status) -> str:
    if manager.vault is None:
        return "none"
    return "reachable" if manager.vault.reachable else "unreachable"
