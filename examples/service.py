"""A service that takes an order every second. Its settings are the environment's: VAULT_ADDR, VAULT_PG_ROLE, VAULT_PG_CONNINFO, ...

`lifespan` is what FastAPI, Starlette and Litestar take as their lifespan; there, web requests stand where `main` has its loop.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from psycopg import OperationalError

from vault_pg import LeaseManager, NoCredential, VaultPgError, get_pool


@asynccontextmanager
async def lifespan(_app: object = None) -> AsyncIterator[None]:
    """Entered means that the pool is open and proven; left, that the lease is revoked."""
    async with LeaseManager():
        yield


async def take_order(item: str) -> str:
    async with get_pool().connection() as conn:
        cursor = await conn.execute("INSERT INTO orders (item) VALUES (%s) RETURNING id, current_user", [item])
        number, user = await cursor.fetchone() or (None, None)
    return f"order {number} taken as {user}"


async def main() -> None:
    async with lifespan():
        while True:  # until SIGTERM, which leaves `lifespan` in order
            try:
                print(await take_order("coffee"), flush=True)
            except (NoCredential, OperationalError) as error:
                # Vault or PostgreSQL is away. A web service answers 503 here; the pool serves again as soon as they do.
                print(f"503: {error}", file=sys.stderr, flush=True)
            await asyncio.sleep(1)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except VaultPgError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass
