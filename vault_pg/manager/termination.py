"""SIGTERM as a clean end: what orchestrators send, and what would kill the process with its leases alive."""

from __future__ import annotations

import asyncio
import signal
import threading


class Termination:
    """While armed, the first SIGTERM cancels the task that armed it, so that its `async with` blocks are left in order.

    It stands back where the program has a handler of its own (web servers do), outside the main thread, and on systems whose event
    loop can't handle signals. A second SIGTERM kills at once.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[object] | None = None
        self._came = False

    def arm(self) -> None:
        if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            return
        loop = asyncio.get_running_loop()
        try:
            loop.add_signal_handler(signal.SIGTERM, self._come)
        except (NotImplementedError, RuntimeError):
            return
        self._loop, self._task = loop, asyncio.current_task()

    def _come(self) -> None:
        self._came = True
        if self._loop is not None:
            self._loop.remove_signal_handler(signal.SIGTERM)
            self._loop = None
        if self._task is not None:
            self._task.cancel("SIGTERM")

    def disarm(self) -> bool:
        """Put the default back; True if a SIGTERM came meanwhile."""
        if self._loop is not None:
            self._loop.remove_signal_handler(signal.SIGTERM)
            self._loop = None
        self._task = None
        return self._came

    @staticmethod
    def exit() -> SystemExit:
        """What ends the process as SIGTERM would have, once the outer blocks are left too: exit code 143."""
        return SystemExit(128 + signal.SIGTERM)
