"""SIGTERM as a clean end: what orchestrators send, and what would kill the process with its leases alive."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from time import monotonic
from types import FrameType


class Termination:
    """While armed, the first SIGTERM cancels the task that armed it, so that its `async with` blocks are left in order.

    It stands back where the program has a handler of its own (web servers do), also one that it installs later, and outside the main
    thread. More of them are ignored for `patience` seconds, in which the leaving is done; after that one kills, and at once if that
    task has ended already.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._came_at = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[object] | None = None
        self._came = False
        self._handler = self._handle  # one object, to be known again

    def arm(self) -> None:
        """Call in the task to be cancelled."""
        self._came = False
        if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            return
        # Not by loop.add_signal_handler: whether that is still ours at the end could not be told.
        signal.signal(signal.SIGTERM, self._handler)
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()

    def _handle(self, number: int, _: FrameType | None) -> None:
        loop, task = self._loop, self._task
        overdue = self._came and monotonic() - self._came_at > self._patience
        if overdue or loop is None or task is None or task.done() or loop.is_closed():
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if self._came:
            return
        self._came, self._came_at = True, monotonic()
        loop.call_soon_threadsafe(task.cancel, "SIGTERM")

    def disarm(self) -> bool:
        """Put the default back, if the handler is still ours; True if a SIGTERM came meanwhile."""
        if self._loop is not None and signal.getsignal(signal.SIGTERM) is self._handler:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._loop = self._task = None
        return self._came

    @staticmethod
    def exit() -> SystemExit:
        """What ends the process as SIGTERM would have, once the outer blocks are left too: exit code 143."""
        return SystemExit(128 + signal.SIGTERM)
