"""SIGTERM and SIGHUP as Ctrl-C: every way to end a command leaves its `with` blocks in order."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def on_ending(act: Callable[[], object]) -> Iterator[list[int]]:
    """Inside, SIGINT, SIGTERM and SIGHUP call `act` in the main thread (SIGINT also where a shell started us with it ignored).

    Gives the list of those that came, which grows.
    """
    came: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - signal's signature
        came.append(number)
        act()

    before = {number: signal.signal(number, handle) for number in ENDINGS}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupt() -> NoReturn:
    raise KeyboardInterrupt
