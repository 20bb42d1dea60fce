"""Cancelling a task at every moment there is: after each callback that the event loop runs, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any


class Moments:
    """Cancels a task after given numbers of callbacks of the event loop."""

    def __init__(self) -> None:
        self._left: list[int] = []
        self._victim: asyncio.Task[Any] | None = None
        self._passed = 0

    async def count(self, victim: Coroutine[Any, Any, object]) -> int:
        """Run `victim` to its end, and return how many callbacks that took."""
        before = self._passed
        await self.cancel(victim)
        return self._passed - before

    async def cancel(self, victim: Coroutine[Any, Any, object], *after: int) -> bool:
        """Run `victim` and cancel it after that many callbacks, again after as many more as follow; False if it was done before all.

        One that was cancelled has to end as cancelled: anything else has swallowed the cancellation.
        """
        task = asyncio.create_task(victim, name="victim")
        self._victim, self._left = task, [*after]
        await asyncio.wait([task])
        struck, self._victim = len(self._left) < len(after), None
        if struck:
            assert task.cancelled(), f"cancelled after {after} callbacks, it ended with {task.exception() or task.result()!r}"
        else:
            task.result()
        return struck

    def passed(self) -> None:
        self._passed += 1
        if self._victim is not None and not self._victim.done() and self._left:
            self._left[0] -= 1
            if self._left[0] == 0:
                del self._left[0]
                self._victim.cancel()


@contextmanager
def moments(patch: Callable[[object, str, object], None]) -> Iterator[Moments]:
    """`patch` is monkeypatch's setattr: every callback of the loop is counted."""
    counted = Moments()
    run = asyncio.Handle._run

    def run_and_count(handle: asyncio.Handle) -> None:
        run(handle)
        counted.passed()

    patch(asyncio.Handle, "_run", run_and_count)
    yield counted
