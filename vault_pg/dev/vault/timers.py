"""What has to happen at a time: the end of leases and tokens, rotations of static roles."""

from __future__ import annotations

import heapq
import itertools
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

Job: TypeAlias = Callable[[], object]

log = logging.getLogger(__name__)


@dataclass(order=True, slots=True)
class Entry:
    when: float
    serial: int
    key: str = field(compare=False)
    job: Job = field(compare=False)


class Timers:
    """One job a key, run on a worker thread when its time has come. `now` is the clock that the times are of.

    Setting a key again moves it. While paused nothing becomes due; what was due meanwhile runs right after. Threads are daemons: they
    never keep a process from ending.
    """

    def __init__(self, now: Callable[[], float], *, workers: int = 4) -> None:
        self._now = now
        self._workers = workers
        self._changed = threading.Condition()
        self._heap: list[Entry] = []
        self._entries: dict[str, Entry] = {}
        self._serial = itertools.count()
        self._paused = False
        self._run = 0
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()

    def set(self, key: str, when: float, job: Job) -> None:
        with self._changed:
            entry = Entry(when, next(self._serial), key, job)
            self._entries[key] = entry
            heapq.heappush(self._heap, entry)
            self._changed.notify()

    def cancel(self, key: str) -> None:
        with self._changed:
            self._entries.pop(key, None)

    def pause(self, paused: bool = True) -> None:
        with self._changed:
            self._paused = paused
            self._changed.notify()

    def start(self) -> None:
        with self._changed:
            self._run += 1
            threading.Thread(target=self._keep_time, args=(self._run,), name="dev-vault-timers", daemon=True).start()
        for number in range(self._workers):
            threading.Thread(target=self._work, name=f"dev-vault-worker-{number}", daemon=True).start()

    def stop(self) -> None:
        """No job starts any more; one that runs is not waited for."""
        with self._changed:
            self._run += 1
            self._changed.notify()
        for _ in range(self._workers):
            self._jobs.put(None)

    def _keep_time(self, run: int) -> None:
        with self._changed:
            while self._run == run:
                wait = self._release_due()
                self._changed.wait(wait)

    def _release_due(self) -> float | None:
        """Hand out what is due; seconds until the next is, None where there is none."""
        if self._paused:
            return None
        while self._heap:
            entry = self._heap[0]
            current = self._entries.get(entry.key) is entry
            if current and entry.when > self._now():
                return entry.when - self._now()
            heapq.heappop(self._heap)
            if current:
                del self._entries[entry.key]
                self._jobs.put(entry.job)
        return None

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:
                log.exception("a timed job of the dev Vault failed")
