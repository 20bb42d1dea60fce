"""A script that needs one connection for a moment: its lease is kept while it is open, and revoked afterwards.

Try it with nothing set up: `vault-pg dev python examples/script.py`.
"""

import asyncio
import sys

from vault_pg import VaultPgError, connect


async def main() -> None:
    async with connect() as conn:
        cursor = await conn.execute("SELECT current_user, count(*) FROM orders")
        user, orders = await cursor.fetchone() or (None, 0)
        print(f"{orders} orders, counted as {user}")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except VaultPgError as error:
        sys.exit(str(error))
