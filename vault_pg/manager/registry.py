"""Which managers run in this process: what `vault_pg.get_pool()` looks through."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vault_pg.errors import NotRunning

if TYPE_CHECKING:
    from vault_pg.manager.manager import LeaseManager
    from vault_pg.pool import HotSwapPool

_running: list[LeaseManager] = []


def add(manager: LeaseManager) -> None:
    _running.append(manager)


def remove(manager: LeaseManager) -> None:
    if manager in _running:
        _running.remove(manager)


def get_pool(name: str = "default") -> HotSwapPool:
    """The pool of database `name` of the manager that runs in this process (the one entered last, if several keep that name).

    Raises NotRunning when no manager runs, or none that keeps this database.
    """
    for manager in reversed(_running):
        if name in manager.settings.databases:
            return manager.get_pool(name)
    if not _running:
        raise NotRunning(
            "no LeaseManager runs in this process: enter one first, e.g. `async with vault_pg.LeaseManager(): ...` in the lifespan"
        )
    known = ", ".join(sorted(repr(key) for manager in _running for key in manager.settings.databases))
    raise NotRunning(f"no running LeaseManager keeps a database {name!r}; those that run keep {known}")
