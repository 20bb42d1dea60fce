"""The service under test: it counts orders."""

from psycopg import OperationalError

from vault_pg import get_pool


async def count_orders() -> int | None:
    """How many there are; None while the database is away."""
    try:
        async with get_pool().connection() as conn:
            cursor = await conn.execute("SELECT count(*) FROM orders")
            row = await cursor.fetchone()
    except OperationalError:  # NoCredential is one, too
        return None
    return row[0] if row else None
