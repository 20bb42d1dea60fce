"""The signal that a connection's generation retires, for whoever holds one for long."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

from vault_pg.pool.generation import Generation


class Retirement:
    """True once the generation of a connection is retired, or its pool closed; awaiting it returns then.

    A loop tests it and moves on to a new connection; a task beside a long statement awaits it and calls `conn.cancel_safe()`.
    """

    __slots__ = ("_generation",)

    def __init__(self, generation: Generation[Any]) -> None:
        self._generation = generation

    def is_set(self) -> bool:
        return self._generation.retired

    __bool__ = is_set

    async def wait(self) -> None:
        """Return when it is set, at once if it is."""
        await self._generation.retirement.wait()

    def __await__(self) -> Generator[Any, None, None]:
        return self.wait().__await__()

    @property
    def deadline(self) -> float | None:
        """Seconds until the connection is cut off; None while it is not set, and where nobody will be cut off (`close()`)."""
        if not self.is_set() or self._generation.deadline is None:
            return None
        return max(0.0, self._generation.deadline - asyncio.get_running_loop().time())

    def __repr__(self) -> str:
        return f"<Retirement of generation {self._generation.number}: {'set' if self.is_set() else 'not set'}>"
