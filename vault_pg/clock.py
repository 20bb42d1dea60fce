"""The clock that leases are counted on.

Leases live in Vault's time, which runs on while this machine sleeps. `time.monotonic()` and the event loop's clock stand still
during a suspend, so instants are counted on CLOCK_BOOTTIME where the system has it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

Instant: TypeAlias = float
"""Seconds on the lease clock; only differences mean anything."""

Clock: TypeAlias = Callable[[], Instant]


def boottime() -> Instant:
    """Seconds since boot, suspends included; `time.monotonic()` on systems without CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


if not hasattr(time, "CLOCK_BOOTTIME"):  # pragma: no cover - macOS, whose monotonic clock sleeps too
    boottime = time.monotonic


def wall(instant: Instant, now: Instant) -> datetime:
    """The wall-clock time of an instant, as the wall clock stands now (UTC)."""
    return datetime.now(UTC) + timedelta(seconds=instant - now)
