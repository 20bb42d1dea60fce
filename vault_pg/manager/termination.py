"""Signals as clean ends: SIGTERM, which orchestrators send and which would kill the process with its leases alive, and Ctrl-C."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import threading
from collections.abc import Callable
from time import monotonic
from types import FrameType, TracebackType
from typing import Any, Self


class _Armed:
    """Whoever is armed in this process, first come first, and when a SIGTERM came."""

    def __init__(self) -> None:
        self.terminations: list[Termination] = []
        self.came_at: float | None = None


_armed = _Armed()


class Termination:
    """While armed, the first SIGTERM cancels the task that armed it, so that its `async with` blocks are left in order.

    Of several that are armed in one process the first is asked: its end, with exit code 143, ends the loop and so the others, in order
    too. It stands back where the program has a handler of its own (web servers do), also one that it installs later, and outside the
    main thread. More of them are ignored for `patience` seconds, in which the leaving is done; after that one kills, and at once if
    the tasks have ended already.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[object] | None = None
        self._came = False

    def arm(self) -> None:
        """Call in the task to be cancelled."""
        self._came = False
        if threading.current_thread() is not threading.main_thread():
            return
        # Not by loop.add_signal_handler: whether that is still ours at the end could not be told.
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _terminate)
        elif signal.getsignal(signal.SIGTERM) is not _terminate:
            return
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        _armed.terminations.append(self)

    @property
    def answers(self) -> bool:
        """There is a task to cancel, and a loop that will."""
        return self._loop is not None and not self._loop.is_closed() and self._task is not None and not self._task.done()

    def come(self) -> None:
        """The SIGTERM came, and this is who ends."""
        loop, task = self._loop, self._task
        if loop is not None and task is not None:
            self._came = True
            loop.call_soon_threadsafe(task.cancel, "SIGTERM")

    def disarm(self) -> bool:
        """Put the default back, if the handler is still ours and nobody else is armed; True if a SIGTERM came meanwhile."""
        if self in _armed.terminations:
            _armed.terminations.remove(self)
            if not _armed.terminations:
                _armed.came_at = None
                if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is _terminate:
                    signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._loop = self._task = None
        return self._came

    @staticmethod
    def exit() -> SystemExit:
        """What ends the process as SIGTERM would have, once the outer blocks are left too: exit code 143."""
        return SystemExit(128 + signal.SIGTERM)


def _terminate(number: int, _: FrameType | None) -> None:
    first = next((each for each in _armed.terminations if each.answers), None)
    overdue = first is not None and _armed.came_at is not None and monotonic() - _armed.came_at > first.patience
    if first is None or overdue:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    elif _armed.came_at is None:
        _armed.came_at = monotonic()
        first.come()


class _Held:
    """Whoever holds Ctrl-C off in this process, and the handler from before."""

    def __init__(self) -> None:
        self.interrupts: list[Interrupt] = []
        self.before: Callable[[int, FrameType | None], Any] | None = None


_held = _Held()


class Interrupt:
    """Inside of it Ctrl-C breaks nothing off: a first one still cancels the main task, a further one calls `hurry()`.

    Python's KeyboardInterrupt strikes wherever it likes, asyncio's from the second Ctrl-C on, and would break off the very thing that
    a first one has begun. It stands back where the program has a handler of its own.
    """

    def __init__(self, hurry: Callable[[], object]) -> None:
        self.came = False
        """A KeyboardInterrupt was held off; it is to be raised once all is done."""
        self._hurry = hurry
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(signal.SIGINT)
            if not _held.interrupts and callable(handler) and _is_pythons_own(handler):
                _held.before = handler
                signal.signal(signal.SIGINT, _interrupt)
            if signal.getsignal(signal.SIGINT) is _interrupt:
                _held.interrupts.append(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self in _held.interrupts:
            _held.interrupts.remove(self)
            if not _held.interrupts and signal.getsignal(signal.SIGINT) is _interrupt:
                signal.signal(signal.SIGINT, _held.before)

    def come(self) -> None:
        self.came = True
        self._loop.call_soon_threadsafe(self._hurry)


def _interrupt(number: int, frame: FrameType | None) -> None:
    try:
        if _held.before is not None:
            _held.before(number, frame)
    except KeyboardInterrupt:
        for each in [*_held.interrupts]:
            each.come()


def _is_pythons_own(handler: Callable[..., Any]) -> bool:
    """Python's default, or the one that `asyncio.run` puts in its place."""
    if handler is signal.default_int_handler:
        return True
    return isinstance(handler, functools.partial) and handler.func.__module__ == asyncio.runners.__name__
