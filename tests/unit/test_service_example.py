"""The example service where Vault is away for a while: it says so and lives on."""

from __future__ import annotations

import asyncio
import runpy
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from psycopg_pool import PoolTimeout

from vault_pg import NoCredential

SERVICE = Path(__file__).parents[2] / "examples" / "service.py"


@pytest.mark.looptime
async def test_orders_that_cannot_be_taken_are_told_and_the_service_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = iter([NoCredential("no credential for role 'app'"), PoolTimeout("nothing within 30 s"), "order 3 taken"])

    async def take_order(item: str) -> str:
        outcome = next(outcomes, None)
        if outcome is None:
            raise asyncio.CancelledError
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        yield

    service = runpy.run_path(str(SERVICE), run_name="service")
    main = cast("Callable[[], Awaitable[None]]", service["main"])
    surroundings: dict[str, Any] = main.__globals__  # type: ignore[attr-defined]  # it is a function
    surroundings |= {"take_order": take_order, "lifespan": lifespan}

    with pytest.raises(asyncio.CancelledError):
        await main()

    said = capsys.readouterr()
    assert said.err == "503: no credential for role 'app'\n503: nothing within 30 s\n"
    assert said.out == "order 3 taken\n"
