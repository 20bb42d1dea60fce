"""The example service where Vault is away for a while: it says so and lives on."""

from __future__ import annotations

import asyncio
import runpy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from psycopg_pool import PoolTimeout

from vault_pg import NoCredential

SERVICE = Path(__file__).parents[2] / "examples" / "service.py"


@pytest.mark.looptime
async def test_orders_that_cannot_be_taken_are_told_and_the_service_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    failures = iter([NoCredential("no credential for role 'app'"), PoolTimeout("nothing within 30 s")])
    taken: list[str] = []

    async def take_order(item: str) -> str:
        if failure := next(failures, None):
            raise failure
        if taken:
            raise asyncio.CancelledError
        taken.append(item)
        return "order 3 taken"

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        yield

    service = runpy.run_path(str(SERVICE), run_name="service")
    main: Any = service["main"]
    main.__globals__.update(take_order=take_order, lifespan=lifespan)

    with pytest.raises(asyncio.CancelledError):
        await main()

    said = capsys.readouterr()
    assert said.err == "503: no credential for role 'app'\n503: nothing within 30 s\n"
    assert said.out == "order 3 taken\n"
