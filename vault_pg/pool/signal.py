"""Something that happens once, and may be waited for."""

from __future__ import annotations

import asyncio


class Signal:
    """An asyncio.Event that is never cleared, and takes next to no memory until somebody waits: each generation has two."""

    __slots__ = ("_event", "_set")

    def __init__(self) -> None:
        self._set = False
        self._event: asyncio.Event | None = None

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        if self._event is not None:
            self._event.set()

    async def wait(self) -> None:
        """Return when it is set, at once if it is."""
        if not self._set:
            if self._event is None:
                self._event = asyncio.Event()
            await self._event.wait()
