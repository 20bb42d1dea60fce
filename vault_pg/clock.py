"""The clock that leases are counted on, and how it is held against others.

Leases live in Vault's time, which runs on while this machine sleeps. `time.monotonic()` and the event loop's clock stand still
during a suspend, so instants are counted on CLOCK_BOOTTIME where the system has it. That stands still too where a whole virtual machine
is paused; then the wall clock, once it is set right, is the only one here that shows it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

Instant: TypeAlias = float
"""Seconds on the lease clock; only differences mean anything."""

Clock: TypeAlias = Callable[[], Instant]

SLEEP = 1.0
"""Seconds by which the lease clock may run ahead of the event loop's before that counts as a suspend."""

STEP = 2.0
"""Seconds that the wall clock may gain or lose from one look to the next; as much does any time service correct."""

AT_ONCE = 0.1
READS = 3
"""The clocks are read again, so often at most, where that took longer than so many seconds: a busy machine lets them not seem to part."""


def boottime() -> Instant:
    """Seconds since boot, suspends included; `time.monotonic()` on systems without CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


if not hasattr(time, "CLOCK_BOOTTIME"):  # pragma: no cover - macOS, whose monotonic clock sleeps too
    boottime = time.monotonic


def wall(instant: Instant, now: Instant) -> datetime:
    """The wall-clock time of an instant, as the wall clock stands now (UTC)."""
    return datetime.now(UTC) + timedelta(seconds=instant - now)


@dataclass(frozen=True, slots=True)
class Leap:
    """By how many seconds clocks have parted since they were looked at last."""

    slept: float
    """The lease clock ran ahead of the event loop's: so late are all its timers."""
    stepped: float
    """The wall clock ran ahead of the lease clock, or fell behind it."""


class Clocks:
    """The event loop's clock, the lease clock and the wall clock (Unix time), side by side."""

    def __init__(self, loop: Clock, lease: Clock = boottime, wall: Callable[[], float] = time.time) -> None:
        self._loop = loop
        self._lease = lease
        self._wall = wall
        self._ahead, self._offset = self._read()

    def look(self) -> Leap | None:
        """What has come between them since the last look, if it is more than nothing.

        Many short sleeps add up to one that counts. A wall clock that is set right bit by bit has not leapt.
        """
        ahead, offset = self._read()
        slept, stepped = ahead - self._ahead, offset - self._offset
        self._offset = offset
        if abs(slept) <= SLEEP and abs(stepped) <= STEP:
            return None
        self._ahead = ahead
        return Leap(slept, stepped)

    def _read(self) -> tuple[float, float]:
        for _ in range(READS):
            loop, lease, wall = self._loop(), self._lease(), self._wall()
            if self._loop() - loop <= AT_ONCE:
                break
        return lease - loop, wall - lease
