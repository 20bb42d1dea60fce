"""One leased connection, for scripts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from psycopg import AsyncConnection

from vault_pg.errors import NotRunning, SettingsError
from vault_pg.manager.manager import LeaseManager
from vault_pg.settings import Settings


@asynccontextmanager
async def connect(settings: Settings | None = None, *, name: str = "default") -> AsyncIterator[AsyncConnection]:
    """One connection with a leased credential. The lease is kept while it is open, and revoked afterwards.

    Leaving it commits, or rolls back on an error, as psycopg's own connection context does. A connection outlives its lease's max TTL
    by nothing: shortly before, it is cut off with a warning. Raises VaultPgError, with nothing left behind.
    """
    settings = Settings() if settings is None else settings
    if not isinstance(settings, Settings):
        raise SettingsError(f"connect() takes a Settings, not a {type(settings).__name__}; which database is `name`")
    if name not in settings.databases:
        known = ", ".join(map(repr, settings.databases))
        raise NotRunning(f"the settings have no database {name!r}, only {known}")
    alone = {name: settings.databases[name].model_copy(update={"min_size": 1, "max_size": 1, "drain_timeout": float("inf")})}
    manager = LeaseManager(settings.model_copy(update={"databases": alone, "status_socket": False}), shared=False)
    async with manager, manager.get_pool(name).connection() as conn:
        yield conn
