"""A PostgreSQL and a Vault for every test of the service, and a manager that keeps its credential."""

from collections.abc import AsyncIterator

import pytest

from vault_pg import LeaseManager
from vault_pg.testing import MakeSettings

pytest_plugins = ["vault_pg.testing"]


@pytest.fixture
async def manager(vault_pg_settings: MakeSettings) -> AsyncIterator[LeaseManager]:
    async with LeaseManager(vault_pg_settings(default_ttl=600, max_ttl=3600, max_size=4)) as manager:
        yield manager
