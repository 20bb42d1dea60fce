"""The ledger of a HotSwapPool: who has which connection, and the count of it all, across generations."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TypeAlias

from psycopg_pool import AsyncConnectionPool
from psycopg_pool.abc import ACT

from vault_pg.pool.generation import Borrow, Generation, Place
from vault_pg.pool.queue import WaitingLine

Loan: TypeAlias = tuple[Generation[ACT], float, asyncio.Task[object] | None, Place]
"""Whose connection it is, since when (monotonic) it is out, and who asked for it, where."""

CUT_OFF = "_vault_pg_cut_off"
"""The note of its loan that a connection keeps once it is cut off."""


class Ledger(AsyncConnectionPool[ACT]):
    """Loans and counters."""

    __slots__ = ("_borrowed", "_current", "_line", "_outgoing", "_past")
    _borrowed: dict[ACT, Loan[ACT]]
    _current: Generation[ACT]
    _line: WaitingLine[Generation[ACT]]
    _outgoing: list[Generation[ACT]]
    _past: Counter[str]
    """What the generations that are gone have counted."""

    def _loan(self, conn: ACT) -> Loan[ACT]:
        """Who has this connection. Raises KeyError if it is not out."""
        return self._cut_off(conn) or self._borrowed[conn]

    def _cut_off(self, conn: ACT) -> Loan[ACT] | None:
        return conn.__dict__.get(CUT_OFF) if getattr(conn, "_pool", None) is self else None

    def _let_go(self, generation: Generation[ACT]) -> None:
        """Whoever was cut off may never return what is left of the connection. From here on that keeps the note of its loan itself, so
        that it is gone once nobody holds it any more.
        """
        for conn, (lender, since, _, place) in [*self._borrowed.items()]:
            if lender is generation:
                del self._borrowed[conn]
                conn.__dict__[CUT_OFF] = (generation, since, None, place)

    @property
    def borrowers(self) -> list[Borrow[ACT]]:
        """Who holds which connection, since when."""
        return [
            Borrow(conn, generation, since, task.get_name() if task else "no task", f"{code.co_filename}:{line}")
            for conn, (generation, since, task, (code, line)) in self._borrowed.items()
        ]

    @property
    def in_use(self) -> int:
        """Connections of the serving pool that are out."""
        return self._current.in_use

    def _inner_counters(self) -> tuple[str, ...]:
        return (
            self._REQUESTS_QUEUED, self._REQUESTS_WAIT_MS,
            self._CONNECTIONS_NUM, self._CONNECTIONS_MS, self._CONNECTIONS_ERRORS, self._CONNECTIONS_LOST, self._RETURNS_BAD,
        )  # fmt: skip

    def _alive(self) -> list[Generation[ACT]]:
        return [self._current, *(g for g in self._outgoing if g is not self._current)]

    def get_stats(self) -> dict[str, int]:
        """psycopg_pool's statistics, counted on across generations, and `generation`, `generations_alive`, `pool_draining`."""
        stats = Counter(self._stats)
        stats.update(self._past)
        for generation in self._alive():
            stats.update({key: generation.counters()[key] for key in self._inner_counters()})
        return dict(stats) | self._get_measures()

    def pop_stats(self) -> dict[str, int]:
        """As `get_stats()`; the counters start anew."""
        stats = self.get_stats()
        self._stats, self._past = Counter(), Counter()
        for generation in self._alive():
            generation.pop_counters()
        return stats

    def _get_measures(self) -> dict[str, int]:
        return {
            self._POOL_MIN: self._min_size,
            self._POOL_MAX: self._max_size,
            self._POOL_SIZE: self._current.size,
            self._POOL_AVAILABLE: self._current.available,
            self._REQUESTS_WAITING: len(self._line) + self._current.waiting,
            "generation": self._current.number,
            "generations_alive": len(self._alive()),
            "pool_draining": sum(g.in_use for g in self._outgoing if g is not self._current),
        }
