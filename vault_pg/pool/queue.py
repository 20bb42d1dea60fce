"""The line in front of the holder: first come, first served, whichever generation serves."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class WaitingLine(Generic[T]):
    """Clients that wait for a place.

    A place is *handed over*: whoever hands it has already counted it for the client, so nobody can jump the line between the hand-over
    and the client's next step. A client that is cancelled or timed out in that very moment passes its place to `passed_on`.
    """

    def __init__(self, passed_on: Callable[[T], None]) -> None:
        # A deque is a block of 64 entries from the start, and most lines of a large process never have a client.
        self._line: deque[asyncio.Future[T]] | tuple[()] = ()
        self._moved: deque[asyncio.Future[T]] | tuple[()] = ()
        self._passed_on = passed_on

    def __len__(self) -> int:
        return len(self._moved) + len(self._line)

    async def wait(self, timeout: float, *, first: bool = False) -> T:
        """Wait for a place for `timeout` seconds; TimeoutError after that. Those who are `first` have waited before: they go ahead."""
        loop = asyncio.get_running_loop()
        client: asyncio.Future[T] = loop.create_future()
        line = self._queue(first=first)
        line.append(client)
        alarm = loop.call_later(max(0.0, timeout), _time_out, client)
        try:
            return await client
        except BaseException:
            if client.done() and not client.cancelled() and client.exception() is None:
                self._passed_on(client.result())  # handed over and cancelled in the same tick
            else:
                with suppress(ValueError):
                    line.remove(client)
            raise
        finally:
            alarm.cancel()

    def _queue(self, *, first: bool) -> deque[asyncio.Future[T]]:
        if first:
            if isinstance(self._moved, tuple):
                self._moved = deque()
            return self._moved
        if isinstance(self._line, tuple):
            self._line = deque()
        return self._line

    def hand_over(self, place: T) -> bool:
        """Give the place to the first who still waits; False if nobody does."""
        for line in (self._moved, self._line):
            while line:
                client = line.popleft()
                if not client.done():
                    client.set_result(place)
                    return True
        return False

    def fail(self, error: Callable[[], BaseException]) -> None:
        """Send everybody away, each with an error of their own."""
        for line in (self._moved, self._line):
            while line:
                client = line.popleft()
                if not client.done():
                    client.set_exception(error())


def _time_out(client: asyncio.Future[T]) -> None:
    if not client.done():
        client.set_exception(TimeoutError())
