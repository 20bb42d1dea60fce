"""What becomes of the service when its servers have a bad day."""

import pytest
from service import count_orders

from vault_pg import LeaseManager, VaultPgError, get_pool
from vault_pg.testing import EmbeddedPostgres, Faults

ORDERS = 1000


async def whoami() -> str:
    async with get_pool().connection() as conn:
        row = await (await conn.execute("SELECT current_user")).fetchone()
    return str(row[0]) if row else ""


async def test_a_rotation_is_not_noticed(manager: LeaseManager) -> None:
    before = await whoami()
    await manager.rotate()
    assert await whoami() != before
    assert await count_orders() == ORDERS


async def test_a_sealed_vault_costs_no_query(manager: LeaseManager, vault_pg_faults: Faults) -> None:
    with vault_pg_faults.seal():
        with pytest.raises(VaultPgError, match="sealed"):
            await manager.rotate()
        assert await count_orders() == ORDERS
    await manager.rotate()
    assert await count_orders() == ORDERS


async def test_a_database_that_is_away_is_told_to_the_client(manager: LeaseManager, vault_pg_postgres: EmbeddedPostgres) -> None:
    assert await count_orders() == ORDERS
    with vault_pg_postgres.down():
        assert await count_orders() is None
    assert await count_orders() == ORDERS
