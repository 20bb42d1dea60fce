"""Waiting for what must come, however slow the machine is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LONG = 60.0
"""Seconds; far more than anything takes, so that only what never comes fails."""

INTERVAL = 0.02


def until(check: Callable[[], T], what: str = "", *, timeout: float = LONG) -> T:
    """The first truthy answer of `check`."""
    deadline = time.monotonic() + timeout
    while not (answer := check()):
        assert time.monotonic() < deadline, f"still not after {timeout} s: {what or check}"
        time.sleep(INTERVAL)
    return answer


async def eventually(check: Callable[[], T], what: str = "", *, timeout: float = LONG) -> T:
    """The same, with the event loop running on between the looks."""
    deadline = time.monotonic() + timeout
    while not (answer := check()):
        assert time.monotonic() < deadline, f"still not after {timeout} s: {what or check}"
        await asyncio.sleep(INTERVAL)
    return answer
